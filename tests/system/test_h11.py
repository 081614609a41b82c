"""
HTTP/1 as h11 reads it: what passes the gateway means the same before and behind it.

Random requests, most of them almost right. Where the gateway sends one on, h11 has to accept it as it was sent, and as
it arrived, with the same method, target and body; where h11 refuses it, nothing may arrive.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import h11
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.raw import Raw
from tests.support.service import Exchange
from tests.system.site import Site

HOST = b"Host: web.example.com"
POST = b"POST / HTTP/1.1\r\n" + HOST + b"\r\nConnection: close\r\n"


@dataclass
class Seen:
    """A request, whole."""

    method: bytes
    target: bytes
    body: bytes


@dataclass
class Arrived:
    """What has come to the service."""

    requests: list[Seen] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, exchange: Exchange) -> None:
        """Notes the request and answers."""
        try:
            body = exchange.read()
        except OSError:
            # It was not whole and is not sent on any further: nothing has arrived.
            return
        with self.lock:
            self.requests.append(Seen(exchange.method.encode(), exchange.target.encode(), body))
        exchange.answer("200 OK", b"seen")

    def take(self) -> list[Seen]:
        """What has come since the last time."""
        with self.lock:
            taken, self.requests = self.requests, []
        return taken


@pytest.fixture(scope="module")
def arrived() -> Arrived:
    return Arrived()


@pytest.fixture(scope="module")
def site(arrived: Arrived) -> Iterator[Site]:
    # A request that is not whole is not waited for.
    with Site(arrived.answer, {"timeouts": {"head": 0.15, "idle": 0.15, "keep_alive": 0.15}}) as running:
        yield running


def as_h11_reads(raw: bytes) -> Seen | None:
    """The request as h11 understands it; none where it refuses it or waits for more."""
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(raw)
    reader.receive_data(b"")
    head: h11.Request | None = None
    body = b""
    try:
        while True:
            match reader.next_event():
                case h11.Request() as request:
                    head = request
                case h11.Data(data=data):
                    body += bytes(data)
                case h11.EndOfMessage():
                    return Seen(bytes(head.method), bytes(head.target), body) if head is not None else None
                case _:
                    return None
    except h11.RemoteProtocolError:
        return None


METHODS = st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"get", b"G(T", b""])
TARGETS = st.sampled_from(
    [b"/", b"/a?b=c", b"/%2e%2e/", b"http://web.example.com/x", b"/a b", b"/\x00", b"*", b"", b"/#f"],
)
VERSIONS = st.sampled_from([b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1", b"HTTP/1.11"])
LENGTHS = st.sampled_from([b"4", b"04", b"+4", b"0x4", b"4, 4", b"-1", b"", b"4 ", b"99999999999999999999"])
FIELDS = st.one_of(
    st.sampled_from([HOST, b"Host: other", b"host:web.example.com", b"Connection: X-A"]),
    st.sampled_from([b"X-A: 1", b"X-A : 1", b" X-A: folded", b": empty"]),
    st.sampled_from([b"X-B: a\x00b", b"X-B: a\rb", b"X-C: \xff\xfe"]),
    st.builds(lambda value: b"Content-Length: " + value, LENGTHS),
    st.sampled_from([b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"transfer-encoding:  CHUNKED"]),
)
CHUNKS = b"4\r\nbody\r\n0\r\n\r\n"
BODIES = st.sampled_from(
    [
        b"",
        b"body",
        b"body and more",
        CHUNKS,
        b"4;x=y\r\nbody\r\n0\r\nT: 1\r\n\r\n",
        b"4\nbody\n0\n\n",
        b"-4\r\nbody",
    ]
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """The bytes of a request that is almost right."""
    line = draw(METHODS) + b" " + draw(TARGETS) + b" " + draw(VERSIONS)
    fields = [HOST, b"Connection: close", *draw(st.lists(FIELDS, max_size=3))]
    end = draw(st.sampled_from([b"\r\n"] * 8 + [b"\n"]))
    return end.join([line, *draw(st.permutations(fields)), b"", b""]) + draw(BODIES)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(POST + b"Content-Length: 4\r\n\r\nbody")
@example(POST + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS)
@example(POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n")
@given(raw=requests())
def test_what_the_gateway_sends_on_means_the_same_to_h11(site: Site, arrived: Arrived, raw: bytes) -> None:
    arrived.take()
    with Raw(site.proxy) as downstream:
        downstream.send(raw)
        downstream.rest()
    expected = as_h11_reads(raw)
    first = next(iter(arrived.take()), None)
    if first is None:
        return
    assert expected is not None, "sent on, although h11 refuses it"
    # An absolute target reaches the service as path and query.
    assert first.target == expected.target.removeprefix(b"http://web.example.com")
    assert (first.method, first.body) == (expected.method, expected.body)


def test_the_comparison_sees_requests_at_all(site: Site, arrived: Arrived) -> None:
    arrived.take()
    with site.connect() as downstream:
        downstream.send(b"POST /x HTTP/1.1\r\n" + HOST + b"\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody")
        assert downstream.rest().endswith(b"seen")
    assert arrived.take() == [Seen(b"POST", b"/x", b"body")]
