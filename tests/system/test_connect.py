"""CONNECT through an agent, by every kind of way to it: what leads where, and what leads nowhere."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.support import access
from tests.support.certificates import Authority
from tests.support.ports import reserved
from tests.support.process import until
from tests.support.raw import Raw
from tests.support.service import Service, TcpService
from tests.support.tidegate import Forward, Gateway, Tidegate
from tests.support.tools import curl
from tests.system.connecting import THROUGH, Untouched, asked, connector, refused, through

GUARDED = "a loopback, link-local or metadata address, or a port of the agent's own"
RULES = {
    "dc1": {
        "bind": "127.0.0.1:0",
        "kind": "connect",
        "to": [
            {"network": "0.0.0.0/0", "endpoint": "dc1"},
            {"network": "::/0", "endpoint": "dc1"},
            {"name": "*", "endpoint": "dc1"},
        ],
    }
}
LISTENERS = {"dc1": {"bind": "127.0.0.1:0", "kind": "tcp", "to": {"endpoint": "dc1"}}}


def echo(connection: socket.socket) -> None:
    """Says what it hears, and ends when the other side has ended."""
    while data := connection.recv(65536):
        connection.sendall(data)


def fill(connection: socket.socket) -> None:
    """Sends until nothing more is taken."""
    connection.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            connection.send(b"z" * 65536)


@dataclass
class Way:
    """A way to an agent that may connect to everything, but of this machine to the open services only."""

    address: str
    """Where clients connect."""
    agent: Tidegate
    open: TcpService
    open6: TcpService
    secrets: dict[str, Untouched]
    """Listens on an address of this machine that is not allowed."""


@pytest.fixture(scope="module", params=["listener", "forward", "rules"])
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    with ExitStack() as stack:
        opened = stack.enter_context(TcpService(echo))
        opened6 = stack.enter_context(TcpService(echo, "::1"))
        secrets = {host: Untouched(host) for host in ("127.0.0.1", "::1")}
        for secret in secrets.values():
            stack.callback(secret.close)
        # What a listener leads to is reached by no forward.
        listeners = {"listener": LISTENERS, "forward": {}, "rules": RULES}[request.param]
        gateway = stack.enter_context(Gateway({"listeners": listeners}))
        allow = ["0.0.0.0/0", "::/0", "*.localhost", f"127.0.0.1:{opened.port}", f"[::1]:{opened6.port}"]
        agent = stack.enter_context(connector(gateway, *allow))
        if request.param == "forward":
            address = stack.enter_context(Forward(gateway.proxy, "dc1")).address
        else:
            address = gateway.address("dc1")
        yield Way(address, agent, opened, opened6, secrets)


def test_curl_reaches_a_service_through_it() -> None:
    with ExitStack() as stack:
        service = stack.enter_context(Service())
        gateway = stack.enter_context(Gateway({"listeners": LISTENERS}))
        stack.enter_context(connector(gateway, service.address))
        proxy = f"http://{gateway.address('dc1')}"
        curled = curl("-p", "--proxy", proxy, "--noproxy", "", f"http://{service.address}/x?y")
    assert curled.code == 0, curled
    assert curled.status == 200
    assert service.requests[0].target == "/x?y"


@pytest.mark.parametrize("family", ["4", "6"])
def test_bytes_pass_in_both_directions_and_each_may_end_first(way: Way, family: str) -> None:
    target = way.open.address if family == "4" else way.open6.address
    with through(way.address, target) as client:
        client.send(b"hello")
        assert client.take(5) == b"hello"
        client.send(b"x" * 300_000)
        client.end()
        assert len(client.rest()) == 300_000


def test_a_service_that_has_said_everything_still_hears_its_client() -> None:
    heard: list[int] = []

    def say_and_listen(connection: socket.socket) -> None:
        connection.sendall(b"that is all")
        connection.shutdown(socket.SHUT_WR)
        number = 0
        while data := connection.recv(65536):
            number += len(data)
        heard.append(number)

    with (
        Gateway({"listeners": LISTENERS}) as gateway,
        TcpService(say_and_listen) as service,
        connector(gateway, service.address),
        through(gateway.address("dc1"), service.address) as client,
    ):
        assert client.rest() == b"that is all"
        client.send(b"y" * 300_000)
        client.end()
        until(lambda: heard, "the service hears the end")
    assert heard == [300_000]


def test_case_6_what_comes_behind_the_request_is_held_until_the_way_is_open(way: Way) -> None:
    with Raw(way.address) as client:
        client.send(asked(way.open.address) + b"early ")
        assert client.take(len(THROUGH)) == THROUGH
        assert client.take(6) == b"early "
        client.send(b"late")
        client.end()
        assert client.rest() == b"late"


def test_case_6_much_that_comes_early_waits_and_arrives_whole(way: Way) -> None:
    early = bytes(range(256)) * 4096
    with Raw(way.address) as client, ThreadPoolExecutor(1) as sending:
        sent = sending.submit(client.send, asked(way.open.address) + early)
        assert client.take(len(THROUGH) + len(early)) == THROUGH + early
        sent.result()


@pytest.mark.parametrize(
    ("target", "code", "detail"),
    [
        ("127.0.0.1:{4}", "target_denied", GUARDED),
        ("[::1]:{6}", "target_denied", GUARDED),
        ("[::ffff:127.0.0.1]:{4}", "target_denied", GUARDED),
        ("[::127.0.0.1]:{4}", "target_denied", GUARDED),
        ("[64:ff9b::7f00:1]:{4}", "target_denied", GUARDED),
        ("[::]:{6}", "target_denied", GUARDED),
        ("0.0.0.0:{4}", "target_denied", GUARDED),
        ("127.1.2.3:{4}", "target_denied", GUARDED),
        ("localhost:{4}", "target_denied", GUARDED),
        ("LOCALHOST.:{4}", "target_denied", GUARDED),
        ("169.254.169.254:80", "target_denied", GUARDED),
        ("[fd00:ec2::254]:80", "target_denied", GUARDED),
        ("100.100.100.200:80", "target_denied", GUARDED),
        ("169.254.7.7:80", "target_denied", GUARDED),
        ("[fe80::1]:80", "target_denied", GUARDED),
        ("0x7f.1:{4}", "target_invalid", "four decimal numbers"),
        ("127.1:{4}", "target_invalid", "four decimal numbers"),
        ("2130706433:{4}", "target_invalid", "four decimal numbers"),
        ("0177.0.0.1:{4}", "target_invalid", "four decimal numbers"),
        ("user@host:{4}", "target_invalid", "without a user"),
        ("user@127.0.0.1:{4}", "target_invalid", "without a user"),
        ("127.0.0.1", "target_invalid", "the port is missing"),
        ("127.0.0.1:", "target_invalid", "from 1 to 65535"),
        ("127.0.0.1:0", "target_invalid", "from 1 to 65535"),
        ("127.0.0.1:99999", "target_invalid", "from 1 to 65535"),
        ("127.0.0.1:{4}0000000", "target_invalid", "from 1 to 65535"),
        ("[fe80::1%25lo]:80", "target_invalid", "without a zone"),
        ("::1:{6}", "target_invalid", "in brackets"),
        (":{4}", "target_invalid", "the host is missing"),
        ("/", "target_invalid", "the port is missing"),
        ("http://127.0.0.1:{4}", "target_invalid", "in brackets"),
    ],
)
def test_case_39_a_target_that_is_not_open_is_refused_with_the_reason_and_nothing_is_dialled(
    way: Way, target: str, code: str, detail: str
) -> None:
    ports = {"4": way.secrets["127.0.0.1"].port, "6": way.secrets["::1"].port}
    written = target.replace("{4}", str(ports["4"])).replace("{6}", str(ports["6"]))
    answer = refused(way.address, written)
    assert (answer.status, answer.field("x-tidegate-error")) == (400 if code == "target_invalid" else 403, code)
    assert detail in answer.json()["detail"]
    assert answer.field("connection") == "close"
    assert all(secret.is_untouched for secret in way.secrets.values())


def test_what_is_not_on_the_list_is_refused_with_what_would_allow_it() -> None:
    with Gateway({"listeners": LISTENERS}) as gateway, connector(gateway, "10.0.0.0/8:10250", "*.corp.example:443"):
        for target in ("192.0.2.1:10250", "10.1.2.3:22", "corp.example:443", "nowhere.invalid:443"):
            answer = refused(gateway.address("dc1"), target)
            assert answer.status == 403
            assert answer.json()["detail"] == f"not allowed: add --allow {target} to the agent"


def test_where_nothing_is_allowed_that_is_said_at_the_start_and_everything_is_refused() -> None:
    with Gateway({"listeners": LISTENERS}) as gateway, connector(gateway) as agent:
        agent.event("nothing is allowed", endpoint="dc1")
        assert refused(gateway.address("dc1"), "192.0.2.1:443").field("x-tidegate-error") == "target_denied"


def test_the_agents_own_admin_port_is_not_opened_by_a_network_around_it() -> None:
    with (
        reserved() as admin,
        Gateway({"listeners": LISTENERS}) as gateway,
        connector(gateway, "127.0.0.0/8", options=("--admin", admin)),
    ):
        answer = refused(gateway.address("dc1"), admin)
        assert answer.json()["detail"] == GUARDED
        port = admin.rpartition(":")[2]
        assert refused(gateway.address("dc1"), f"[::ffff:127.0.0.1]:{port}").status == 403


def test_a_target_that_cannot_be_reached_is_a_502_with_the_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = f"127.0.0.1:{taken.getsockname()[1]}"
    with Gateway({"listeners": LISTENERS}) as gateway, connector(gateway, closed, "*.invalid"):
        answer = refused(gateway.address("dc1"), closed)
        assert (answer.status, answer.field("x-tidegate-error")) == (502, "upstream_unreachable")
        assert answer.json()["detail"] == f"nothing listens on {closed}"
        answer = refused(gateway.address("dc1"), "nowhere.invalid:80")
        assert (answer.status, answer.json()["detail"]) == (502, "cannot resolve nowhere.invalid")


def test_clients_of_http_1_0_that_send_no_host_are_served(way: Way) -> None:
    with Raw(way.address) as client:
        client.send(f"CONNECT {way.open.address} HTTP/1.0\r\n\r\nhello".encode())
        assert client.take(len(THROUGH) + 5) == THROUGH + b"hello"


def test_other_methods_and_bodies_are_refused(way: Way) -> None:
    with Raw(way.address) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
        answer = client.answer()
        assert (answer.status, answer.field("allow")) == (405, "CONNECT")
        assert answer.json()["detail"] == "only CONNECT is served here"
    for field in ("Content-Length: 0", "Content-Length: 5", "Transfer-Encoding: chunked"):
        answer = refused(way.address, way.open.address, field)
        assert (answer.status, answer.json()["detail"]) == (400, "a CONNECT has no body"), field


def test_a_target_that_does_not_read_or_answer_stalls_nobody(way: Way) -> None:
    def hang(connection: socket.socket) -> None:
        connection.recv(1)
        until(lambda: done, "the others are done")

    done: list[bool] = []
    with ExitStack() as stack:
        service = stack.enter_context(TcpService(hang))
        # One that accepts nothing: its queue is full, so the dial hangs.
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        name = full.getsockname()
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(name)
        gateway = stack.enter_context(Gateway({"listeners": LISTENERS}))
        allow = (service.address, f"127.0.0.1:{name[1]}", way.open.address)
        stack.enter_context(connector(gateway, *allow, options=("--timeouts-connect", "2s")))
        address = gateway.address("dc1")
        stuck = stack.enter_context(through(address, service.address))
        fill(stuck.socket)
        late = stack.enter_context(Raw(address))
        late.send(asked(f"127.0.0.1:{name[1]}"))
        for _ in range(10):
            with through(address, way.open.address) as quick:
                quick.send(b"quick")
                assert quick.take(5) == b"quick"
        answer = late.answer()
        assert (answer.status, answer.field("x-tidegate-error")) == (504, "upstream_timeout")
        done.append(True)


def test_an_api_server_reaches_its_kubelets_with_certificates_on_both_sides(authority: Authority) -> None:
    server = authority.demanding("DNS:kubelet", "IP:127.0.0.1")
    known = authority.issue("apiserver", use="clientAuth")

    def kubelet(connection: socket.socket) -> None:
        with server.wrap_socket(connection, server_side=True) as tls:
            subject = dict(pair[0] for pair in tls.getpeercert()["subject"])  # type: ignore[index,misc]
            while b"\r\n\r\n" not in (head := tls.recv(65536)):
                pass
            body = f"{subject['commonName']} {head.split()[1].decode()}".encode()
            tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    def logs(pod: int) -> bytes:
        with through(address, service.address) as way:
            context = authority.client("http/1.1", known=known)
            with context.wrap_socket(way.socket, server_hostname="kubelet") as tls:
                tls.sendall(b"GET /containerLogs/%d HTTP/1.1\r\nHost: kubelet\r\n\r\n" % pod)
                assert isinstance(tls, ssl.SSLSocket)
                return tls.recv(65536).partition(b"\r\n\r\n")[2]

    with (
        TcpService(kubelet) as service,
        Gateway({"listeners": LISTENERS}) as gateway,
        connector(gateway, service.address),
        ThreadPoolExecutor(20) as pool,
    ):
        address = gateway.address("dc1")
        assert list(pool.map(logs, range(40))) == [b"apiserver /containerLogs/%d" % pod for pod in range(40)]


def test_the_agents_log_says_what_was_asked_and_where_that_led(way: Way) -> None:
    with through(way.address, way.open.address) as client:
        client.send(b"abc")
        client.take(3)
        client.end()
        client.rest()
    line = access.line(way.agent, method="CONNECT", path=way.open.address, bytes_in=3)
    assert (line["status"], line["endpoint"], line["upstream"]) == (200, "dc1", way.open.address)
    refused(way.address, "localhost:1")
    line = access.line(way.agent, path="localhost:1")
    assert (line["status"], line["error"], line["answered"]) == (403, "target_denied", "agent")
    assert "127.0.0.1:1" in line["upstream"]
