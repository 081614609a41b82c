"""
What a reload does to connections that were let in before.

Where their listener asks for something else now they end after what runs, and nothing new begins on them; whatever else
changes, they do not notice.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Authority
from tests.support.http import request
from tests.support.http2 import REFUSED_STREAM, Two
from tests.support.process import until
from tests.support.raw import Raw
from tests.support.service import Exchange, Service, TcpService
from tests.support.tidegate import Config, Gateway, Tidegate

NAME = "a.example.com"
BIND = "127.0.0.1:0"


def ask(path: str = "/") -> bytes:
    """A request."""
    return f"GET {path} HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode()


class Held(Service):
    """Answers `/slow` when it is let go, `/half` with one half before and one after; everything else at once."""

    def __init__(self) -> None:
        self.go = threading.Event()
        super().__init__(self._answer)

    def _answer(self, exchange: Exchange) -> None:
        exchange.read()
        match exchange.target:
            case "/slow":
                assert self.go.wait(30)
                exchange.answer("200 OK", body=b"slow")
            case "/half":
                exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
                assert self.go.wait(30)
                exchange.send(b"half")
            case _:
                exchange.answer("200 OK", body=b"served")


def echo(connection: socket.socket) -> None:
    """Says everything again."""
    while data := connection.recv(65536):
        connection.sendall(data)


@pytest.fixture(scope="module")
def shown(authority: Authority) -> dict[str, str]:
    """An entry of `certificates`."""
    cert, key = authority.issue("gate", f"DNS:{NAME}", "DNS:localhost")
    return {"cert": str(cert), "key": str(key)}


@pytest.fixture(scope="module")
def known(authority: Authority) -> tuple[Path, Path]:
    """The certificate of a client, and its key."""
    return authority.issue("known", use="clientAuth")


@pytest.fixture
def service() -> Iterator[Held]:
    """An upstream."""
    with Held() as running:
        yield running
        running.go.set()


def secure(shown: dict[str, str], **tls: Any) -> dict[str, Any]:
    """A listener that ends TLS."""
    return {"bind": BIND, "tls": {"certificates": [shown], **tls}}


def served_at(service: Service, listeners: Config) -> dict[str, Any]:
    """A configuration with one route."""
    return {"listeners": listeners, "routes": [{"to": {"addresses": [service.address]}}]}


def put_in_force(gateway: Gateway, config: Config) -> None:
    """Applies a configuration."""
    gateway.write(config)
    answer = gateway.reload()
    assert answer.status == 200, answer.text


def served(raw: Raw, path: str = "/") -> None:
    """One request on a connection that goes on."""
    raw.send(ask(path))
    answer = raw.answer()
    assert (answer.status, answer.field("connection")) == (200, None)


def answered(address: str, tls: ssl.SSLContext) -> bytes:
    """What a new connection gets that asks something; nothing where it is refused."""
    try:
        with Raw(address, tls=tls, name=NAME) as raw:
            raw.send(ask())
            return raw.socket.recv(65536)
    except (ssl.SSLError, ConnectionError):
        return b""


def test_a_client_that_showed_no_certificate_asks_nothing_more_once_one_is_demanded(
    authority: Authority, shown: dict[str, str], known: tuple[Path, Path], service: Held
) -> None:
    with Gateway(served_at(service, {"secure": secure(shown)})) as gateway:
        address, tls = gateway.address("secure"), authority.client()
        with contextlib.ExitStack() as stack:
            idle, begun, slow, half = (stack.enter_context(Raw(address, tls=tls, name=NAME)) for _ in range(4))
            served(idle)
            served(begun)
            begun.send(ask()[:20])
            slow.send(ask("/slow"))
            half.send(ask("/half"))
            half.until(b"half")
            until(lambda: service.named("/slow"), "both requests run")

            put_in_force(gateway, served_at(service, {"secure": secure(shown, client_ca=str(authority.ca))}))
            assert gateway.event("terms changed")["listener"] == "secure"
            assert idle.rest() == b""

            # A request is begun when its head is whole.
            begun.send(ask()[20:])
            refused = begun.answer()
            assert (refused.status, refused.field("x-tidegate-error")) == (421, "misdirected")
            assert refused.field("connection") == "close"
            assert begun.rest() == b""

            # One that had begun before is answered whole, and is the last on its connection.
            service.go.set()
            last = slow.answer()
            assert (last.status, last.body, last.field("connection")) == (200, b"slow", "close")
            assert slow.rest() == b""
            assert half.rest() == b"half"

        assert answered(address, tls) == b""
        with Raw(address, tls=authority.client(known=known), name=NAME) as friend:
            served(friend)
            served(friend)


@pytest.mark.parametrize("pongs", [True, False])
def test_an_http2_connection_is_told_and_opens_no_stream_any_more(
    authority: Authority, shown: dict[str, str], service: Held, pongs: bool
) -> None:
    with Gateway(served_at(service, {"secure": secure(shown)})) as gateway:
        address, tls = gateway.address("secure"), authority.client("h2")
        with Two(address, tls=tls, name=NAME, pongs=pongs) as busy, Two(address, tls=tls, name=NAME) as idle:
            for each in (busy, idle):
                assert each.get(scheme="https", authority=NAME).status == 200
            slow = busy.request(scheme="https", authority=NAME, path="/slow")
            until(lambda: service.named("/slow"), "the request runs")

            put_in_force(gateway, served_at(service, {"secure": secure(shown, client_ca=str(authority.ca))}))
            idle.end()
            assert idle.goaway == 0

            busy.until(lambda: busy.goaway is not None)
            assert busy.goaway == 0
            # Also where the other end does not let the connection come to its end.
            late = busy.request(scheme="https", authority=NAME)
            if not pongs:
                assert busy.answer(late).reset == REFUSED_STREAM
            service.go.set()
            assert busy.answer(slow).body == b"slow"
            busy.end()
            assert busy.streams[late].heads == []


def test_no_stream_is_opened_for_ever_at_a_listener_that_is_gone(service: Held) -> None:
    with (
        Gateway(served_at(service, {"more": {"bind": BIND}})) as gateway,
        Two(gateway.address("more"), pongs=False) as two,
    ):
        slow = two.request(path="/slow")
        until(lambda: service.named("/slow"), "the request runs")
        put_in_force(gateway, served_at(service, {}))
        until(lambda: two.get().reset == REFUSED_STREAM, "streams are refused")
        service.go.set()
        assert two.answer(slow).body == b"slow"
        two.end()


def narrowed(way: str, shown: dict[str, str], authority: Authority) -> tuple[dict[str, Any], dict[str, Any]]:
    """A listener, and the same one asking for something else."""
    both = {"bind": BIND}
    return {
        "TLS": (both, secure(shown)),
        "another authority": (
            secure(shown, client_ca=str(authority.ca), client_certificate="optional"),
            secure(shown, client_ca=shown["cert"], client_certificate="optional"),
        ),
        "a certificate, not only a good one": (
            secure(shown, client_ca=str(authority.ca), client_certificate="optional"),
            secure(shown, client_ca=str(authority.ca)),
        ),
        "a newer version": (secure(shown), secure(shown, min_version="1.3")),
        "nothing, it is passed through": (secure(shown), {"bind": BIND, "tls": {}}),
        "no TLS": (secure(shown), both),
        "a PROXY header": (both, {**both, "proxy_protocol": ["127.0.0.0/8"]}),
        "a PROXY header of others": (
            {**both, "proxy_protocol": ["10.0.0.0/8"]},
            {**both, "proxy_protocol": ["10.0.0.0/16"]},
        ),
    }[way]


@pytest.mark.parametrize(
    "way",
    [
        "TLS",
        "another authority",
        "a certificate, not only a good one",
        "a newer version",
        "nothing, it is passed through",
        "no TLS",
        "a PROXY header",
        "a PROXY header of others",
    ],
)
def test_whatever_else_is_asked_ends_kept_connections_too(
    authority: Authority, shown: dict[str, str], service: Held, way: str
) -> None:
    before, after = narrowed(way, shown, authority)
    with Gateway(served_at(service, {"web": before})) as gateway:
        tls = authority.client() if "tls" in before else None
        with Raw(gateway.address("web"), tls=tls, name=NAME) as raw:
            served(raw)
            put_in_force(gateway, served_at(service, {"web": after}))
            assert raw.rest() == b""


def test_a_source_that_is_trusted_no_more_cannot_speak_for_anybody(service: Held) -> None:
    listener = {"bind": BIND, "proxy_protocol": ["127.0.0.0/8"]}
    with Gateway(served_at(service, {"web": listener})) as gateway, Raw(gateway.address("web")) as raw:
        raw.send(b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n")
        served(raw)
        with Raw(gateway.address("web")) as begun:
            begun.send(b"PROXY TCP4 192.0.2.1 ")
            put_in_force(gateway, served_at(service, {"web": {**listener, "proxy_protocol": ["10.0.0.0/8"]}}))
            assert raw.rest() == b""
            begun.send(b"192.0.2.2 1000 80\r\n" + ask())
            assert begun.answer().status == 421


def hello_for(name: str, tls: ssl.SSLContext) -> bytes:
    """What a TLS connection for a name begins with."""
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def open_at(gateway: Gateway, listener: str) -> int:
    """Open connections of a listener."""
    return int(next(one["connections"] for one in gateway.status()["listeners"] if one["name"] == listener))


def test_raw_streams_run_on_and_no_other_begins(
    authority: Authority, shown: dict[str, str], known: tuple[Path, Path], service: Held
) -> None:
    vault_tls = authority.server("DNS:vault.example.com")

    def vault(connection: socket.socket) -> None:
        with vault_tls.wrap_socket(connection, server_side=True) as inside:
            echo(inside)

    with TcpService(vault) as behind, TcpService(echo) as plain:

        def config(**tls: str) -> dict[str, Any]:
            to = {"addresses": [plain.address]}
            routes = [{"sni": "vault.example.com", "to": {"addresses": [behind.address]}}]
            return {
                "listeners": {"secure": secure(shown, **tls), "db": {**secure(shown, **tls), "kind": "tcp", "to": to}},
                "routes": routes,
            }

        with Gateway(config()) as gateway:
            tls, database = authority.client(), gateway.address("db")
            with (
                Raw(gateway.address("secure"), tls=tls, name="vault.example.com") as passed,
                Raw(database, tls=tls, name=NAME) as ended,
                Raw(database) as late,
                Raw(gateway.address("secure")) as later,
            ):
                incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
                handshake = tls.wrap_bio(incoming, outgoing, server_hostname=NAME)
                with contextlib.suppress(ssl.SSLWantReadError):
                    handshake.do_handshake()
                late.send(outgoing.read())
                incoming.write(late.socket.recv(65536))
                named_vault = hello_for("vault.example.com", tls)
                later.send(named_vault[:50])
                until(lambda: open_at(gateway, "secure") == 2, "its connection is accepted")
                for raw in (passed, ended):
                    raw.send(b"before")
                    assert raw.take(6) == b"before"

                put_in_force(gateway, config(client_ca=str(authority.ca)))
                gateway.event("terms changed", listener="db")
                for raw in (passed, ended):
                    raw.send(b"after")
                    assert raw.take(5) == b"after"

                # Its handshake comes to its end when it is too late.
                with contextlib.suppress(ssl.SSLWantReadError):
                    handshake.do_handshake()
                handshake.write(b"too late")
                late.send(outgoing.read())
                late.rest()
                later.send(named_vault[50:])
                assert later.rest() == b""
                assert (plain.connections, behind.connections) == (1, 1)

            with Raw(database, tls=authority.client(known=known), name=NAME) as friend:
                friend.send(b"hello")
                assert friend.take(5) == b"hello"


def connected_agent(gateway: Gateway, to: str, authority: Authority, *options: str) -> Tidegate:
    """An agent that offers `web` by TLS."""
    port = gateway.agents.rpartition(":")[2]
    words = ("agent", "http", "web", to, "--connect", f"https://localhost:{port}", "--connect-ca", str(authority.ca))
    agent = Tidegate(*words, "--connections", "1", *options)
    agent.ready("connected")
    return agent


def sessions(gateway: Gateway) -> set[int]:
    """Those of every agent."""
    return {one["session"] for endpoint in gateway.status()["endpoints"] for one in endpoint["listeners"]}


def test_an_agent_that_showed_no_certificate_is_let_go_and_one_that_has_one_comes_back(
    authority: Authority, shown: dict[str, str], known: tuple[Path, Path], service: Held
) -> None:
    def agents(**tls: str) -> dict[str, Any]:
        return {"listeners": {"agents": {**secure(shown, **tls), "kind": "tunnel"}}}

    host = {"Host": "web.example.com"}
    with Gateway(agents()) as gateway, Held() as strange:
        shows = ("--connect-cert", str(known[0]), "--connect-key", str(known[1]))
        with connected_agent(gateway, strange.address, authority) as stranger, Raw(gateway.proxy) as visitor:
            gateway.until_offered("web")
            visitor.send(b"GET /slow HTTP/1.1\r\nHost: web.example.com\r\n\r\n")
            until(lambda: strange.requests, "the request runs")
            with connected_agent(gateway, service.address, authority, *shows) as friend:
                gateway.until_offered("web", 2)
                before = sessions(gateway)
                put_in_force(gateway, agents(client_ca=str(authority.ca)))

                def only_the_friend() -> bool:
                    assert request(gateway.proxy, headers=host).status == 200
                    return len(now := sessions(gateway)) == 1 and not now & before

                until(only_the_friend, "the one that is known is back, and the other one gone")
                friend.event("connected", nth=2)
                assert "CertificateRequired" in str(stranger.event("disconnected")["reason"])
                answered = len(strange.requests)
                assert request(gateway.proxy, headers=host).status == 200
                assert len(strange.requests) == answered

                # What ran on its tunnel comes to its end.
                strange.go.set()
                assert visitor.answer().body == b"slow"
                gateway.event("agent disconnected", nth=2)


def test_a_tunnel_listener_that_is_gone_takes_its_sessions_along(service: Held) -> None:
    more = {"bind": BIND, "kind": "tunnel"}
    with Gateway({"listeners": {"more": more}}) as gateway:
        words = ("agent", "http", "web", service.address, "--connect", f"http://{gateway.address('more')}")
        with Tidegate(*words, "--connections", "1") as agent:
            agent.ready("connected")
            gateway.until_offered("web")
            put_in_force(gateway, {})
            gateway.event("agent disconnected")
            assert sessions(gateway) == set()


def test_what_is_asked_of_others_and_a_renewed_certificate_touch_no_connection(
    authority: Authority, shown: dict[str, str], service: Held, tmp_path: Path
) -> None:
    mine = {kind: str(tmp_path / kind) for kind in ("cert", "key")}
    other = {"bind": BIND}

    def renew(name: str) -> None:
        for made, file in zip(authority.issue(name, f"DNS:{NAME}", "DNS:localhost"), mine.values(), strict=True):
            shutil.copy(made, file)

    def config(listener: Config, *more: dict[str, str], status: int = 204) -> dict[str, Any]:
        secured = {"bind": BIND, "tls": {"certificates": [mine, *more]}}
        listeners = {"secure": secured, "agents": {**secured, "kind": "tunnel"}, "other": listener}
        found = served_at(service, listeners)
        found["routes"].append({"host": "gone.example.com", "respond": status})
        return found

    renew("old")
    with Gateway(config(other)) as gateway, connected_agent(gateway, service.address, authority):
        gateway.until_offered("web")
        offered, address = sessions(gateway), gateway.address("secure")
        with (
            Raw(address, tls=authority.client(), name=NAME) as one,
            Two(address, tls=authority.client("h2"), name=NAME) as two,
            Raw(gateway.address("other")) as outdated,
        ):
            served(one)
            served(outdated)
            for number, changed in enumerate(
                (
                    config(secure(shown, client_ca=str(authority.ca))),
                    config(secure(shown, client_ca=str(authority.ca)), shown),
                    config(other, status=200),
                )
            ):
                renew(f"new{number}")
                put_in_force(gateway, changed)
                served(one)
                assert two.get(scheme="https", authority=NAME).status == 200
            assert outdated.rest() == b""
            assert two.goaway is None
            assert sessions(gateway) == offered
            assert {event["listener"] for event in gateway.seen("terms changed")} == {"other"}
            assert gateway.seen("agent disconnected") == []
