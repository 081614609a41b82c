"""TLS on listeners: whose certificate is shown, who is let in, what is passed through, and what is refused."""

from __future__ import annotations

import contextlib
import resource
import select
import shutil
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Authority
from tests.support.http import request
from tests.support.process import DEADLINE, until
from tests.support.raw import Raw, at, told_by
from tests.support.service import Service, TcpService
from tests.support.tidegate import Agent, Gateway, Tidegate
from tests.support.tools import Curled, curl, need, run

UNRECOGNIZED_NAME = bytes([21, 3, 3, 0, 2, 2, 112])
UNEXPECTED_MESSAGE = bytes([21, 3, 3, 0, 2, 2, 10])


def shown(authority: Authority, name: str, *alternatives: str) -> dict[str, str]:
    """An entry of `certificates`."""
    cert, key = authority.issue(name, *alternatives)
    return {"cert": str(cert), "key": str(key)}


def secure(certificates: list[dict[str, str]], **more: Any) -> dict[str, Any]:
    """A listener that speaks TLS."""
    return {"bind": "127.0.0.1:0", "tls": {"certificates": certificates, **more}}


def ask(address: str, authority: Authority, name: str, *options: str, path: str = "/") -> Curled:
    """Asks `https://name/path` of a listener."""
    to = ("--connect-to", f"::{address}")
    return curl("--cacert", str(authority.ca), *to, *options, f"https://{name}{path}")


def trusting(authority: Authority, **versions: ssl.TLSVersion) -> ssl.SSLContext:
    """What a client speaks that trusts the authority."""
    context = ssl.create_default_context(cafile=str(authority.ca))
    context.check_hostname = False
    for key, version in versions.items():
        setattr(context, key, version)
    return context


@contextlib.contextmanager
def connected(address: str, context: ssl.SSLContext, name: str | None, **more: Any) -> Iterator[ssl.SSLSocket]:
    """A TLS connection for a name."""
    with (
        socket.create_connection(at(address), timeout=DEADLINE) as plain,
        context.wrap_socket(plain, server_hostname=name, **more) as wrapped,
    ):
        yield wrapped


def common_name(connection: ssl.SSLSocket) -> str:
    """The name that a server's certificate was issued for."""
    certificate = connection.getpeercert()
    assert certificate is not None
    subject: Any = certificate["subject"]
    return str(dict(pair for part in subject for pair in part)["commonName"])


def handshakes(gateway: Gateway, outcome: str, listener: str = "secure") -> float:
    """How many connections have come to this."""
    start = f'tidegate_tls_handshakes_total{{listener="{listener}",outcome="{outcome}"}} '
    lines = request(gateway.admin, "/metrics").text.splitlines()
    return sum(float(line.removeprefix(start)) for line in lines if line.startswith(start))


def shed(gateway: Gateway, reason: str) -> float:
    """How many connections were given up for want of room."""
    start = f'tidegate_connections_shed_total{{reason="{reason}"}} '
    lines = request(gateway.admin, "/metrics").text.splitlines()
    return sum(float(line.removeprefix(start)) for line in lines if line.startswith(start))


def test_the_certificate_is_chosen_by_server_name(authority: Authority, service: Service) -> None:
    certificates = [
        shown(authority, "first.test"),
        shown(authority, "wild", "DNS:*.example.com"),
        shown(authority, "exact", "DNS:a.example.com", "DNS:b.example.org"),
    ]
    # A route for every host: a name without a certificate may still be asked for.
    config = {"listeners": {"secure": secure(certificates)}, "routes": [{"to": {"addresses": [service.address]}}]}
    with Gateway(config) as gateway:
        address = gateway.address("secure")
        for name, expected in (
            ("first.test", "first.test"),
            ("x.example.com", "wild"),
            ("a.example.com", "exact"),
            ("A.Example.COM", "exact"),
            ("b.example.org", "exact"),
            ("x.y.example.com", "first.test"),
            (None, "first.test"),
            ("127.0.0.1", "first.test"),
        ):
            with connected(address, trusting(authority), name) as connection:
                assert common_name(connection) == expected, name


def test_a_name_that_nobody_has_gets_an_alert_and_no_certificate(authority: Authority, service: Service) -> None:
    routes = [{"host": "a.example.com", "to": {"addresses": [service.address]}}]
    listeners = {"secure": secure([shown(authority, "a.example.com")]), "through": {"bind": "127.0.0.1:0", "tls": {}}}
    config = {"listeners": listeners, "routes": routes}
    with Gateway(config) as gateway:
        assert ask(gateway.address("secure"), authority, "a.example.com").status == 200
        for listener in listeners:
            with (
                pytest.raises(ssl.SSLError) as refused,
                connected(gateway.address(listener), trusting(authority), "b.example.com"),
            ):
                pass
            assert "UNRECOGNIZED_NAME" in str(refused.value)
            assert handshakes(gateway, "unrecognized_name", listener) == 1


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_both_versions_are_spoken_and_openssl_verifies_the_chain(
    authority: Authority, service: Service, version: str
) -> None:
    listeners = {
        "secure": secure([shown(authority, "a.example.com")]),
        "newest": secure([shown(authority, "a.example.com")], min_version="1.3"),
    }
    config = {"listeners": listeners, "routes": [{"to": {"addresses": [service.address]}}]}
    with Gateway(config) as gateway:
        options = (f"-tls{version.replace('.', '_')}", "-verify_return_error", "-CAfile", authority.ca)
        words = ("s_client", "-connect", gateway.address("secure"), "-servername", "a.example.com", *options)
        said = run(need("openssl"), *words)
        assert "Verify return code: 0 (ok)" in said
        assert f"TLSv{version}" in said
        old = trusting(authority, maximum_version=ssl.TLSVersion.TLSv1_2)
        with pytest.raises(ssl.SSLError), connected(gateway.address("newest"), old, "a.example.com"):
            pass


@pytest.mark.parametrize("option", ["--http1.1", "--http2"])
def test_the_upstream_is_told_that_the_visitor_spoke_https(authority: Authority, service: Service, option: str) -> None:
    routes = [{"host": "a.example.com", "to": {"addresses": [service.address]}}]
    with Gateway({"listeners": {"secure": secure([shown(authority, "a.example.com")])}, "routes": routes}) as gateway:
        answer = ask(gateway.address("secure"), authority, "a.example.com", option, path="/echo")
        assert answer.status == 200
        assert answer.lines[0].startswith("HTTP/2" if option == "--http2" else "HTTP/1.1")
        assert b'"X-Forwarded-Proto", "https"' in answer.body
        assert b"proto=https" in answer.body


def test_plain_http_on_a_tls_port_is_told_so(authority: Authority, service: Service) -> None:
    listeners = {
        "secure": secure([shown(authority, "a.example.com")]),
        "agents": {**secure([shown(authority, "a.example.com")]), "kind": "tunnel"},
        "db": {**secure([shown(authority, "a.example.com")]), "kind": "tcp", "to": {"addresses": [service.address]}},
    }
    with Gateway({"listeners": listeners}) as gateway:
        for listener in ("secure", "agents"):
            answer = request(gateway.address(listener), "/x")
            assert (answer.status, answer.headers["x-tidegate-error"]) == (400, "tls_expected")
            assert answer.json()["error"] == "this port speaks TLS"
        browser = request(gateway.address("secure"), headers={"accept": "text/html"})
        assert browser.headers["content-type"].startswith("text/html")
        with Raw(gateway.address("db")) as raw:
            raw.send(b"GET / HTTP/1.1\r\n\r\n")
            assert raw.rest() == UNEXPECTED_MESSAGE


def test_a_hello_cut_in_pieces_is_understood(authority: Authority, service: Service) -> None:
    config = {
        "listeners": {"secure": secure([shown(authority, "a.example.com")])},
        "routes": [{"host": "a.example.com", "to": {"addresses": [service.address]}}],
    }
    with Gateway(config) as gateway, Raw(gateway.address("secure")) as raw:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = trusting(authority).wrap_bio(incoming, outgoing, server_hostname="a.example.com")
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        for byte in outgoing.read():
            raw.send(bytes([byte]))
        while True:
            incoming.write(raw.socket.recv(65536))
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
                break
        raw.send(outgoing.read())
        certificate: Any = tls.getpeercert()
        assert certificate["subjectAltName"] == (("DNS", "a.example.com"),)


def test_a_slow_handshake_ends_at_its_deadline_and_is_counted(authority: Authority, service: Service) -> None:
    config = {
        "listeners": {"secure": secure([shown(authority, "a.example.com")])},
        "routes": [{"to": {"addresses": [service.address]}}],
        "timeouts": {"handshake": "1s"},
    }
    with Gateway(config) as gateway:
        with Raw(gateway.address("secure")) as silent, Raw(gateway.address("secure")) as slow:
            begun = time.monotonic()
            # The beginning of a record that never ends, a byte now and then.
            slow.socket.settimeout(0.1)
            got: bytes | None = None
            slow.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
            while got is None and time.monotonic() - begun < DEADLINE:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    slow.send(b"\x07")
                try:
                    got = slow.socket.recv(1)
                except TimeoutError:
                    continue
                except ConnectionResetError:
                    got = b""
            # The alert handshake_failure.
            assert silent.rest() == b"\x15\x03\x03\x00\x02\x02\x28"
            assert got in (b"\x15", b"")
            assert 0.5 < time.monotonic() - begun < DEADLINE / 2
        assert handshakes(gateway, "timeout") == 2
        assert ask(gateway.address("secure"), authority, "a.example.com").status == 200


def test_a_clients_certificate_is_required_or_only_checked(authority: Authority, service: Service) -> None:
    mine = [shown(authority, "a.example.com")]
    ca = str(authority.ca)
    listeners = {
        "required": secure(mine, client_ca=ca),
        "optional": secure(mine, client_ca=ca, client_certificate="optional"),
    }
    cert, key = authority.issue("visitor", use="clientAuth")
    with Gateway({"listeners": listeners, "routes": [{"to": {"addresses": [service.address]}}]}) as gateway:
        known = ("--cert", str(cert), "--key", str(key))
        for listener in listeners:
            assert ask(gateway.address(listener), authority, "a.example.com", *known).status == 200
        assert ask(gateway.address("optional"), authority, "a.example.com").status == 200
        for version in ("1.2", "1.3"):
            refused = ask(gateway.address("required"), authority, "a.example.com", "--tls-max", version)
            assert (refused.status, refused.code != 0) == (0, True)


def test_a_strangers_certificate_is_refused(authority: Authority, service: Service, tmp_path: Path) -> None:
    cert, key = Authority(tmp_path, "another authority").issue("visitor", use="clientAuth")
    tls = secure([shown(authority, "a.example.com")], client_ca=str(authority.ca), client_certificate="optional")
    with Gateway({"listeners": {"secure": tls}, "routes": [{"to": {"addresses": [service.address]}}]}) as gateway:
        strange = ("--cert", str(cert), "--key", str(key))
        assert ask(gateway.address("secure"), authority, "a.example.com", *strange).status == 0
        # The alert leaves before it is counted.
        until(lambda: handshakes(gateway, "failed") == 1, "it is counted")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_are_resumed_but_not_those_of_a_clients_certificate(
    authority: Authority, service: Service, version: ssl.TLSVersion
) -> None:
    mine = [shown(authority, "a.example.com")]
    listeners = {"secure": secure(mine), "known": secure(mine, client_ca=str(authority.ca))}
    config = {"listeners": listeners, "routes": [{"to": {"addresses": [service.address]}}]}
    context = trusting(authority, maximum_version=version)
    context.load_cert_chain(*authority.issue("visitor", use="clientAuth"))
    with Gateway(config) as gateway:
        for listener, resumes in (("secure", True), ("known", False)):
            address, session = gateway.address(listener), None
            for attempt in range(2):
                with connected(address, context, "a.example.com", session=session) as connection:
                    assert connection.session_reused == (resumes and attempt == 1)
                    connection.sendall(b"GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n")
                    assert connection.recv(65536).startswith(b"HTTP/1.1 200")
                    session = connection.session


def test_a_renewed_certificate_is_shown_to_new_connections_only(
    authority: Authority, service: Service, tmp_path: Path
) -> None:
    cert, key = tmp_path / "a.pem", tmp_path / "a.key"

    def renew(name: str) -> None:
        for made, file in zip(authority.issue(name, "DNS:a.example.com"), (cert, key), strict=True):
            shutil.copy(made, file)

    renew("old")
    listener = secure([{"cert": str(cert), "key": str(key)}])
    config = {"listeners": {"secure": listener}, "routes": [{"to": {"addresses": [service.address]}}]}
    with Gateway(config) as gateway:
        address, context = gateway.address("secure"), trusting(authority)
        with connected(address, context, "a.example.com") as before:
            assert common_name(before) == "old"
            renew("new")
            gateway.signal(signal.SIGHUP)

            def now() -> str:
                with connected(address, context, "a.example.com") as connection:
                    return common_name(connection)

            until(lambda: now() == "new", "the new certificate is shown")
            before.sendall(b"GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n")
            assert before.recv(65536).startswith(b"HTTP/1.1 200")

            # One that does not fit its key changes nothing.
            shutil.copy(authority.issue("other")[1], key)
            gateway.signal(signal.SIGHUP)
            assert "is not the key of" in str(gateway.event("configuration refused")["reasons"])
            assert now() == "new"


def test_one_port_passes_through_ends_tls_and_reaches_tunnels(authority: Authority, service: Service) -> None:
    def vault(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as wrapped:
            wrapped.recv(65536)
            wrapped.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nvault")

    context = authority.server("DNS:vault.example.com")
    certificates = [shown(authority, "wild", "DNS:*.example.com")]
    with TcpService(vault) as behind, Service() as local:
        config = {
            "listeners": {
                "secure": secure(certificates),
                "agents": {**secure([shown(authority, "gate", "DNS:localhost")]), "kind": "tunnel"},
            },
            "routes": [
                {"host": "app.example.com", "to": {"addresses": [service.address]}},
                {"host": "web.example.com", "to": {"endpoint": "web"}},
                {"sni": "vault.example.com", "to": {"addresses": [behind.address]}},
            ],
        }
        with Gateway(config) as gateway:
            port = gateway.agents.rpartition(":")[2]
            words = ("agent", "http", "web", local.address, "--connect", f"https://localhost:{port}")
            with Tidegate(*words, "--connect-ca", str(authority.ca)) as agent:
                agent.event("connected")
                address = gateway.address("secure")
                assert ask(address, authority, "app.example.com").status == 200
                assert ask(address, authority, "web.example.com").status == 200
                assert ask(address, authority, "vault.example.com").body == b"vault"
                assert handshakes(gateway, "passed_through") == 1

                # Nobody gets to see what is passed through by asking for it elsewhere.
                for option in ("--http1.1", "--http2"):
                    host = ("--header", "Host: vault.example.com", option)
                    answer = ask(address, authority, "app.example.com", *host)
                    assert (answer.status, answer.field("x-tidegate-error")) == (421, "misdirected")


def test_http2_is_for_names_of_the_same_certificate(authority: Authority, service: Service) -> None:
    certificates = [shown(authority, "a", "DNS:a.example.com", "DNS:b.example.com"), shown(authority, "c.example.com")]
    config = {"listeners": {"secure": secure(certificates)}, "routes": [{"to": {"addresses": [service.address]}}]}
    with Gateway(config) as gateway:
        for option, host, status in (
            ("--http2", "b.example.com", 200),
            ("--http2", "c.example.com", 421),
            ("--http1.1", "c.example.com", 200),
        ):
            answer = ask(gateway.address("secure"), authority, "a.example.com", option, "--header", f"Host: {host}")
            assert answer.status == status, (option, host)


def test_a_tcp_listener_ends_tls_and_relays_what_is_inside(authority: Authority) -> None:
    def echo(connection: socket.socket) -> None:
        while data := connection.recv(65536):
            connection.sendall(data.upper())

    with TcpService(echo) as behind:
        listener = {**secure([shown(authority, "db.test")]), "kind": "tcp", "to": {"addresses": [behind.address]}}
        with (
            Gateway({"listeners": {"db": listener}}) as gateway,
            connected(gateway.address("db"), trusting(authority), "db.test") as connection,
        ):
            connection.sendall(b"hello")
            assert connection.recv(65536) == b"HELLO"


def test_idle_connections_make_room_for_new_ones(service: Service) -> None:
    config = {"limits": {"connections": 16}, "routes": [{"to": {"addresses": [service.address]}}]}
    with Gateway(config, "--workers", "1") as gateway, contextlib.ExitStack() as stack:
        kept = [stack.enter_context(Raw(gateway.proxy)) for _ in range(16)]
        for raw in kept[:8]:
            raw.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert raw.answer().status == 200
        until(lambda: request(gateway.proxy).status == 200, "one that waits has ended")
        assert gateway.event("no room for more connections")["connections"] == 16
        # Those that have said nothing have waited longest.
        ended, _, _ = select.select([raw.socket for raw in kept], [], [], DEADLINE)
        assert ended
        assert all(connection.recv(1) == b"" for connection in ended)
        assert kept[7].socket not in ended
        kept[7].send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert kept[7].answer().status == 200
        assert shed(gateway, "idle") >= 1


def test_whoever_comes_when_all_are_busy_is_told_so(authority: Authority) -> None:
    def never(connection: socket.socket) -> None:
        while connection.recv(65536):
            pass

    listeners = {"secure": secure([shown(authority, "a.example.com")])}
    with TcpService(never) as stuck:
        config = {
            "limits": {"connections": 16},
            "routes": [{"to": {"addresses": [stuck.address]}}],
            "listeners": listeners,
        }
        with Gateway(config, "--workers", "1") as gateway, contextlib.ExitStack() as stack:
            for _ in range(16):
                stack.enter_context(Raw(gateway.proxy)).send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            until(lambda: stuck.connections == 16, "all of them are busy")
            answer = request(gateway.proxy)
            assert (answer.status, answer.headers["x-tidegate-error"]) == (503, "overload")
            assert answer.json()["detail"] == "as many connections as limits.connections allows"
            assert told_by(gateway.address("secure")) == b""
            assert shed(gateway, "full") == 2
            # Agents have room of their own.
            with Agent(gateway.agents, "http", "web", stuck.address):
                gateway.until_offered("web")


@pytest.mark.parametrize("words", [b"", b"GET / HTTP/1.1\r\nHost: a\r\n"], ids=["silent", "half a head"])
def test_case_13_more_connections_that_ask_nothing_than_descriptors_leave_some_for_admin(
    words: bytes, service: Service
) -> None:
    routes = [{"to": {"addresses": [service.address]}}]
    with (
        Gateway({"routes": routes, "timeouts": {"head": 3600}}, "--workers", "1") as gateway,
        contextlib.ExitStack() as stack,
    ):
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (400, 400))
        for _ in range(600):
            # Some are reset at once.
            with contextlib.suppress(ConnectionError):
                stack.enter_context(Raw(gateway.proxy)).send(words)
        assert request(gateway.admin, "/health").status == 200
        until(lambda: shed(gateway, "descriptors") > 0, "some were refused")

        def served() -> bool:
            # Beyond some answers at once whoever comes is reset.
            with contextlib.suppress(OSError, HTTPException):
                return request(gateway.proxy).status == 200
            return False

        until(served, "a visitor with a request is served")
        assert gateway.seen("accepting rests") == []
