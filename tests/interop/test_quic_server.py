"""`tidegate quic-server` and the agents of quic-reverse-http-tunnel."""

from __future__ import annotations

import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.interop.programs import TUNNEL_SERVER, QuicAgent, Service, all_come_back
from tests.support.certificates import Authority
from tests.support.http import request
from tests.support.predecessors import QuicServer, QuicTunnel
from tests.support.process import DEADLINE, until
from tests.support.raw import Raw, told_by
from tests.support.tidegate import Gateway
from tests.support.tools import need

SOME = bytes(range(256)) * 4_000


@pytest.fixture
def server(tunnel: QuicTunnel) -> Iterator[QuicServer]:
    """A server without agents."""
    with tunnel.server() as server:
        yield server


def agent(server: QuicServer, tunnel: QuicTunnel, *flags: str, name: str = "agent") -> QuicAgent:
    """An agent whose session the server has entered."""
    before = len(server.seen("agent connected"))
    agent = QuicAgent(server.quic, tunnel.authority, *flags, name=name)
    server.until_offered(before + 1)
    return agent


def curl(proxy: str, target: str) -> str:
    """What a target answers through a tunnel of CONNECT."""
    words = [need("curl"), "-sS", "--fail", "--noproxy", "", "-p", "--proxy", f"http://{proxy}", f"http://{target}/"]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=30).stdout


def good_ones(downstreams: list[Raw]) -> list[Raw]:
    """The half of them that has been answered, once it has."""
    readable, _, _ = select.select([downstream.socket for downstream in downstreams], [], [], DEADLINE)
    found = [downstream for downstream in downstreams if downstream.socket in readable]
    return found if len(found) == len(downstreams) // 2 else []


def fill(downstream: Raw) -> None:
    """Sends until nothing more is taken for a while."""
    downstream.socket.settimeout(0.5)
    with pytest.raises(TimeoutError):
        downstream.send(bytes(64 << 20))


def descriptors(server: QuicServer) -> int:
    """Open files and sockets of the server."""
    return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))


def test_requests_reach_the_upstream_of_an_agent(server: QuicServer, tunnel: QuicTunnel, service: Service) -> None:
    with agent(server, tunnel, "--upstream", service.http):
        assert request(server.tcp).status == 200
        all_come_back("--http", f"http://{server.tcp}", "--count", "500")


def test_500_connections_run_at_once(server: QuicServer, tunnel: QuicTunnel, service: Service) -> None:
    with agent(server, tunnel, "--upstream", service.echo):
        all_come_back("--tcp", server.tcp, "--count", "500", "--bytes", "200000")


def test_curl_reaches_what_an_agent_reaches(server: QuicServer, tunnel: QuicTunnel, service: Service) -> None:
    with agent(server, tunnel):
        words = [need("curl"), "-sS", "--fail", "--noproxy", "", "-p", "--proxy", f"http://{server.tcp}"]
        got = subprocess.run(
            [*words, f"http://{service.http}/"], capture_output=True, text=True, check=True, timeout=30
        )
        assert got.stdout == f"hello from {service.http}\n"


def test_each_direction_ends_by_itself(server: QuicServer, tunnel: QuicTunnel, service: Service) -> None:
    with agent(server, tunnel, "--upstream", service.echo), Raw(server.tcp) as downstream:
        downstream.send(SOME)
        downstream.end()
        assert downstream.rest() == SOME


def test_ipv6_is_spoken_on_both_ports(tunnel: QuicTunnel, service: Service) -> None:
    with tunnel.server(host="[::1]") as server, agent(server, tunnel, "--upstream", service.echo):
        assert server.quic.startswith("[::1]:")
        all_come_back("--tcp", server.tcp, "--count", "20")


def test_the_agent_with_the_fewest_streams_is_next(server: QuicServer, tunnel: QuicTunnel, service: Service) -> None:
    with ExitStack() as stack:
        for name in ("one", "two", "three"):
            stack.enter_context(agent(server, tunnel, "--upstream", service.echo, name=name))
        for _ in range(12):
            downstream = stack.enter_context(Raw(server.tcp))
            downstream.send(b"x")
            assert downstream.take(1) == b"x"
        assert server.streams() == [4, 4, 4]


def test_a_stuck_agent_holds_up_nobody_else(server: QuicServer, tunnel: QuicTunnel, service: Service) -> None:
    with (
        agent(server, tunnel, "--stuck", name="stuck"),
        agent(server, tunnel, "--upstream", service.echo, name="good"),
        ExitStack() as stack,
    ):
        downstreams = [stack.enter_context(Raw(server.tcp)) for _ in range(6)]
        for downstream in downstreams:
            downstream.send(b"x")
        # The good one answers its half. What is left makes the stuck one the busier of the two.
        answered = until(lambda: good_ones(downstreams), "three have an answer")
        for downstream in answered:
            downstream.close()
        fill(next(downstream for downstream in downstreams if downstream not in answered))
        for _ in range(20):
            with Raw(server.tcp, timeout=5) as downstream:
                downstream.send(b"x")
                assert downstream.take(1) == b"x"


@pytest.mark.parametrize("flags", [None, ("--streams", "-1")], ids=["no agent", "no stream"])
def test_a_downstream_without_a_stream_is_let_go(
    server: QuicServer, tunnel: QuicTunnel, flags: tuple[str, ...] | None
) -> None:
    with ExitStack() as stack:
        if flags is not None:
            stack.enter_context(agent(server, tunnel, *flags))
        before = descriptors(server)
        for _ in range(5):
            assert told_by(server.tcp) == b""
        until(lambda: descriptors(server) <= before, "no socket is left")


def test_an_agent_that_has_gone_silent_is_noticed(server: QuicServer, tunnel: QuicTunnel, service: Service) -> None:
    with (
        agent(server, tunnel, "--upstream", service.echo, name="silent") as silent,
        agent(server, tunnel, "--upstream", service.echo, name="good"),
    ):
        silent.signal(signal.SIGSTOP)
        server.event("agent disconnected", deadline=8)
        all_come_back("--tcp", server.tcp, "--count", "20")


def test_a_stranger_is_refused(server: QuicServer, tunnel: QuicTunnel, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other")
    cert, key = stranger.issue("stranger", use="clientAuth")
    with QuicAgent(
        server.quic, tunnel.authority, "--cert-file", str(cert), "--cert-key", str(key), wait=False
    ) as agent:
        # TLS 1.3: the client has finished before the server has looked at its certificate.
        reason = str(agent.event("disconnected")["reason"])
        assert "certificate" in reason or "CRYPTO_ERROR" in reason
        assert not server.seen("agent connected")


def test_what_runs_is_finished_when_the_server_leaves(server: QuicServer, tunnel: QuicTunnel, service: Service) -> None:
    with agent(server, tunnel, "--upstream", service.echo) as known, Raw(server.tcp) as downstream:
        downstream.send(b"before")
        assert downstream.take(6) == b"before"
        server.signal(signal.SIGTERM)
        server.event("draining")
        downstream.send(b"after")
        assert downstream.take(5) == b"after"
        downstream.end()
        assert downstream.rest() == b""
        assert server.wait() == 0
        known.event("disconnected", reason="closed by peer: 0x2")


def test_the_status_names_the_transport(server: QuicServer, tunnel: QuicTunnel, service: Service) -> None:
    with agent(server, tunnel, "--upstream", service.echo):
        status = request(server.admin, "/status").json()
        (endpoint,) = (each for each in status["endpoints"] if each["name"] == "quic-tunnel")
        assert [session["transport"] for session in endpoint["listeners"]] == ["quic-tunnel"]


def test_a_gateway_leads_targets_to_them_and_a_reload_gives_them_another_name(
    tunnel: QuicTunnel, service: Service
) -> None:
    cert, key = tunnel.authority.issue(TUNNEL_SERVER)
    tls = {"certificates": [{"cert": str(cert), "key": str(key)}], "client_ca": str(tunnel.authority.ca)}

    def config(endpoint: str) -> dict[str, object]:
        old = {"kind": "tunnel", "transports": ["quic"], "quic_tunnel": {"endpoint": endpoint}, "tls": tls}
        out = {"kind": "connect", "to": [{"network": "127.0.0.0/8", "endpoint": endpoint}], "allow": ["127.0.0.1"]}
        return {"listeners": {"old": {"bind": "127.0.0.1:0", **old}, "out": {"bind": "127.0.0.1:0", **out}}}

    with Gateway(config("dc1")) as gateway, QuicAgent(gateway.address("old"), tunnel.authority):
        gateway.until_offered("dc1")
        assert curl(gateway.address("out"), service.http) == f"hello from {service.http}\n"
        gateway.write(config("dc2"))
        gateway.until_offered("dc2")
        assert curl(gateway.address("out"), service.http) == f"hello from {service.http}\n"
        until(lambda: [each["name"] for each in gateway.status()["endpoints"]] == ["dc2"], "the old name is gone")
