"""`tidegate quic-client` and `quic-client-tcp` at a server of quic-reverse-http-tunnel."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.interop.programs import QuicServer, Service, all_come_back
from tests.support.http import request
from tests.support.ports import reserved
from tests.support.predecessors import QuicTunnel
from tests.support.process import until
from tests.support.raw import Raw

SOME = bytes(range(256)) * 4_000


@pytest.fixture
def server(tunnel: QuicTunnel) -> Iterator[QuicServer]:
    """A server without agents."""
    with QuicServer(tunnel.authority) as server:
        yield server


def connect(server: QuicServer, target: str, early: bytes = b"") -> Raw:
    """A connection that has asked for a target, and said something before the answer."""
    downstream = Raw(server.tcp)
    downstream.send(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode() + early)
    return downstream


def test_every_stream_leads_to_the_upstream(server: QuicServer, tunnel: QuicTunnel, service: Service) -> None:
    with tunnel.client(server.quic, upstream=service.http):
        server.until_offered()
        all_come_back("--http", f"http://{server.tcp}", "--count", "500")


def test_500_connections_run_at_once(server: QuicServer, tunnel: QuicTunnel, service: Service) -> None:
    with tunnel.client(server.quic, upstream=service.echo):
        server.until_offered()
        all_come_back("--tcp", server.tcp, "--count", "500", "--bytes", "200000")


def test_connect_leads_to_a_target_that_is_allowed(server: QuicServer, tunnel: QuicTunnel, service: Service) -> None:
    with tunnel.client(server.quic, "--allow", service.echo):
        server.until_offered()
        with connect(server, service.echo, early=SOME) as downstream:
            downstream.end()
            assert downstream.until(b"\r\n\r\n") == b"HTTP/1.1 200 OK\r\n\r\n"
            assert downstream.rest() == SOME


def test_without_a_list_the_agents_own_machine_is_closed(
    server: QuicServer, tunnel: QuicTunnel, service: Service
) -> None:
    with tunnel.client(server.quic) as client:
        server.until_offered()
        client.says("--allow")
        for target in (service.echo, "localhost:1", "[::1]:1", "169.254.169.254:80", "[fe80::1]:1"):
            with connect(server, target) as downstream:
                answer = downstream.answer()
                assert answer.status == 400, target
                assert b"loopback" in answer.body or b"allow" in answer.body, answer.body


def test_other_methods_and_targets_that_cannot_be_reached_are_refused(server: QuicServer, tunnel: QuicTunnel) -> None:
    with tunnel.client(server.quic, "--allow", "127.0.0.1"):
        server.until_offered()
        with connect(server, "127.0.0.1:1") as downstream:
            answer = downstream.answer()
            assert answer.status == 400
            assert b"nothing listens on 127.0.0.1:1" in answer.body
        with Raw(server.tcp) as downstream:
            downstream.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert downstream.answer().status == 405


def test_the_admin_port_of_the_agent_is_no_target(server: QuicServer, tunnel: QuicTunnel) -> None:
    with reserved() as admin, tunnel.client(server.quic, "--allow", "127.0.0.0/8", "--admin", admin):
        server.until_offered()
        assert request(admin, "/health").status == 200
        with connect(server, admin) as downstream:
            assert downstream.answer().status == 400


def test_each_direction_ends_by_itself(server: QuicServer, tunnel: QuicTunnel, service: Service) -> None:
    with tunnel.client(server.quic, upstream=service.echo):
        server.until_offered()
        with Raw(server.tcp) as downstream:
            downstream.send(SOME)
            downstream.end()
            assert downstream.rest() == SOME


def test_an_agent_comes_back_however_its_session_ended(
    server: QuicServer, tunnel: QuicTunnel, service: Service
) -> None:
    with tunnel.client(server.quic, upstream=service.echo):
        for times, how in enumerate(("close", "error"), start=1):
            server.until_offered(agents=times)
            assert server.end(how) == 1
        server.until_offered(agents=3)
        all_come_back("--tcp", server.tcp, "--count", "20")


def test_an_agent_waits_longer_each_time_for_a_server_that_is_away(tunnel: QuicTunnel, service: Service) -> None:
    with QuicServer(tunnel.authority) as gone:
        address = gone.quic
    with tunnel.client(address, upstream=service.echo) as client:
        waits = [float(client.event("disconnected", nth=nth, deadline=60)["retry_in"]) for nth in (1, 2)]
        assert all(wait > 0 for wait in waits)
        with QuicServer(tunnel.authority, "--listen-quic", address) as server:
            server.until_offered()


def test_streams_that_are_not_read_hold_up_no_other_agent(tunnel: QuicTunnel, service: Service) -> None:
    with (
        QuicServer(tunnel.authority) as stalled,
        QuicServer(tunnel.authority) as good,
        tunnel.client(stalled.quic, upstream=service.echo) as client,
        tunnel.client(good.quic, upstream=service.echo),
    ):
        stalled.until_offered()
        good.until_offered()
        with Raw(stalled.tcp) as downstream:
            downstream.send(b"x")
            assert downstream.take(1) == b"x"
            assert stalled.end("stall") == 1
            all_come_back("--tcp", good.tcp, "--count", "20")
            assert not client.seen("disconnected")


def test_ipv6_is_dialled(tunnel: QuicTunnel, service: Service) -> None:
    with QuicServer(tunnel.authority, host="[::1]") as server, tunnel.client(server.quic, upstream=service.echo):
        server.until_offered()
        all_come_back("--tcp", server.tcp, "--count", "20")


def test_a_server_with_another_name_is_refused(tunnel: QuicTunnel, service: Service) -> None:
    with (
        QuicServer(tunnel.authority, name="localhost") as server,
        tunnel.client(server.quic, upstream=service.echo) as client,
    ):
        assert "certificate" in str(client.event("disconnected")["reason"])
        assert not server.seen("agent connected")


def test_what_runs_is_finished_when_the_agent_leaves(server: QuicServer, tunnel: QuicTunnel, service: Service) -> None:
    with tunnel.client(server.quic, upstream=service.echo) as client:
        server.until_offered()
        with Raw(server.tcp) as downstream:
            downstream.send(b"before")
            assert downstream.take(6) == b"before"
            client.signal(signal.SIGTERM)
            client.event("draining")
            downstream.send(b"after")
            assert downstream.take(5) == b"after"
            downstream.end()
            assert downstream.rest() == b""
            assert client.wait() == 0
            until(lambda: server.seen("agent disconnected"), "the session has ended")
