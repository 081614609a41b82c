"""What happens when a program is killed without a warning: agent, gateway, local service."""

from __future__ import annotations

import signal
import socket
import sys
import time

from tests.support.http import ask, request
from tests.support.process import Program, until
from tests.support.raw import Raw
from tests.support.service import Exchange, Service, TcpService
from tests.support.tidegate import Agent, Gateway
from tests.support.tools import find
from tests.system.load import Visitors
from tests.system.site import Site


def named(name: str) -> Service:
    """A service that answers with its name."""

    def answer(exchange: Exchange) -> None:
        exchange.read()
        exchange.answer("200 OK", name.encode())

    return Service(answer)


def test_after_a_killed_agent_its_endpoint_is_502_at_once() -> None:
    with Site() as site:
        site.agent.signal(signal.SIGKILL)
        site.gateway.event("agent disconnected", endpoint="web")

        start = time.monotonic()
        assert request(site.proxy, endpoint="web").status == 502
        assert time.monotonic() - start < 1


def test_a_request_that_runs_when_its_agent_is_killed_ends_with_502_at_once() -> None:
    asked: list[bool] = []

    def stay(exchange: Exchange) -> None:
        asked.append(True)
        exchange.socket.recv(1)

    with Site(stay) as site, Raw(site.proxy) as downstream:
        # A POST is not tried again: it may have been done.
        downstream.send(b"POST / HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 0\r\n\r\n")
        until(lambda: asked, "the request has arrived")
        start = time.monotonic()
        site.agent.signal(signal.SIGKILL)
        assert downstream.answer("POST").status == 502
        assert time.monotonic() - start < 2


def test_where_one_of_two_agents_is_killed_the_other_serves() -> None:
    with (
        named("a") as one,
        named("b") as other,
        Gateway() as gateway,
        Agent(gateway.agents, "http", "web", one.address, connections=2) as first,
        Agent(gateway.agents, "http", "web", other.address, connections=2),
    ):
        gateway.until_offered("web", 4)
        with Visitors.of(gateway.proxy, "web") as visitors:
            first.signal(signal.SIGKILL)
            gateway.event("agent disconnected", endpoint="web", nth=2)
            visitors.until_served(50)
        # GET is tried again at the other one; nothing else was going on.
        assert visitors.lost == []
        assert {request(gateway.proxy, endpoint="web").text for _ in range(10)} == {"b"}


def test_an_agent_that_is_stopped_without_a_word_is_found_out_by_pings() -> None:
    quick = {"tunnel": {"ping_interval": 0.5, "ping_timeout": 0.5}}
    with Site(config=quick) as site:
        site.agent.signal(signal.SIGSTOP)
        try:
            site.gateway.event("agent disconnected", endpoint="web")
            assert request(site.proxy, endpoint="web").status == 502
        finally:
            site.agent.signal(signal.SIGCONT)
        site.gateway.until_offered("web", 2)
        assert request(site.proxy, endpoint="web").status == 200


def test_agents_come_back_to_a_gateway_that_was_killed() -> None:
    with (
        named("a") as service,
        Gateway() as gateway,
        Agent(gateway.agents, "http", "web", service.address, connections=2) as agent,
    ):
        gateway.until_offered("web", 2)
        binds = {
            "proxy": {"bind": gateway.proxy},
            "agents": {"bind": gateway.agents, "kind": "tunnel"},
        }
        gateway.signal(signal.SIGKILL)
        gateway.wait()
        agent.event("disconnected", nth=4)
        with Gateway({"listeners": binds}) as again:
            again.until_offered("web", 2)
            assert request(again.proxy, endpoint="web").text == "a"

        waits = [event["retry_in"] for event in agent.seen("disconnected") if event["slot"] == 0]
        # 100 ms, doubled each time, give or take the jitter.
        assert 0 < waits[0] <= 0.2
        assert all(wait <= 15 for wait in waits)


def test_an_agent_waits_for_a_gateway_that_is_not_there_yet() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    with named("a") as service, Agent(address, "http", "web", service.address, wait=False) as agent:
        first = agent.event("disconnected")
        assert first["gateway"] == f"http://{address}"
        assert first["reason"] == f"nothing listens on {address}"
        agent.event("disconnected", nth=3)
        with Gateway({"listeners": {"agents": {"bind": address, "kind": "tunnel"}}}) as gateway:
            agent.until_connected()
            assert request(gateway.proxy, endpoint="web").text == "a"


def test_visitors_get_502_while_the_service_is_gone_and_answers_once_it_is_back() -> None:
    def serve(port: int) -> Program:
        command = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", str(port)]
        return Program(command, name="http.server")

    with serve(0) as service:
        found = find(service, r"port (\d+)")
        port = int(found[1])
        with Gateway() as gateway, Agent(gateway.agents, "http", "web", str(port)) as agent:
            gateway.until_offered("web")
            assert request(gateway.proxy, endpoint="web").status == 200

            service.signal(signal.SIGKILL)
            service.wait()
            gone = request(gateway.proxy, endpoint="web")
            assert (gone.status, gone.json()["error"]) == (502, "upstream unreachable")

            with serve(port):
                until(lambda: request(gateway.proxy, endpoint="web").status == 200, "the service is back")
            assert len(agent.seen("connected")) == 1, "the tunnel has nothing to do with it"


def test_a_kept_connection_that_the_service_has_closed_costs_no_request() -> None:
    def answer(exchange: Exchange) -> None:
        exchange.answer("200 OK", b"once", ("Keep-Alive", "timeout=0"))
        exchange.socket.shutdown(socket.SHUT_RDWR)

    with Site(answer) as site:
        # The end may cross with the next request: a GET is sent again, a POST could not be.
        for _ in range(30):
            assert request(site.proxy, endpoint="web").status == 200


def test_tcp_streams_of_a_killed_agent_are_reset() -> None:
    listeners = {"db": {"bind": "127.0.0.1:0", "kind": "tcp", "to": {"endpoint": "db"}}}
    with (
        TcpService(lambda connection: connection.sendall(connection.recv(5))) as service,
        Gateway({"listeners": listeners}) as gateway,
    ):
        agent = Agent(gateway.agents, "tcp", "db", service.address)
        gateway.until_offered("db")
        with Raw(gateway.address("db")) as downstream:
            until(lambda: gateway.status()["endpoints"][0]["listeners"][0]["streams"], "the stream is open")
            agent.kill()
            assert downstream.rest() == b""
        gone = ask(gateway.proxy, endpoint="db")
        assert gone.result(20).status == 502
