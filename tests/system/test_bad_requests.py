"""
Malformed requests: 400 and a closed connection, and nothing of them at the service.

All run against one gateway while visitors use it; the last test of the file asks how the visitors fared.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from tests.support import access
from tests.support.http import request
from tests.support.process import until
from tests.support.raw import Raw
from tests.support.service import Exchange
from tests.system.load import Visitors
from tests.system.site import Site

HOST = b"Host: web.example.com\r\n"
MEBIBYTE = 1024 * 1024


def answer(exchange: Exchange) -> None:
    """Reads everything and answers, as most services do."""
    exchange.read()
    exchange.answer("200 OK", b"ok")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A gateway whose visitors meet no error whatever else comes."""
    with Site(answer) as running:
        with Visitors.of(running.proxy, "web", 2) as visitors:
            yield running
            visitors.until_served(10)
        assert visitors.lost == []
        assert running.gateway.running
        assert running.agent.running


def post(*lines: bytes, body: bytes = b"") -> bytes:
    """A POST with these header lines, and behind its body a request that nobody may see."""
    return b"POST /bad HTTP/1.1\r\n" + HOST + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


SMUGGLED = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"
CHUNKED = b"Transfer-Encoding: chunked"

BAD = {
    # 1: two ways to say where the body ends
    "length-and-chunked": post(b"Content-Length: 5", CHUNKED, body=b"0\r\n\r\n" + SMUGGLED),
    "chunked-and-length": post(CHUNKED, b"Content-Length: 5", body=b"0\r\n\r\n" + SMUGGLED),
    "chunked-twice": post(CHUNKED, CHUNKED, body=b"0\r\n\r\n" + SMUGGLED),
    "chunked-not-last": post(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n" + SMUGGLED),
    "gzip-chunked-with-length": post(b"Transfer-Encoding: gzip, chunked", b"Content-Length: 3", body=b"0\r\n\r\n"),
    "xchunked": post(b"Transfer-Encoding: xchunked", b"Content-Length: 3", body=b"0\r\n\r\n" + SMUGGLED),
    "te-with-tab-and-length": post(b"Transfer-Encoding:\tchunked", b"Content-Length: 3", body=b"0\r\n\r\n"),
    "te-quoted": post(b'Transfer-Encoding: "chunked"', b"Content-Length: 3", body=b"0\r\n\r\n"),
    "te-empty-and-length": post(b"Transfer-Encoding:", b"Content-Length: 3", body=b"abc" + SMUGGLED),
    # 2: lengths that are none
    "two-lengths": post(b"Content-Length: 3", b"Content-Length: 4", body=b"abcd" + SMUGGLED),
    "list-of-lengths": post(b"Content-Length: 3, 4", body=b"abcd" + SMUGGLED),
    "empty-length": post(b"Content-Length:", body=b"abc" + SMUGGLED),
    "signed-length": post(b"Content-Length: +3", body=b"abc" + SMUGGLED),
    "negative-length": post(b"Content-Length: -3", body=b"abc" + SMUGGLED),
    "hex-length": post(b"Content-Length: 0x3", body=b"abc" + SMUGGLED),
    "length-with-space": post(b"Content-Length: 1 3", body=b"abc" + SMUGGLED),
    "length-beyond-64-bits": post(b"Content-Length: 18446744073709551619", body=b"abc" + SMUGGLED),
    # 3: lines that end or begin otherwise
    "bare-lf": b"GET /bad HTTP/1.1\nHost: web.example.com\n\n",
    "bare-lf-between-fields": b"GET /bad HTTP/1.1\r\nHost: web.example.com\nX: y\r\n\r\n",
    "bare-cr": b"GET /bad HTTP/1.1\r\nHost: web.example.com\r\nX: a\rb\r\n\r\n",
    "nul": b"GET /bad HTTP/1.1\r\nHost: web.example.com\r\nX: a\0b\r\n\r\n",
    "folded": b"GET /bad HTTP/1.1\r\nHost: web.example.com\r\nX: a\r\n b\r\n\r\n",
    "space-before-colon": post(b"Content-Length : 3", body=b"abc" + SMUGGLED),
    "empty-name": b"GET /bad HTTP/1.1\r\nHost: web.example.com\r\n: y\r\n\r\n",
    "no-colon": b"GET /bad HTTP/1.1\r\nHost: web.example.com\r\nX\r\n\r\n",
    "space-in-name": b"GET /bad HTTP/1.1\r\nHost: web.example.com\r\nX Y: z\r\n\r\n",
    "first-field-begins-with-space": b"GET /bad HTTP/1.1\r\n X: y\r\nHost: web.example.com\r\n\r\n",
    # 8: another HTTP, another Host
    "http-0.9": b"GET /bad\r\n\r\n",
    "http-1.0-chunked": b"POST /bad HTTP/1.0\r\n" + HOST + CHUNKED + b"\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "http-2.0": b"GET /bad HTTP/2.0\r\n" + HOST + b"\r\n",
    "http-1.2": b"GET /bad HTTP/1.23\r\n" + HOST + b"\r\n",
    "no-host": b"GET /bad HTTP/1.1\r\nx-tidegate-endpoint: web\r\n\r\n",
    "two-hosts": b"GET /bad HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
    "two-different-hosts": b"GET /bad HTTP/1.1\r\n" + HOST + b"Host: other.example.com\r\n\r\n",
    "host-with-user": b"GET /bad HTTP/1.1\r\nHost: a@web.example.com\r\n\r\n",
    "host-with-slash": b"GET /bad HTTP/1.1\r\nHost: web.example.com/x\r\n\r\n",
    "host-with-space": b"GET /bad HTTP/1.1\r\nHost: web.example.com x\r\n\r\n",
    "absolute-with-another-host": b"GET http://other.example.com/bad HTTP/1.1\r\n" + HOST + b"\r\n",
    "fragment": b"GET /bad#x HTTP/1.1\r\n" + HOST + b"\r\n",
    "space-in-target": b"GET /bad /x HTTP/1.1\r\n" + HOST + b"\r\n",
    "control-in-target": b"GET /bad\x01 HTTP/1.1\r\n" + HOST + b"\r\n",
    "no-slash": b"GET bad HTTP/1.1\r\n" + HOST + b"\r\n",
    "method-with-colon": b"GE:T /bad HTTP/1.1\r\n" + HOST + b"\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32) + b"\r\n\r\n",
}


def seen(site: Site) -> list[str]:
    """What came to the service and is not the visitors'."""
    return [exchange.target for exchange in list(site.service.requests) if exchange.target != "/visit"]


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_a_malformed_head_is_400_and_goes_nowhere(site: Site, data: bytes) -> None:
    before = seen(site)
    with site.connect() as downstream:
        downstream.send(data)
        whole = downstream.rest()

    assert whole.startswith(b"HTTP/1."), whole
    assert int(whole.split()[1]) in (400, 505), whole
    assert whole.count(b"HTTP/1.1 ") == 1, whole
    assert b"connection: close" in whole.lower()
    assert seen(site) == before


CHUNKS = {
    "no-size": b"\r\nabc\r\n0\r\n\r\n",
    "hex-prefix": b"0x3\r\nabc\r\n0\r\n\r\n",
    "signed": b"+3\r\nabc\r\n0\r\n\r\n",
    "negative": b"-3\r\nabc\r\n0\r\n\r\n",
    "space": b" 3\r\nabc\r\n0\r\n\r\n",
    "beyond-64-bits": b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    "bare-lf": b"3\nabc\n0\n\n",
    "too-long": b"3\r\nabcd\r\n0\r\n\r\n",
    "too-short": b"5\r\nabc\r\n0\r\n\r\n",
    "extension-with-lf": b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "bad-trailer": b"3\r\nabc\r\n0\r\nX : y\r\n\r\n",
}


@pytest.mark.parametrize("body", CHUNKS.values(), ids=CHUNKS.keys())
def test_bad_chunks_end_the_connection_and_never_become_a_request(site: Site, body: bytes) -> None:
    with site.connect() as downstream:
        downstream.send(post(CHUNKED, body=body + SMUGGLED))
        downstream.end()
        whole = downstream.rest()

    assert whole == b"" or int(whole.split()[1]) in (400, 502), whole
    assert whole.count(b"HTTP/1.1 ") <= 1, whole
    assert b"/smuggled" not in bytes(site.service.received)


def test_a_chunk_extension_of_a_mebibyte_is_refused(site: Site) -> None:
    with site.connect() as downstream:
        with contextlib.suppress(OSError):  # refused before all of it was sent
            downstream.send(post(CHUNKED, body=b"3;" + b"x" * MEBIBYTE + b"\r\nabc\r\n0\r\n\r\n"))
        whole = downstream.rest()

    assert whole == b"" or int(whole.split()[1]) in (400, 413, 431), whole[:200]


def test_many_tiny_chunk_extensions_do_not_pass_unbounded(site: Site) -> None:
    with site.connect() as downstream:
        downstream.send(post(CHUNKED, body=b"1;x=1\r\na\r\n" * 1000 + b"0\r\n\r\n"))
        assert downstream.answer("POST").status == 200


def test_a_downstream_that_leaves_in_a_chunk_costs_no_time(site: Site) -> None:
    for _ in range(20):
        with site.connect() as downstream:
            downstream.send(post(CHUNKED, body=b"ffff\r\nabc"))
    before = cpu(site)
    start = time.monotonic()
    request(site.proxy, endpoint="web")
    until(lambda: time.monotonic() - start > 1, "a second has passed")
    # A loop would take the whole second; the visitors take their part of it.
    assert cpu(site) - before < 0.9 * 2


def cpu(site: Site) -> float:
    """Seconds of CPU that the agent has used."""
    with open(f"/proc/{site.agent.pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_a_body_shorter_than_promised_never_becomes_a_whole_request(site: Site) -> None:
    ends: list[str] = []

    def listen(exchange: Exchange) -> None:
        try:
            exchange.read()
            ends.append("whole")
        except OSError:
            ends.append("cut")

    with Site(listen) as other, other.connect() as downstream:
        downstream.send(post(b"Content-Length: 10", body=b"five."))
        downstream.end()
        downstream.rest()
        access.line(other.gateway, path="/bad")
        # It may have been noticed before anything of the request was sent on.
        until(lambda: len(ends) == len(other.service.requests), "the service sees the end of what it has seen begin")
    assert "whole" not in ends


def test_what_follows_a_body_is_the_next_request_and_not_part_of_it(site: Site) -> None:
    with site.connect() as downstream:
        downstream.send(post(b"Content-Length: 3", body=b"abc" + SMUGGLED.replace(b"smuggled", b"honest")))
        downstream.until(b"\r\n\r\nok")
        downstream.until(b"\r\n\r\nok")
    assert len(site.service.named("/honest")) == 1
    assert site.service.named("/bad")[-1].body == b"abc"


def test_a_connection_whose_body_the_service_did_not_read_is_not_used_again() -> None:
    def early(exchange: Exchange) -> None:
        exchange.answer("200 OK", exchange.target.encode())

    with Site(early) as site:
        with site.connect() as downstream:
            downstream.send(b"POST /unread HTTP/1.1\r\n" + HOST + b"Content-Length: 60\r\n\r\n" + b"GET /smuggled")
            assert downstream.answer("POST").body == b"/unread"
        for number in range(5):
            assert request(site.proxy, f"/{number}", endpoint="web").text == f"/{number}"
        assert site.service.named("smuggled") == []
        [unread] = site.service.named("/unread")
        assert unread.connection not in {
            exchange.connection for exchange in site.service.requests if exchange is not unread
        }


@pytest.mark.parametrize(
    "lines",
    [b"X: " + b"y" * 70_000 + b"\r\n", b"X: y\r\n" * 100_000, b"Cookie: a=b\r\n" * 201],
    ids=["one-large-field", "many-fields", "a-field-too-many"],
)
def test_a_head_that_is_too_large_is_431(site: Site, lines: bytes) -> None:
    before = seen(site)
    with site.connect() as downstream:
        with contextlib.suppress(OSError):  # refused before all of it was sent
            downstream.send(b"GET /large HTTP/1.1\r\n" + HOST + lines + b"\r\n")
        whole = downstream.rest()

    assert whole.startswith(b"HTTP/1.1 431 ")
    assert seen(site) == before


def test_a_request_line_that_is_too_large_is_refused(site: Site) -> None:
    with site.connect() as downstream:
        downstream.send(b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n")
        assert int(downstream.rest().split()[1]) in (414, 431)


def test_the_deadline_of_a_head_does_not_move_with_its_bytes() -> None:
    with Site(config={"timeouts": {"head": 1}}) as site, Raw(site.proxy) as downstream:
        start = time.monotonic()
        downstream.send(b"GET / HTTP/1.1\r\n" + HOST)
        downstream.socket.settimeout(0.2)
        whole = b""
        while not whole:
            assert time.monotonic() - start < 10
            try:
                downstream.send(b"X: y\r\n")
                whole = downstream.socket.recv(1000)
            except TimeoutError:
                continue
        assert whole.startswith(b"HTTP/1.1 408 ")
        assert 0.9 < time.monotonic() - start < 3
