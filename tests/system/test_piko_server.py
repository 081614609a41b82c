"""`tidegate piko server`: Piko's file and flags, with TLS and client certificates on each of its ports."""

from __future__ import annotations

import ssl
from http.client import HTTPSConnection
from pathlib import Path

import jwt
import pytest

from tests.support.certificates import Authority
from tests.support.http import request
from tests.support.process import Program, until
from tests.support.raw import at
from tests.support.service import Service
from tests.support.tidegate import Agent, Tidegate, command

SECRET = "a secret of more than 32 bytes, for HS256"
NAMES = ("DNS:localhost", "IP:127.0.0.1")


class PikoServer(Program):
    """A server on ports of the system's choice."""

    def __init__(self, *flags: str | Path) -> None:
        ports = [word for port in ("proxy", "upstream", "admin") for word in (f"--{port}.bind-addr", "127.0.0.1:0")]
        super().__init__(command("piko", "server", *ports, *flags), name="piko server")
        for listener in ("proxy", "agents", "admin"):
            self.ready("listening", listener=listener)

    def address(self, listener: str) -> str:
        """`host:port` of a listener."""
        return str(self.event("listening", listener=listener)["address"])


def test_visitors_and_agents_meet(service: Service) -> None:
    with PikoServer() as server, Agent(server.address("agents"), "http", "web", service.address):
        assert request(server.address("proxy"), headers={"x-piko-endpoint": "web"}).status == 200
        assert request(server.address("admin"), "/ready").status == 200


def test_every_port_speaks_tls_and_asks_for_client_certificates(
    service: Service, authority: Authority, tmp_path: Path
) -> None:
    cert, key = authority.issue("server", *NAMES)
    mine, mine_key = authority.issue("client", use="clientAuth")
    tls = f"{{cert: {cert}, key: {key}, client_cas: {authority.ca}}}"
    file = tmp_path / "server.yaml"
    file.write_text("".join(f"{port}: {{tls: {tls}}}\n" for port in ("proxy", "upstream", "admin")))
    trusting = ssl.create_default_context(cafile=str(authority.ca))
    known = ssl.create_default_context(cafile=str(authority.ca))
    known.load_cert_chain(mine, mine_key)

    with PikoServer("--config.path", file) as server:
        url = f"https://localhost:{at(server.address('agents'))[1]}"
        words = ("agent", "http", "web", service.address, "--connect", url, "--connect-ca", str(authority.ca))
        with Tidegate(*words) as stranger:
            stranger.event("disconnected")
            assert server.seen("agent connected") == []
        with Tidegate(*words, "--connect-cert", str(mine), "--connect-key", str(mine_key)) as agent:
            agent.event("connected")
            for listener, path in (("proxy", "/"), ("admin", "/health")):
                assert _status(server.address(listener), path, known) == 200
                with pytest.raises((ssl.SSLError, OSError)):
                    _status(server.address(listener), path, trusting)


def _status(address: str, path: str, context: ssl.SSLContext) -> int:
    host, port = at(address)
    connection = HTTPSConnection(host, port, context=context, timeout=20)
    try:
        connection.request("GET", path, headers={"x-piko-endpoint": "web"})
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_changed_file_is_in_force(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "server.yaml"
    file.write_text("proxy: {timeout: 30s}\n")
    with PikoServer("--config.path", file) as server, Agent(server.address("agents"), "http", "web", service.address):
        file.write_text("proxy: {timeout: 20s}\n")
        server.event("configuration applied")
        file.write_text("proxy: {timeout: soon}\n")
        assert "soon" in str(server.event("configuration refused"))
        assert request(server.address("proxy"), headers={"x-piko-endpoint": "web"}).status == 200
        until(lambda: request(server.address("admin"), "/health").status == 200, "admin goes on")


def test_a_server_with_a_secret_lets_in_who_shows_a_token_of_it_and_never_shows_it(service: Service) -> None:
    good, forged = (jwt.encode({}, secret, "HS256") for secret in (SECRET, "another secret that nobody shares"))
    with PikoServer("--upstream.auth.hmac-secret-key", SECRET) as server:
        words = ("agent", "http", "web", service.address, "--connect", f"http://{server.address('agents')}")
        for shown, reason in (((), "missing authorization"), (("--token", forged), "invalid token")):
            with Tidegate(*words, *shown) as stranger:
                assert reason in str(stranger.event("refused"))
        with Tidegate(*words, "--token", good) as agent:
            agent.event("connected")
            assert request(server.address("proxy"), headers={"x-piko-endpoint": "web"}).status == 200
    assert SECRET not in server.log
