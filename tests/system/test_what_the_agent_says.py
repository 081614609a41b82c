"""What an agent and a forward tell the person who started them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.http import request
from tests.support.process import Program
from tests.support.raw import Raw
from tests.support.service import Service, TcpService
from tests.support.tidegate import Gateway, command
from tests.support.tools import find


@contextmanager
def told(gateway: Gateway, *words: str) -> Iterator[Program]:
    """An agent with everything in the form for people."""
    options = ["--connect", f"http://{gateway.agents}", "--log-format", "text", "--access-log-format", "text"]
    with Program(command("agent", *words, *options), name="agent") as agent:
        yield agent


def test_it_says_where_the_application_is() -> None:
    with Service() as service, Gateway() as gateway, told(gateway, "http", "web", service.address) as agent:
        port = gateway.proxy.rpartition(":")[2]
        agent.says(f"http://web.localhost:{port} -> http://{service.address}")
        # Once, although there are two tunnels.
        gateway.until_offered("web", 2)
        assert agent.log.count(" -> ") == 1


def test_it_says_the_public_address_where_the_gateway_has_one() -> None:
    config = {"public_url": "https://{endpoint}.gate.example.com"}
    with Service() as service, Gateway(config) as gateway, told(gateway, "http", "web", service.address) as agent:
        agent.says(f"https://web.gate.example.com -> http://{service.address}")


def test_it_picks_a_name_that_nobody_guesses() -> None:
    names = set()
    with Service() as service, Gateway() as gateway:
        for _ in range(2):
            with told(gateway, "http", service.address) as agent:
                found = find(agent, r"http://([^.]+)\.localhost:\d+ -> ")
                names.add(found[1])
                assert request(gateway.proxy, headers={"Host": f"{found[1]}.localhost"}).status == 200
    assert len(names) == 2
    # 16 characters of 32 are 80 bits.
    assert all(re.fullmatch(r"[a-z0-9]{16,}", name) for name in names), names


def test_it_says_one_line_for_each_request() -> None:
    with Service() as service, Gateway() as gateway, told(gateway, "http", "web", service.address) as agent:
        gateway.until_offered("web")
        for number in range(3):
            request(gateway.proxy, f"/page{number}", endpoint="web")
        agent.says("/page2")
        lines = [line for line in agent.log.splitlines() if "/page" in line]
        assert len(lines) == 3
        assert all("GET" in line and "200" in line for line in lines), lines


def test_it_warns_once_where_nothing_listens() -> None:
    with TcpService(lambda connection: None) as taken:
        nobody = taken.address
    with Gateway() as gateway, told(gateway, "http", "web", nobody) as agent:
        agent.says(f"nothing listens on {nobody}: visitors of web get 502 until something does")
        gateway.until_offered("web", 2)
        assert agent.log.count("nothing listens") == 1


def test_for_tcp_it_says_the_forward_to_use_and_that_works() -> None:
    with (
        TcpService(lambda connection: connection.sendall(b"hello")) as service,
        Gateway() as gateway,
        told(gateway, "tcp", "db", service.address) as agent,
    ):
        found = find(agent, r"tidegate (forward .*) -> tcp://")
        words = found[1].split()
        assert words == [
            "forward",
            str(service.port),
            "db",
            "--connect",
            f"http://localhost:{gateway.proxy.rpartition(':')[2]}",
        ]
        # Its port is the service's own, which is taken on this machine.
        words[1] = "127.0.0.1:0"
        with Program(command(*words, "--log-format", "json"), name="forward") as forward:
            address = str(forward.event("listening")["address"])
            with Raw(address) as downstream:
                assert downstream.rest() == b"hello"


def test_localhost_is_tried_at_both_addresses() -> None:
    for host in ("127.0.0.1", "::1"):
        with (
            Service(host=host) as service,
            Gateway() as gateway,
            told(gateway, "http", "web", str(service.port)) as agent,
        ):
            agent.says(f" -> http://localhost:{service.port}")
            assert request(gateway.proxy, endpoint="web").status == 200
