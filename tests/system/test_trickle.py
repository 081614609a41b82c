"""Messages that take longer than every timeout, and never stop moving."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import access
from tests.support.service import Exchange
from tests.support.tools import curl
from tests.system.site import Site

SECOND = dict.fromkeys(("connect", "handshake", "head", "response", "idle", "keep_alive", "upstream_keep_alive"), 1)
FLAGS = [part for name in SECOND for part in (f"--timeouts-{name.replace('_', '-')}", "1")]

EVENTS = 20
PAUSE = 0.5


def answer(exchange: Exchange) -> None:
    """Sends events, takes an upload in pieces, or falls silent in the middle."""
    if exchange.target == "/upload":
        pieces = [piece.decode() for piece in exchange.chunks()]
        exchange.answer_json("".join(pieces))
        return
    exchange.read()
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    number = EVENTS if exchange.target == "/events" else 1
    for count in range(number):
        event = f"data: {count}\n\n".encode()
        exchange.send(b"%x\r\n%b\r\n" % (len(event), event))
        time.sleep(PAUSE)
    if exchange.target == "/silence":
        exchange.socket.settimeout(20)
        exchange.socket.recv(1)
        return
    exchange.send(b"0\r\n\r\n")


@pytest.fixture(scope="module")
def hasty() -> Iterator[Site]:
    """Gateway and agent with every timeout set to one second."""
    with Site(answer, {"timeouts": SECOND}, *FLAGS) as site:
        yield site


def test_events_of_ten_seconds_arrive_one_by_one(hasty: Site) -> None:
    arrived: list[float] = []
    with hasty.connect() as downstream:
        downstream.send(b"GET /events HTTP/1.1\r\nHost: web.example.com\r\nAccept: text/event-stream\r\n\r\n")
        assert b" 200 " in downstream.until(b"\r\n\r\n")
        for count in range(EVENTS):
            assert downstream.until(b"\n\n\r\n").endswith(b"data: %d\n\n\r\n" % count)
            arrived.append(time.monotonic())
        assert downstream.until(b"0\r\n\r\n")

    # Held back anywhere, they would arrive together.
    assert arrived[-1] - arrived[0] > 0.9 * PAUSE * (EVENTS - 1)
    assert max(after - before for before, after in itertools.pairwise(arrived)) < 2 * PAUSE + 0.5


def test_an_upload_of_ten_seconds_arrives(hasty: Site) -> None:
    with hasty.connect() as downstream:
        downstream.send(b"POST /upload HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: %d\r\n\r\n" % EVENTS)
        for count in range(EVENTS):
            time.sleep(PAUSE)
            downstream.send(b"%d" % (count % 10))
        answer: Any = downstream.answer("POST")

    assert answer.status == 200
    assert json.loads(answer.body) == "01234567890123456789"


def test_a_response_that_falls_silent_is_cut(hasty: Site) -> None:
    got = curl(hasty.url("/silence"))

    assert got.body == b"data: 0\n\n"
    # Transfer closed with outstanding data, or reset.
    assert got.code in (18, 56)
    assert access.line(hasty.gateway, path="/silence")["error"]


def test_an_upload_that_falls_silent_is_cut(hasty: Site) -> None:
    with hasty.connect() as downstream:
        downstream.send(b"POST /upload?silence HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 100\r\n\r\nsome")
        whole = downstream.rest()

    assert whole == b"" or int(whole.split()[1]) in (400, 408, 504)


def test_a_connection_without_requests_is_closed(hasty: Site) -> None:
    with hasty.connect() as downstream:
        downstream.socket.settimeout(10)
        try:
            assert downstream.socket.recv(1) == b""
        except TimeoutError:
            pytest.fail("still open after 10 s with timeouts.keep_alive of 1 s")
