"""TLS on the way to the gateway and on the way to the local service, and the HTTP proxy in between."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.certificates import Authority
from tests.support.http import request
from tests.support.process import Program, until
from tests.support.raw import Raw, told_by
from tests.support.relay import ConnectProxy, Relay
from tests.support.service import Service, TcpService
from tests.support.tidegate import Forward, Gateway, Tidegate, command

NAMES = ("DNS:localhost", "IP:127.0.0.1")


class Agent(Tidegate):
    """An agent of the endpoint `web`, connected by the URL it is given."""

    def __init__(self, service: Service, url: str, *options: str, env: dict[str, str] | None = None) -> None:
        words = ("agent", "http", "web", service.address, "--connect", url, "--connections", "1")
        super().__init__(*words, *options, env=env)


def test_an_agent_trusts_the_authority_it_is_given(authority: Authority, service: Service) -> None:
    with (
        Gateway() as gateway,
        Relay(gateway.agents, authority.server(*NAMES)) as tls,
        Agent(service, f"https://localhost:{tls.port}", "--connect-ca", str(authority.ca)) as agent,
    ):
        agent.event("connected")
        assert request(gateway.proxy, endpoint="web").status == 200


def test_an_agent_does_not_trust_who_is_signed_by_nobody_it_knows(authority: Authority, service: Service) -> None:
    with (
        Gateway() as gateway,
        Relay(gateway.agents, authority.server(*NAMES)) as tls,
        Agent(service, f"https://localhost:{tls.port}") as agent,
    ):
        reason = agent.event("disconnected")["reason"]
        assert "certificate" in reason
        assert gateway.seen("agent connected") == []


def test_an_agent_does_not_trust_another_name(authority: Authority, service: Service) -> None:
    ca = ["--connect-ca", str(authority.ca)]
    with Gateway() as gateway, Relay(gateway.agents, authority.server("DNS:gate.example.com")) as tls:
        url = f"https://localhost:{tls.port}"
        with Agent(service, url, *ca) as agent:
            assert "certificate" in agent.event("disconnected")["reason"]
        with Agent(service, url, *ca, "--connect-server-name", "gate.example.com") as agent:
            agent.event("connected")


def test_an_agent_trusts_anybody_where_it_is_told_to(authority: Authority, service: Service) -> None:
    with (
        Gateway() as gateway,
        Relay(gateway.agents, authority.server("DNS:other")) as tls,
        Agent(service, f"https://localhost:{tls.port}", "--connect-insecure-skip-verify") as agent,
    ):
        agent.event("connected")


def test_an_agent_shows_its_certificate(authority: Authority, service: Service) -> None:
    ca = ["--connect-ca", str(authority.ca)]
    cert, key = authority.issue("agent", use="clientAuth")
    with Gateway() as gateway, Relay(gateway.agents, authority.demanding(*NAMES)) as tls:
        url = f"https://127.0.0.1:{tls.port}"
        with Agent(service, url, *ca, "--connect-cert", str(cert), "--connect-key", str(key)) as agent:
            agent.event("connected")
        with Agent(service, url, *ca) as agent:
            agent.event("disconnected")
            assert agent.seen("connected") == []


def test_an_authority_that_cannot_be_read_is_a_mistake_and_opens_nothing(service: Service) -> None:
    words = (
        "agent",
        "http",
        "web",
        service.address,
        "--connect",
        "https://localhost:1",
        "--connect-ca",
        "/nonexistent.pem",
    )
    ended = subprocess.run(command(*words), capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode in (1, 2)
    assert "/nonexistent.pem" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_forward_goes_through_tls(authority: Authority) -> None:
    with (
        TcpService(lambda connection: connection.sendall(b"hello")) as database,
        Gateway() as gateway,
        Relay(gateway.proxy, authority.server(*NAMES)) as tls,
        Program(command("agent", "tcp", "db", database.address, "--connect", f"http://{gateway.agents}"), name="agent"),
    ):
        gateway.until_offered("db")
        words = (
            "forward",
            "127.0.0.1:0",
            "db",
            "--connect",
            f"https://localhost:{tls.port}",
            "--connect-ca",
            str(authority.ca),
        )
        with Tidegate(*words) as forward, Raw(str(forward.event("listening")["address"])) as downstream:
            assert downstream.rest() == b"hello"


def test_a_service_with_a_certificate_is_reached(authority: Authority, service: Service) -> None:
    with Gateway() as gateway, Relay(service.address, authority.server(*NAMES)) as tls:
        words = ("agent", "http", "web", f"https://localhost:{tls.port}", "--connect", f"http://{gateway.agents}")
        for options, status in (
            (("--ca", str(authority.ca)), 200),
            (("--service-insecure-skip-verify",), 200),
            ((), 502),
        ):
            with Tidegate(*words, *options) as agent:
                agent.event("connected")
                assert request(gateway.proxy, endpoint="web").status == status
                agent.stop()


PROXY_NAMES = (
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
)


@pytest.fixture(autouse=True)
def _no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXY_NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy"])
def test_an_agent_goes_through_the_proxy_of_its_environment(authority: Authority, service: Service, name: str) -> None:
    with (
        Gateway() as gateway,
        Relay(gateway.agents, authority.server("DNS:gate.example.com")) as tls,
        ConnectProxy() as proxy,
    ):
        url, env = f"https://gate.example.com:{tls.port}", {name: f"http://user:secret@{proxy.address}"}
        with Agent(service, url, "--connect-ca", str(authority.ca), env=env) as agent:
            agent.event("connected")
            assert request(gateway.proxy, endpoint="web").status == 200
            assert proxy.asked[0].startswith(f"CONNECT gate.example.com:{tls.port} HTTP/1.1")
            assert "proxy-authorization: basic dxnlcjpzzwnyzxq=" in proxy.asked[0].lower()
            assert "secret" not in agent.log


def test_an_agent_goes_past_the_proxy_where_no_proxy_names_its_gateway(service: Service) -> None:
    with ConnectProxy() as proxy:
        env = {"HTTPS_PROXY": f"http://{proxy.address}", "NO_PROXY": "other.example.com,gate.invalid"}
        with Agent(service, "https://gate.invalid:8001", env=env) as agent:
            agent.event("disconnected")
        assert proxy.asked == []


def test_an_agent_goes_past_the_proxy_to_a_gateway_of_its_own_machine(authority: Authority, service: Service) -> None:
    with Gateway() as gateway, Relay(gateway.agents, authority.server(*NAMES)) as tls, ConnectProxy() as proxy:
        env = {"HTTPS_PROXY": f"http://{proxy.address}"}
        with Agent(service, f"https://localhost:{tls.port}", "--connect-ca", str(authority.ca), env=env) as agent:
            agent.event("connected")
        assert proxy.asked == []


def test_an_agent_goes_through_the_proxy_of_its_option(service: Service) -> None:
    with Gateway() as gateway, ConnectProxy() as proxy:
        options = ("--proxy-url", f"http://{proxy.address}")
        with Agent(service, f"http://{gateway.agents}", *options) as agent:
            agent.event("connected")
            assert request(gateway.proxy, endpoint="web").status == 200
            assert proxy.asked[0].startswith(f"CONNECT {gateway.agents} HTTP/1.1")


def test_a_forward_goes_through_the_proxy_too() -> None:
    with (
        Gateway() as gateway,
        ConnectProxy() as proxy,
        Forward(gateway.proxy, "db", "--proxy-url", f"http://{proxy.address}") as forward,
    ):
        assert told_by(forward.address) == b""
        until(lambda: proxy.asked, "the proxy is asked")
