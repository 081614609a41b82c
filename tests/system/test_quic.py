"""Tunnels over QUIC: everything that an endpoint is over WebSocket, and what is different below it."""

from __future__ import annotations

import hashlib
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Authority
from tests.support.http import ask, request
from tests.support.issuer import Issuer
from tests.support.ports import reserved
from tests.support.process import until
from tests.support.raw import Raw
from tests.support.service import Exchange, Service, TcpService
from tests.support.tidegate import Gateway
from tests.system.load import Visitors
from tests.system.over_quic import Quic
from tests.system.test_draining import Held


@pytest.fixture(scope="module")
def quic(authority: Authority) -> Quic:
    """Both ends trust it."""
    return Quic(authority)


def tunnels(gateway: Gateway, endpoint: str) -> list[dict[str, Any]]:
    """What the gateway says of each tunnel of an endpoint."""
    found = [each for each in gateway.status()["endpoints"] if each["name"] == endpoint]
    return [tunnel for each in found for tunnel in each["listeners"]]


def test_an_endpoint_over_quic_is_one_like_any_other(quic: Quic, service: Service) -> None:
    options = ("--admin", "127.0.0.1:0")
    with (
        Gateway(quic.config()) as gateway,
        quic.agent(gateway.agents, "http", "web", service.address, *options, connections=2) as agent,
    ):
        gateway.until_offered("web", 2)
        body = b"x" * 3_000_000
        answer = request(gateway.proxy, "/big", endpoint="web", method="POST", body=body)
        assert answer.status == 200
        with ThreadPoolExecutor(8) as pool:
            found = pool.map(lambda n: request(gateway.proxy, f"/{n}", endpoint="web").status, range(200))
            assert set(found) == {200}
        assert [tunnel["transport"] for tunnel in tunnels(gateway, "web")] == ["quic", "quic"]
        assert all(0 < tunnel["rtt_ms"] < 5000 and tunnel["bytes_in"] > 0 for tunnel in tunnels(gateway, "web"))
        admin = agent.event("listening", listener="admin")["address"]
        known = request(admin, "/status").json()["endpoints"][0]["tunnels"]
        assert [tunnel["transport"] for tunnel in known] == ["quic", "quic"]
        listener = next(each for each in gateway.status()["listeners"] if each["name"] == "agents")
        assert listener["transports"] == ["websocket", "quic"]
        assert listener["addresses"] == [gateway.agents]
        metrics = request(gateway.admin, "/metrics").text
        assert 'tidegate_quic_handshakes_total{listener="agents",outcome="full"} 2' in metrics
        assert 'tidegate_sessions{tenant="",endpoint="web",transport="quic"} 2' in metrics


def test_both_transports_stand_beside_each_other_and_share_the_load(quic: Quic, service: Service) -> None:
    with (
        Gateway(quic.config()) as gateway,
        quic.agent(gateway.agents, "http", "web", service.address),
        quic.agent(gateway.agents, "http", "web", service.address, transport="websocket"),
    ):
        gateway.until_offered("web", 2)
        assert {tunnel["transport"] for tunnel in tunnels(gateway, "web")} == {"quic", "websocket"}
        assert {request(gateway.proxy, endpoint="web").status for _ in range(20)} == {200}
        assert all(tunnel["bytes_in"] > 1000 for tunnel in tunnels(gateway, "web"))


def test_quic_alone_opens_no_tcp_port(quic: Quic, service: Service) -> None:
    with (
        Gateway(quic.config(transports=["quic"])) as gateway,
        quic.agent(gateway.agents, "http", "web", service.address),
    ):
        gateway.until_offered("web")
        assert request(gateway.proxy, endpoint="web").status == 200
        host, _, port = gateway.agents.rpartition(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), timeout=5)


def test_streams_of_bytes_end_in_each_direction_by_itself(quic: Quic) -> None:
    def digest(connection: socket.socket) -> None:
        known = hashlib.sha256()
        while data := connection.recv(65536):
            known.update(data)
        connection.sendall(known.hexdigest().encode())

    config = quic.config()
    config["listeners"]["db"] = {"bind": "127.0.0.1:0", "kind": "tcp", "to": {"endpoint": "db"}}
    with (
        TcpService(digest) as service,
        Gateway(config) as gateway,
        quic.agent(gateway.agents, "tcp", "db", service.address),
    ):
        gateway.until_offered("db")
        for size in (0, 1, 5_000_000):
            data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
            with Raw(gateway.address("db")) as downstream:
                downstream.send(data)
                downstream.end()
                assert downstream.rest().decode() == hashlib.sha256(data).hexdigest()


def test_an_agent_shows_its_token_and_is_refused_in_the_same_words(
    quic: Quic, service: Service, tmp_path: Path
) -> None:
    issuer = Issuer(tmp_path)
    config = quic.config(auth={"verifiers": [issuer.name]}) | {"verifiers": {issuer.name: issuer.source}}
    with Gateway(config) as gateway:
        words = (gateway.agents, "http", "web", service.address)
        for token, sentence in ((None, "missing authorization"), ("bad", "invalid token")):
            shown = ("--token", token) if token else ()
            with quic.agent(*words, *shown, wait=False) as agent:
                assert agent.wait() == 1
                assert sentence in agent.event("refused")["reason"]
        other = issuer.token("other")
        with quic.agent(*words, "--token", other, wait=False) as agent:
            assert agent.wait() == 1
            assert "endpoint not permitted" in agent.event("refused")["reason"]
        with quic.agent(*words, "--token", issuer.token("web")):
            gateway.until_offered("web")
            assert request(gateway.proxy, endpoint="web").status == 200


def test_an_agent_renews_its_token_without_a_failed_request(quic: Quic, service: Service, tmp_path: Path) -> None:
    issuer, file, stop = Issuer(tmp_path), tmp_path / "token", threading.Event()

    def keep_renewing() -> None:
        while True:
            fresh = file.with_suffix(".new")
            fresh.write_text(issuer.token("web", expires=6))
            fresh.replace(file)
            if stop.wait(1.5):
                return

    thread = threading.Thread(target=keep_renewing)
    thread.start()
    config = quic.config(auth={"verifiers": [issuer.name]}) | {"verifiers": {issuer.name: issuer.source}}
    try:
        until(file.exists, "there is a token")
        with (
            Gateway(config) as gateway,
            quic.agent(gateway.agents, "http", "web", service.address, "--token-file", file) as agent,
            Visitors.of(gateway.proxy, "web") as visitors,
        ):
            agent.until_connected(times=3)
            visitors.until_served(50)
        assert visitors.lost == []
    finally:
        stop.set()
        thread.join()


def test_a_gateway_that_leaves_finishes_what_runs_and_its_agents_go_elsewhere(quic: Quic) -> None:
    answer = Held()
    with ExitStack() as stack:
        service = stack.enter_context(Service(answer))
        stack.callback(answer.release.set)
        leaving, staying = (stack.enter_context(Gateway(quic.config())) for _ in range(2))
        both = (leaving.agents, "http", "web", service.address, "--connect", f"https://{staying.agents}")
        stack.enter_context(quic.agent(*both))
        leaving.until_offered("web")
        running = ask(leaving.proxy, "/stay", endpoint="web")
        answer.until_arrived()

        leaving.signal(signal.SIGTERM)
        staying.until_offered("web")
        assert request(staying.proxy, endpoint="web").status == 200
        answer.release.set()
        assert running.result(20).text == "finished"
        assert leaving.wait() == 0
        assert leaving.event("stopped")["clean"] is True


def test_an_agent_that_leaves_costs_no_request(quic: Quic, service: Service) -> None:
    with Gateway(quic.config()) as gateway, ExitStack() as stack:
        words = (gateway.agents, "http", "web", service.address)
        agents = [stack.enter_context(quic.agent(*words)) for _ in range(3)]
        gateway.until_offered("web", 3)
        with Visitors.of(gateway.proxy, "web") as visitors:
            for agent in agents[1:]:
                agent.signal(signal.SIGTERM)
                assert agent.wait() == 0
                visitors.until_served(30)
        assert visitors.lost == []


def test_an_agent_comes_back_to_a_gateway_that_was_killed(quic: Quic, service: Service) -> None:
    with ExitStack() as stack:
        bind = stack.enter_context(reserved())
        watched = {"tunnel": {"ping_interval": 0.5, "ping_timeout": 0.5}}
        hurried = {"TIDEGATE_TUNNEL_PING_INTERVAL": "0.5", "TIDEGATE_TUNNEL_PING_TIMEOUT": "0.5"}
        first = stack.enter_context(Gateway(quic.config(bind=bind) | watched))
        agent = stack.enter_context(quic.agent(bind, "http", "web", service.address, env=hurried))
        first.kill()
        agent.event("disconnected")
        second = stack.enter_context(Gateway(quic.config(bind=bind)))
        second.until_offered("web")
        assert request(second.proxy, endpoint="web").status == 200


def test_the_reason_is_told_where_nobody_answers_or_nobody_is_trusted(
    quic: Quic, service: Service, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stranger = Quic(Authority(tmp_path_factory.mktemp("stranger")))
    with Gateway(quic.config()) as gateway, Gateway(quic.config(transports=["websocket"])) as without:
        with stranger.agent(gateway.agents, "http", "web", service.address, wait=False) as agent:
            assert "TLS over QUIC failed" in agent.event("disconnected")["reason"]
        env = {"TIDEGATE_TIMEOUTS_HANDSHAKE": "1"}
        # Of its two addresses the other one is silent.
        name = f"localhost:{gateway.agents.rpartition(':')[2]}"
        with stranger.agent(name, "http", "web", service.address, wait=False, env=env) as agent:
            assert "TLS over QUIC failed" in agent.event("disconnected")["reason"]
        with quic.agent(without.agents, "http", "web", service.address, wait=False, env=env) as agent:
            port = without.agents.rpartition(":")[2]
            assert f"no answer on UDP {port}" in agent.event("disconnected")["reason"]


def test_an_agent_shows_a_certificate_where_one_is_asked_for(quic: Quic, service: Service) -> None:
    cert, key = quic.authority.issue("agent", use="clientAuth")
    demanding = quic.tls | {"client_ca": str(quic.authority.ca)}
    with Gateway(quic.config(tls=demanding)) as gateway:
        words = (gateway.agents, "http", "web", service.address)
        with quic.agent(*words, wait=False) as agent:
            assert "certificate" in agent.event("disconnected")["reason"].lower()
        with quic.agent(*words, "--connect-cert", cert, "--connect-key", key):
            gateway.until_offered("web")
            assert request(gateway.proxy, endpoint="web").status == 200


def test_an_agent_offers_in_the_tenant_of_its_token_and_in_no_other(
    quic: Quic, service: Service, tmp_path: Path
) -> None:
    issuers = {name: Issuer(tmp_path, "ES256", name=name) for name in ("acme", "umbrella")}
    auth = {"verifiers": list(issuers)}
    config = {
        "verifiers": {name: issuer.source | {"tenant": name} for name, issuer in issuers.items()},
        "tenants": {name: {"verifiers": [name]} for name in issuers},
        "listeners": {"agents": quic.listener(auth=auth), "acme-agents": quic.listener(auth=auth, tenant="acme")},
    }
    tokens = {name: issuer.token("web") for name, issuer in issuers.items()}
    with Gateway(config) as gateway, ExitStack() as stack:
        for name, token in tokens.items():
            stack.enter_context(quic.agent(gateway.agents, "http", "web", service.address, "--token", token))
            gateway.event("agent connected", tenant=name, endpoint="web")
        words = (gateway.address("acme-agents"), "http", "web", service.address)
        with quic.agent(*words, "--token", tokens["umbrella"], wait=False) as agent:
            assert agent.wait() == 1
            assert "unknown tenant" in agent.event("refused")["reason"]
        stack.enter_context(quic.agent(*words, "--token", tokens["acme"]))
        offered = {each["tenant"]: len(each["listeners"]) for each in gateway.status()["endpoints"]}
        assert offered == {"acme": 2, "umbrella": 1}


def test_answers_that_nobody_reads_take_little_memory(quic: Quic) -> None:
    def large(exchange: Exchange) -> None:
        exchange.read()
        exchange.answer("200 OK", b"y" * 20_000_000)

    def visitor(address: str) -> socket.socket:
        host, _, port = address.rpartition(":")
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((host, int(port)))
        connection.sendall(b"GET / HTTP/1.1\r\nHost: web\r\nx-tidegate-endpoint: web\r\n\r\n")
        return connection

    with (
        Service(large) as service,
        Gateway(quic.config()) as gateway,
        quic.agent(gateway.agents, "http", "web", service.address),
    ):
        gateway.until_offered("web")

        def came() -> int:
            return int(tunnels(gateway, "web")[0]["bytes_in"])

        before, peaks = gateway.peak_memory(), list[int]()
        for _ in range(2):
            with ExitStack() as stack:
                seen = [came()]
                for _ in range(60):
                    stack.enter_context(visitor(gateway.proxy))

                def at_rest(seen: list[int] = seen) -> bool:
                    seen.append(came())
                    return seen[-1] - seen[0] > 60_000_000 and seen[-1] - seen[-20:][0] < 10_000

                # More than any window holds, then nothing.
                until(at_rest, "nothing more comes")
            peaks.append(gateway.peak_memory())
        assert peaks[0] - before < 75 << 20
        # What the first have left is used again.
        assert peaks[1] - peaks[0] < 20 << 20


def test_what_the_service_answers_arrives_whole_however_large(quic: Quic) -> None:
    def large(exchange: Exchange) -> None:
        exchange.read()
        exchange.answer("200 OK", b"y" * 20_000_000)

    with (
        Service(large) as service,
        Gateway(quic.config()) as gateway,
        quic.agent(gateway.agents, "http", "web", service.address),
    ):
        gateway.until_offered("web")
        assert len(request(gateway.proxy, endpoint="web").body) == 20_000_000
