"""`tidegate kiagateway`: what kiagateway does, and what it should have done."""

from __future__ import annotations

import itertools
import json
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.support import access
from tests.support.certificates import Authority
from tests.support.http import request
from tests.support.ports import reserved
from tests.support.predecessors import Kiagateway, save_by_rename, servers, shake
from tests.support.process import until
from tests.support.raw import Raw
from tests.support.relay import Relay
from tests.support.service import Exchange, Service, TcpService
from tests.support.tidegate import Agent, Gateway, command
from tests.support.tools import run

UNRECOGNIZED_NAME = 112


def says(text: str) -> Service:
    """A service that answers with its own name and the request's."""
    return Service(lambda exchange: _answer(exchange, text))


def _answer(exchange: Exchange, text: str) -> None:
    exchange.read()
    exchange.answer(body=f"{text} {exchange.target}".encode())


@dataclass
class Place:
    """A gateway between two services, each of them with TLS and without."""

    gateway: Kiagateway
    authority: Authority
    one: Service
    two: Service


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """`one.example` and `*.wild.example` lead to the first, `two.example` to the second, `gone.example` to nobody."""
    folder = tmp_path_factory.mktemp("kiagateway")
    authority = Authority(folder)
    with ExitStack() as stack:
        one, two = stack.enter_context(says("one")), stack.enter_context(says("two"))
        tls_one = stack.enter_context(Relay(one.address, authority.server("DNS:one.example", "DNS:*.wild.example")))
        tls_two = stack.enter_context(Relay(two.address, authority.server("DNS:two.example")))
        gone = stack.enter_context(reserved())
        gateway = Kiagateway(
            folder,
            {"one.example": tls_one.address, "*.wild.example": tls_one.address, "two.example": tls_two.address},
            {
                "one.example": one.address,
                "*.wild.example": one.address,
                "two.example": f"localhost:{two.port}",
                "gone.example": gone,
                "[::1]": two.address,
            },
        )
        yield Place(stack.enter_context(gateway), authority, one, two)


def body(place: Place, host: str) -> str:
    """What a request for this host brings back."""
    return request(place.gateway.http, headers={"Host": host}).text


def test_http_goes_where_its_host_says(place: Place) -> None:
    assert body(place, "one.example") == "one /"
    assert body(place, "two.example:80") == "two /"


@pytest.mark.parametrize("host", ["ONE.example", "one.example.", "One.Example.:8080"])
def test_a_host_is_compared_without_case_port_and_the_dot_at_its_end(place: Place, host: str) -> None:
    assert body(place, host) == "one /"


def test_an_ipv6_address_is_a_host(place: Place) -> None:
    assert body(place, "[::1]") == "two /"
    assert body(place, "[0:0:0:0:0:0:0:1]:80") == "two /"


def test_a_wildcard_stands_for_every_name_below(place: Place) -> None:
    assert body(place, "a.wild.example") == "one /"
    assert body(place, "a.b.wild.example") == "one /"
    assert request(place.gateway.http, headers={"Host": "wild.example"}).status == 502


def test_each_request_of_a_kept_connection_is_routed_by_itself(place: Place) -> None:
    with Raw(place.gateway.http) as downstream:
        for host, text in (("one.example", b"one /"), ("two.example", b"two /"), ("one.example", b"one /")):
            downstream.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert downstream.answer().body == text
        downstream.send(b"GET / HTTP/1.1\r\nHost: nobody.example\r\n\r\n")
        assert downstream.answer().status == 502


def test_an_unknown_host_and_an_unreachable_backend_are_502(place: Place) -> None:
    assert request(place.gateway.http, headers={"Host": "nobody.example"}).status == 502
    assert request(place.gateway.http, headers={"Host": "gone.example"}).status == 502


@pytest.mark.parametrize("fields", ["", "Host: one.example\r\nHost: two.example\r\n", "Host: a b\r\n", "Host: a@b\r\n"])
def test_a_missing_repeated_or_invalid_host_is_400(place: Place, fields: str) -> None:
    with Raw(place.gateway.http) as downstream:
        downstream.send(f"GET / HTTP/1.1\r\n{fields}\r\n".encode())
        assert downstream.answer().status == 400


def test_a_head_of_more_than_32_kib_is_431(place: Place) -> None:
    with Raw(place.gateway.http) as downstream:
        downstream.send(b"GET / HTTP/1.1\r\nHost: one.example\r\nX-Long: " + b"x" * 33_000 + b"\r\n\r\n")
        assert downstream.answer().status == 431
    assert request(place.gateway.http, headers={"Host": "one.example", "X-Long": "x" * 30_000}).status == 200


def test_a_head_that_takes_more_than_5_seconds_is_408(place: Place) -> None:
    begun = time.monotonic()
    with Raw(place.gateway.http) as downstream:
        downstream.send(b"GET / HTTP/1.1\r\nHost: one.exam")
        assert downstream.answer().status == 408
    assert 4 < time.monotonic() - begun < 15


def test_tls_goes_where_its_server_name_says_and_is_not_decrypted(place: Place) -> None:
    for name, text in (
        ("one.example", "one"),
        ("two.example", "two"),
        ("ONE.example", "one"),
        ("a.wild.example", "one"),
    ):
        # The certificate is the backend's: our authority signed no other.
        with shake(place.gateway.https, name, place.authority.ca) as downstream:
            downstream.sendall(f"GET /tls HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
            assert downstream.makefile("rb").read().endswith(f"{text} /tls".encode())


def test_an_unknown_server_name_gets_the_alert_unrecognized_name(place: Place) -> None:
    with pytest.raises(ssl.SSLError) as refused:
        shake(place.gateway.https, "nobody.example", place.authority.ca)
    assert refused.value.reason == "TLSV1_UNRECOGNIZED_NAME"


def test_a_hello_without_a_server_name_gets_an_alert(place: Place) -> None:
    with pytest.raises(ssl.SSLError):
        shake(place.gateway.https, None, place.authority.ca)


def test_plain_http_on_the_tls_port_is_told_so(place: Place) -> None:
    assert request(place.gateway.https, headers={"Host": "one.example"}).status == 400


def test_a_hello_that_does_not_end_is_given_up_after_5_seconds(place: Place) -> None:
    begun = time.monotonic()
    with Raw(place.gateway.https) as downstream:
        downstream.send(b"\x16\x03\x01\x02\x00\x01")
        downstream.rest()
    assert 4 < time.monotonic() - begun < 15


def test_there_are_metrics_and_an_access_log(place: Place) -> None:
    request(place.gateway.http, "/counted", headers={"Host": "two.example"})
    with shake(place.gateway.https, "two.example", place.authority.ca):
        pass

    line = access.line(place.gateway, path="/counted")
    assert (line["listener"], line["route"], line["status"]) == ("http", "http-two.example", 200)
    until(lambda: access.lines(place.gateway, listener="https", route="https-two.example"), "the TLS one is logged")
    metrics = request(place.gateway.admin, "/metrics").text
    assert 'endpoint="http-two.example"' in metrics
    assert request(place.gateway.admin, "/health").status == 200


def test_a_connection_is_cut_when_it_is_idle_and_not_before(tmp_path: Path) -> None:
    with (
        TcpService(_echo) as backend,
        Kiagateway(tmp_path, {"a.example": backend.address}, {}, "--timeouts-idle", "1") as gateway,
        Raw(gateway.https) as downstream,
    ):
        hello = client_hello("a.example")
        downstream.send(hello)
        assert downstream.take(len(hello)) == hello
        begun = time.monotonic()
        # Three times as long as the limit, and never idle.
        for number in itertools.count():
            downstream.send(b"%d" % (number % 10))
            assert downstream.take(1) == b"%d" % (number % 10)
            if time.monotonic() - begun > 3:
                break
            time.sleep(0.2)
        begun = time.monotonic()
        assert downstream.rest() == b""
        assert 0.5 < time.monotonic() - begun < 10


def _echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


def client_hello(name: str) -> bytes:
    """The first bytes of a client that asks for this name."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def test_a_changed_file_is_in_force_without_a_restart(tmp_path: Path) -> None:
    with says("one") as one, says("two") as two, Kiagateway(tmp_path, {}, {"a.example": one.address}) as gateway:
        host = {"Host": "a.example"}
        with Raw(gateway.http) as kept:
            kept.send(b"GET /before HTTP/1.1\r\nHost: a.example\r\n\r\n")
            assert kept.answer().body == b"one /before"
            gateway.file.write_text(servers({}, {"a.example": two.address}))
            until(lambda: request(gateway.http, headers=host).text == "two /", "the file is in force")
            # The connection of before lives on, and its next request goes by the new file.
            kept.send(b"GET /after HTTP/1.1\r\nHost: a.example\r\n\r\n")
            assert kept.answer().body == b"two /after"
        save_by_rename(gateway.file, servers({}, {"a.example": one.address}))
        until(lambda: request(gateway.http, headers=host).text == "one /", "a file saved by rename is in force")


@pytest.mark.parametrize("text", ["", "[https_backends]\n", "[http_backends\n", '[http_backends]\n"a" = 1\n'])
def test_an_empty_or_broken_file_changes_nothing(tmp_path: Path, text: str) -> None:
    with says("one") as one, Kiagateway(tmp_path, {}, {"a.example": one.address}) as gateway:
        gateway.file.write_text(text)
        gateway.says("servers.toml")
        gateway.event("configuration refused")
        assert request(gateway.http, headers={"Host": "a.example"}).text == "one /"


def test_it_listens_on_ipv6(tmp_path: Path) -> None:
    with says("one") as one, Kiagateway(tmp_path, {}, {"a.example": one.address}, host="[::1]") as gateway:
        assert gateway.http.startswith("[::1]:")
        with Raw(gateway.http) as downstream:
            downstream.send(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
            assert downstream.answer().body == b"one /"


def imported(tmp_path: Path, http: dict[str, str]) -> dict[str, object]:
    """Our file for a `servers.toml`, its listeners on free ports."""
    file = tmp_path / "servers.toml"
    file.write_text(servers({}, http))
    ours = yaml.safe_load(run(*command("config", "import", "--from", "kiagateway", file)))
    assert isinstance(ours, dict)
    ours["listeners"]["http"]["bind"] = ours["listeners"]["https"]["bind"] = "127.0.0.1:0"
    return ours


def test_a_name_has_several_backends_where_our_file_says_so(tmp_path: Path) -> None:
    with says("one") as one, says("two") as two:
        ours = imported(tmp_path, {"a.example": one.address})
        ours["routes"][0]["to"]["addresses"].append(two.address)  # type: ignore[index]
        with Gateway(json.loads(json.dumps(ours))) as gateway:
            address = gateway.address("http")
            found = {request(address, headers={"Host": "a.example"}).text for _ in range(8)}
    assert found == {"one /", "two /"}


def test_a_tunnel_endpoint_is_a_backend_where_our_file_says_so(tmp_path: Path) -> None:
    with says("one") as one:
        ours = imported(tmp_path, {"a.example": one.address})
        ours["routes"][0]["to"] = {"endpoint": "web"}  # type: ignore[index]
        with Gateway(ours) as gateway, Agent(gateway.agents, "http", "web", one.address):
            gateway.until_offered("web")
            assert request(gateway.address("http"), headers={"Host": "a.example"}).text == "one /"
