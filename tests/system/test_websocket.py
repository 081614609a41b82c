"""WebSockets of the `websockets` library through the gateway, and upgrades in general."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import Server, ServerConnection, serve

from tests.support.service import Exchange
from tests.support.tidegate import Agent, Gateway
from tests.system.site import Site

MEBIBYTE = 1024 * 1024


def answer(connection: ServerConnection) -> None:
    """Echoes; `close NNNN` closes with that code."""
    for message in connection:
        if isinstance(message, str) and message.startswith("close "):
            connection.close(int(message.removeprefix("close ")), "as told")
            return
        if message == "subprotocol":
            connection.send(str(connection.subprotocol))
        else:
            connection.send(message)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The URL of an echoing service behind the gateway."""
    server: Server
    options = {"max_size": 4 * MEBIBYTE, "select_subprotocol": lambda _, offered: offered[0] if offered else None}
    with serve(answer, "127.0.0.1", 0, **options) as server:  # type: ignore[arg-type]
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        with (
            Gateway() as gateway,
            Agent(gateway.agents, "http", "web", f"127.0.0.1:{server.socket.getsockname()[1]}"),
        ):
            gateway.until_offered("web")
            yield f"ws://web.localhost:{gateway.proxy.rpartition(':')[2]}/chat"
        server.shutdown()
        thread.join(5)


def open_one(url: str, **options: Any) -> ClientConnection:
    """A connection in which no resolver and no proxy of the machine takes part."""
    address = ("127.0.0.1", urlsplit(url).port)
    connection: ClientConnection = connect(url, address=address, proxy=None, max_size=4 * MEBIBYTE, **options)
    return connection


def test_messages_come_back(url: str) -> None:
    with open_one(url) as client:
        for message in ("text", b"bytes", "", b"\0" * 130, "ü" * 70_000):
            client.send(message)
            assert client.recv(20) == message


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_messages_of_a_mebibyte_come_back(url: str, compression: str | None) -> None:
    message = bytes(range(256)) * (MEBIBYTE // 256)
    with open_one(url, compression=compression) as client:
        for _ in range(4):
            client.send(message)
        for _ in range(4):
            assert client.recv(20) == message


def test_fragments_and_pings_pass(url: str) -> None:
    with open_one(url) as client:
        client.send(["in ", "three ", "parts"])
        assert client.recv(20) == "in three parts"
        assert client.ping().wait(20)


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
def test_the_close_code_of_the_service_arrives(url: str, code: int) -> None:
    with open_one(url) as client:
        client.send(f"close {code}")
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(20)

    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, "as told")


def test_the_subprotocol_is_negotiated_end_to_end(url: str) -> None:
    with open_one(url, subprotocols=["superchat", "chat"]) as client:
        assert client.subprotocol == "superchat"
        client.send("subprotocol")
        assert client.recv(20) == "superchat"


def test_many_at_once_do_not_mix(url: str) -> None:
    def talk(number: int) -> bool:
        with open_one(url) as client:
            for turn in range(20):
                client.send(f"{number} {turn}")
                if client.recv(20) != f"{number} {turn}":
                    return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(talk, range(32)))


UPGRADE = b"GET /upgrade HTTP/1.1\r\nHost: web.example.com\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n"


def test_any_protocol_passes_after_101() -> None:
    def switch(exchange: Exchange) -> None:
        assert exchange.value("upgrade") == "chat"
        exchange.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\nhello")
        while data := exchange.receive():
            exchange.send(data.upper())

    with Site(switch) as site, site.connect() as downstream:
        downstream.send(UPGRADE)
        head = downstream.until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"upgrade: chat" in head.lower()
        assert downstream.take(5) == b"hello"
        downstream.send(b"more")
        assert downstream.take(4) == b"MORE"
        downstream.end()
        assert downstream.rest() == b""


def test_nothing_passes_before_101() -> None:
    seen: list[bytes] = []

    def wait(exchange: Exchange) -> None:
        # What comes behind an upgrade must be held until it is one.
        exchange.socket.settimeout(1)
        try:
            seen.append(exchange.receive())
        except TimeoutError:
            seen.append(b"nothing")
        exchange.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n")

    with Site(wait) as site, site.connect() as downstream:
        downstream.send(UPGRADE + b"GET /smuggled HTTP/1.1\r\nHost: web.example.com\r\n\r\n")
        downstream.until(b"\r\n\r\n")

    assert seen == [b"nothing"]


def test_an_upgrade_that_is_declined_is_a_plain_answer_and_what_follows_another_request() -> None:
    def decline(exchange: Exchange) -> None:
        exchange.answer("200 OK", exchange.target.encode())

    with Site(decline) as site, site.connect() as downstream:
        downstream.send(UPGRADE)
        assert downstream.answer().body == b"/upgrade"
        downstream.send(b"GET /next HTTP/1.1\r\nHost: web.example.com\r\n\r\n")
        assert downstream.answer().body == b"/next"
        assert [exchange.target for exchange in site.service.requests] == ["/upgrade", "/next"]


def test_a_101_that_nobody_asked_for_is_an_error() -> None:
    def switch(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n")
        exchange.socket.shutdown(socket.SHUT_WR)

    with Site(switch) as site, site.connect() as downstream:
        downstream.send(b"GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n")
        assert downstream.answer().status == 502


@pytest.mark.parametrize("protocol", ["h2c", "HTTP/2.0", "TLS/1.0", "websocket, h2c"])
def test_a_protocol_that_would_hide_requests_from_us_is_not_asked_for(protocol: str) -> None:
    with Site() as site, site.connect() as downstream:
        fields = f"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {protocol}\r\nHTTP2-Settings: AAMAAABk\r\n"
        downstream.send(f"GET / HTTP/1.1\r\nHost: web.example.com\r\n{fields}\r\n".encode())
        assert downstream.answer().status == 200
        [exchange] = site.service.requests
        assert exchange.values("upgrade") == exchange.values("http2-settings") == []
