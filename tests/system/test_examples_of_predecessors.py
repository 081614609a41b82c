"""The examples of kiagateway's and NanoProxy's own descriptions, unchanged, on their own ports and addresses."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.http import request
from tests.support.namespace import Namespace, listening
from tests.support.predecessors import shake
from tests.support.process import Program
from tests.support.raw import at
from tests.support.relay import Relay
from tests.support.service import Exchange, Service, TcpService
from tests.support.tidegate import command

GOLDEN = Path(__file__).parents[1] / "golden"
HOSTS = {
    "something.localdomain": "192.168.1.20",
    "some.hostname.here": "192.168.1.21",
    "backend.api.example": "192.168.1.22",
}
FAR = ["192.168.1.19/24", *(f"{address}/24" for address in HOSTS.values())]


def example(pair: str) -> str:
    """The file of a golden pair."""
    text, _, _ = (GOLDEN / pair).read_text().partition("----------\n")
    return text.partition("\n")[2]


@dataclass
class Networks:
    """Where the gateway runs, and where the addresses are that are not its own machine's."""

    near: Namespace
    far: Namespace
    stack: ExitStack
    authority: Authority

    def serve(self, address: str, tls: bool) -> None:
        """A service that answers with the address it has in the file."""
        host, port = at(address)
        place = self.near if host == "127.0.0.1" else self.far
        own = HOSTS.get(host, host)

        def answer(exchange: Exchange) -> None:
            exchange.read()
            exchange.answer(body=f"{address} {exchange.target}".encode())

        with place.inside():
            service: TcpService = Service(answer, own, 0 if tls else port)
            self.stack.enter_context(service)
            if tls:
                names = self.authority.server("DNS:*.example.com", "DNS:some.hostname.here")
                self.stack.enter_context(Relay(service.address, names, own, port))

    def run(self, *words: str | Path, cwd: Path, env: dict[str, str] | None = None) -> Program:
        """Starts tidegate beside them."""
        clean = {"PORT": "", "TIMEOUT": "", "DEBUG": "", "CERT_PATH": "", "CONFIG_B64": "", "CONF_FILE": ""}
        program = Program(
            self.near.command(command(*words)), name=f"tidegate {words[0]}", cwd=cwd, env=clean | (env or {})
        )
        return self.stack.enter_context(program)


@pytest.fixture
def networks(tmp_path: Path) -> Iterator[Networks]:
    """Two networks with a cable between them."""
    with ExitStack() as stack:
        near, far = stack.enter_context(Namespace(HOSTS)), stack.enter_context(Namespace())
        near.link("192.168.1.1/24", far, FAR)
        yield Networks(near, far, stack, Authority(tmp_path))


def test_the_example_of_kiagateway_runs_unchanged_on_80_and_443(networks: Networks, tmp_path: Path) -> None:
    text = example("kiagateway/seed.txt")
    (tmp_path / "servers.toml").write_text(text)
    backends = tomllib.loads(text)
    for table, tls in (("https_backends", True), ("http_backends", False)):
        for address in dict.fromkeys(backends[table].values()):
            networks.serve(address, tls)

    gateway = networks.run("kiagateway", cwd=tmp_path)
    for listener in ("http", "https", "admin"):
        gateway.event("listening", listener=listener)

    assert listening(gateway.pid) >= {80, 443, 8003}
    with networks.near.inside():
        for near in ("127.0.0.1", "[::1]"):
            for name, address in backends["http_backends"].items():
                assert request(f"{near}:80", "/plain", headers={"Host": name}).text == f"{address} /plain"
            for name, address in backends["https_backends"].items():
                with shake(f"{near}:443", name, None) as downstream:
                    downstream.sendall(f"GET /tls HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
                    assert downstream.makefile("rb").read().endswith(f"{address} /tls".encode())


def test_kiagateway_opens_its_two_ports_and_admin_and_nothing_else(networks: Networks, tmp_path: Path) -> None:
    (tmp_path / "servers.toml").write_text("[http_backends]\n[https_backends]\n")
    gateway = networks.run("kiagateway", cwd=tmp_path)
    gateway.event("listening", listener="https")
    assert listening(gateway.pid) == {80, 443, 8003}
    assert gateway.event("listening", listener="admin")["address"] == "127.0.0.1:8003"


@pytest.mark.parametrize("words", [["kiagateway"], ["nanoproxy"]])
def test_admin_takes_another_port_where_somebody_has_8003(networks: Networks, tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "servers.toml").write_text("[http_backends]\n[https_backends]\n")
    (tmp_path / "config.yaml").write_text("rules: []\n")
    with networks.near.inside():
        networks.stack.enter_context(TcpService(lambda _: None, "127.0.0.1", 8003))
    gateway = networks.run(*words, cwd=tmp_path)
    address = str(gateway.event("listening", listener="admin")["address"])
    assert address.startswith("127.0.0.1:")
    assert address != "127.0.0.1:8003"
    with networks.near.inside():
        assert request(address, "/health").status == 200


def test_the_example_of_nanoproxy_runs_unchanged(networks: Networks, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(example("nanoproxy/seed.txt"))
    networks.serve("some.hostname.here:443", tls=True)
    networks.serve("backend.api.example:3000", tls=False)

    gateway = networks.run("nanoproxy", cwd=tmp_path, env={"SSL_CERT_FILE": str(networks.authority.ca)})
    gateway.event("listening", listener="proxy")
    gateway.event("listening", listener="admin")

    assert listening(gateway.pid) == {8080, 8003}
    with networks.near.inside():
        for near in ("127.0.0.1:8080", "[::1]:8080"):
            assert request(near, "/api/x").text == "backend.api.example:3000 /x"
            host = {"Host": "proxy.example.net"}
            assert request(near, "/y", headers=host).text == "some.hostname.here:443 /y"
            assert request(near, "/y", headers={"Host": "other.example.net"}).status == 404


def test_piko_server_opens_pikos_ports(networks: Networks, tmp_path: Path) -> None:
    server = networks.run("piko", "server", cwd=tmp_path)
    for listener in ("proxy", "agents", "admin"):
        server.event("listening", listener=listener)
    assert listening(server.pid) == {8000, 8001, 8002}
