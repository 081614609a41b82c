"""Access logs of gateway and agent: one JSON object for each request, by whoever answered it."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from tests.support import access
from tests.support.process import until
from tests.support.raw import Raw
from tests.support.service import TcpService, echo
from tests.support.tidegate import Agent, Gateway
from tests.support.tools import curl
from tests.system.site import Site


def test_the_gateway_logs_who_asked_for_what_and_what_became_of_it(site: Site) -> None:
    got = curl("-X", "POST", "--data", "hello", site.url("/logged?q=1"))

    line = access.line(site.gateway, path="/logged?q=1")
    assert line["client"].startswith("127.0.0.1:")
    assert line["listener"] == "proxy"
    assert line["method"] == "POST"
    assert line["host"] == f"web.localhost:{site.port}"
    assert line["endpoint"] == "web"
    assert line["upstream"].startswith("session ")
    assert line["attempts"] == 1
    assert line["status"] == 200
    assert line["bytes_in"] == 5
    assert line["bytes_out"] == len(got.body)
    assert 0 < line["first_byte_ms"] <= line["duration_ms"] < 20_000
    assert line["answered"] == "upstream"
    assert not line["error"]
    assert line["id"]


def test_the_agent_logs_the_same_request_with_its_service(site: Site) -> None:
    curl(site.url("/logged-by-the-agent"))

    line = access.line(site.agent, path="/logged-by-the-agent")
    assert (line["method"], line["status"], line["endpoint"]) == ("GET", 200, "web")
    assert line["upstream"] == site.service.address
    assert line["answered"] == "upstream"


def test_an_answer_of_the_gateway_is_logged_as_such(site: Site) -> None:
    got = curl("-H", "x-tidegate-endpoint: nobody", f"http://{site.proxy}/answered-by-the-gateway")

    line = access.line(site.gateway, path="/answered-by-the-gateway")
    assert (line["status"], line["answered"], line["error"]) == (502, "gateway", "no_upstream")
    assert line["id"] == got.field("x-tidegate-request-id")


def test_an_answer_of_the_agent_is_logged_as_such() -> None:
    with Site() as site:
        site.service.close()
        curl(site.url("/nobody-home"))
        line = access.line(site.gateway, path="/nobody-home")
        assert (line["status"], line["answered"], line["error"]) == (502, "agent", "upstream_unreachable")


def test_bytes_of_a_stranger_cannot_forge_a_line(site: Site) -> None:
    with site.connect() as downstream:
        downstream.send(b'GET /\x1b[31m"forged HTTP/1.1\r\nHost: web.example.com\r\n\r\n')
        assert downstream.take(4) == b"HTTP"
    curl(site.url("/after-the-forgery"))
    access.line(site.gateway, path="/after-the-forgery")

    assert "\x1b" not in site.gateway.log
    for line in site.gateway.log.splitlines():
        json.loads(line)


def test_tcp_streams_are_logged_with_their_bytes() -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"goodbye")

    config = {"listeners": {"db": {"bind": "127.0.0.1:0", "kind": "tcp", "to": {"endpoint": "db"}}}}
    with (
        TcpService(answer) as service,
        Gateway(config) as gateway,
        Agent(gateway.agents, "tcp", "db", service.address) as agent,
    ):
        gateway.until_offered("db")
        with Raw(gateway.address("db")) as downstream:
            downstream.send(b"hello")
            assert downstream.rest() == b"goodbye"
        line = access.line(gateway, listener="db")
        assert (line["endpoint"], line["bytes_in"], line["bytes_out"]) == ("db", 5, 7)
        assert access.line(agent, endpoint="db")["bytes_out"] == 7


def test_the_log_goes_to_a_file(tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    with Site(config={"access_log": {"to": str(file)}}) as site:
        curl(site.url("/to-the-file"))
        until(lambda: file.exists() and "/to-the-file" in file.read_text(), "the line stands in the file")
        assert access.lines(site.gateway) == []


def test_the_log_can_be_turned_off() -> None:
    with Site(echo, {"access_log": {"to": "off"}}) as site:
        curl(site.url("/unlogged"))
        access.line(site.agent, path="/unlogged")
        assert access.lines(site.gateway) == []
