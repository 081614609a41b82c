"""HTTP/2 from downstreams and to upstreams: real clients, what is refused, and floods beside a neighbour."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import h2.connection
import h2.events
import pytest

from tests.support.certificates import Authority
from tests.support.http2 import (
    CONTINUATION,
    DATA,
    ENHANCE_YOUR_CALM,
    HEADERS,
    PING,
    RESET,
    SETTINGS,
    WINDOW_UPDATE,
    Two,
    TwoService,
    closed,
    frame,
)
from tests.support.process import until
from tests.support.relay import Relay
from tests.support.service import Exchange, TcpService
from tests.support.tidegate import Agent, Gateway
from tests.support.tools import curl, need, run
from tests.system.site import Site

PRIOR = "--http2-prior-knowledge"


@pytest.fixture
def two(site: Site) -> Iterator[Two]:
    """A downstream of the site."""
    with Two(site.proxy) as connection:
        yield connection


def echoed(stream: bytes) -> dict[str, object]:
    """What the service of a site says it got."""
    got = json.loads(stream)
    assert isinstance(got, dict)
    return got


# What works.


def test_curl_speaks_http2_by_prior_knowledge(site: Site) -> None:
    got = curl(PRIOR, "-H", "Cookie: a=1", site.url("/prior?x=1"))

    assert (got.lines[0].strip(), echoed(got.body)["target"]) == ("HTTP/2 200", "/prior?x=1")


def test_tls_agrees_on_http2_with_whoever_can(tmp_path: Path) -> None:
    cert, key = Authority(tmp_path).issue("web", "DNS:web.localhost")
    listener = {"bind": "127.0.0.1:0", "tls": {"certificates": [{"cert": str(cert), "key": str(key)}]}}
    with Site(config={"listeners": {"secure": listener}}) as site:
        url = f"https://web.localhost:{site.gateway.address('secure').rpartition(':')[2]}/"
        heads = [curl(version, "--insecure", url).lines[0].split()[:2] for version in ("--http2", "--http1.1")]

    assert heads == [["HTTP/2", "200"], ["HTTP/1.1", "200"]]


def test_bodies_pass_both_ways(site: Site) -> None:
    body = "x" * 300_000

    got = curl(PRIOR, "--data-binary", "@-", site.url("/upload"), stdin=body.encode())

    assert len(str(echoed(got.body)["body"])) == len(body)


def test_an_upload_waits_for_100_continue(site: Site) -> None:
    options = ("-H", "Expect: 100-continue", "--expect100-timeout", "15", "--data-binary", "@-")

    got = curl(PRIOR, *options, site.url("/expect"), stdin=b"x" * 100_000)

    assert [head.split()[1] for head in got.heads] == ["100", "200"]


def test_a_service_that_refuses_an_upload_is_heard() -> None:
    def refuse(exchange: Exchange) -> None:
        exchange.answer("413 Content Too Large", b"too much", ("Connection", "close"))

    with Site(refuse) as site:
        got = curl(PRIOR, "--data-binary", "@-", site.url("/big"), stdin=b"x" * 2_000_000)

    assert (got.status, got.body) == (413, b"too much")


def test_head_gets_the_length_and_no_body(site: Site) -> None:
    got = curl(PRIOR, "--head", site.url("/head"))

    assert (got.status, int(got.field("content-length") or 0) > 0, got.body) == (200, True, b"")


def test_trailers_of_a_service_of_http_1_arrive() -> None:
    def trailing(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n")
        exchange.send(b"5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n")

    with Site(trailing) as site, Two(site.proxy) as two:
        got = two.get()

    assert (got.status, got.body, got.trailers) == (200, b"hello", [("x-sum", "7")])


def test_h2load_finds_every_request_answered(site: Site) -> None:
    load = ("-n", "400", "-c", "4", "-m", "20", "-H", "x-tidegate-endpoint: web")

    said = run(need("h2load"), *load, f"http://{site.proxy}/load")

    assert "400 succeeded, 0 failed, 0 errored" in said


def test_an_answer_of_our_own_is_one_of_http2(site: Site, two: Two) -> None:
    got = two.get(authority="nobody.example.com")

    assert (got.status, got.field("x-tidegate-error")) == (502, "no_upstream")
    assert json.loads(got.body)["error"] == "no available upstreams"
    assert int(got.field("content-length") or 0) == len(got.body)


def test_connect_is_refused(two: Two) -> None:
    got = two.get(method="CONNECT", authority="example.com:443", path="", scheme="")

    assert (got.status, got.field("x-tidegate-error")) == (405, "method_not_supported")


def test_more_streams_than_allowed_are_refused_and_the_connection_goes_on() -> None:
    with Site(config={"limits": {"http2_streams": 3}}) as site, Two(site.proxy) as two:
        two.until(lambda: two.connection.remote_settings.max_concurrent_streams == 3)
        running = [two.request(("content-length", "5"), end=False) for _ in range(3)]
        # The library keeps to the limit; a peer that does not sends this.
        head = two.connection.encoder.encode([(":method", "GET"), (":scheme", "http"), (":path", "/")])
        two.raw(frame(HEADERS, 7, head, flags=5))
        for stream in running:
            two.connection.send_data(stream, b"hello", end_stream=True)
        two.flush()

        assert [two.answer(stream).status for stream in running] == [200, 200, 200]
        assert not two.closed


def test_a_gateway_that_leaves_finishes_what_runs() -> None:
    go = threading.Event()

    def slow(exchange: Exchange) -> None:
        go.wait(20)
        exchange.answer("200 OK", b"late")

    with Site(slow) as site, Two(site.proxy) as two:
        stream = two.request()
        until(lambda: site.service.connections, "the request arrives")
        site.gateway.signal(signal.SIGTERM)
        two.until(lambda: two.goaway is not None)
        go.set()

        assert (two.goaway, two.answer(stream).body) == (0, b"late")
        assert site.gateway.wait() == 0


# What is refused (hardening.md case 9 and 14).


def test_case_9_a_host_that_is_not_the_authority_is_refused(two: Two) -> None:
    got = two.get(("host", "other.example.com"))

    assert (got.status, got.field("x-tidegate-error")) == (400, "malformed_request")
    assert two.get(("host", "web.example.com")).status == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("connection", "close"),
        ("transfer-encoding", "chunked"),
        ("te", "gzip"),
        ("Upper", "x"),
        ("x-a", "b\r\nx-c: d"),
        ("x-a", "b\0"),
        ("x a", "b"),
    ],
)
def test_case_9_fields_that_http_1_would_read_in_another_way_are_refused(site: Site, name: str, value: str) -> None:
    with Two(site.proxy) as two:
        got = two.get((name, value))

        assert got.status != 200 or two.closed


@pytest.mark.parametrize("path", ["/a b", "/a\r\nx: y", "/a\0", "a", "http://other.example.com/"])
def test_case_9_paths_that_http_1_would_read_in_another_way_are_refused(site: Site, path: str) -> None:
    with Two(site.proxy) as two:
        got = two.get(path=path)

        assert got.status != 200 or two.closed


@pytest.mark.parametrize(("length", "body"), [("3", b"hello"), ("9", b"hello"), ("-1", b""), ("+5", b"hello")])
def test_case_9_a_content_length_that_is_not_that_of_the_data_is_refused(length: str, body: bytes) -> None:
    with Site() as site, Two(site.proxy) as two:
        got = two.answer(two.request(("content-length", length), body=body, method="POST", path="/lied"))

        assert got.status != 200
        assert two.get(path="/after").status == 200


def test_case_14_a_head_that_is_too_large_when_decoded_gets_431(site: Site) -> None:
    with Two(site.proxy) as two:
        got = two.get(*[(f"x-{number}", "v") for number in range(300)])

        assert (got.status, got.field("x-tidegate-error")) == (431, "head_too_large")
        assert two.get().status == 200


def test_case_14_crumbs_of_a_cookie_arrive_as_one(two: Two) -> None:
    got = two.get(("cookie", "a=1"), ("cookie", "b=2"), path="/crumbs")

    fields = echoed(got.body)["fields"]
    assert isinstance(fields, list)
    assert [value for name, value in fields if name.lower() == "cookie"] == ["a=1; b=2"]


# Floods (hardening.md cases 15 to 20).


class Flooded:
    """A gateway that is flooded on one connection while a neighbour works on another."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.neighbour = Two(site.proxy)
        assert self.neighbour.get().status == 200

    def by(self, flood: Callable[[Two], None], reason: str) -> None:
        """Floods until the connection is ended, and looks what became of everybody."""
        before = closed(self.site.gateway, reason)
        with Two(self.site.proxy) as hostile:
            hostile.until(lambda: hostile.connection.remote_settings.max_concurrent_streams < 1000)
            flood(hostile)
            hostile.end()
            until(lambda: closed(self.site.gateway, reason) == before + 1, f"one connection closed for {reason}")
            assert hostile.goaway in (None, ENHANCE_YOUR_CALM), hostile.goaway
            assert self.neighbour.get().status == 200
        assert self.site.gateway.running


@pytest.fixture
def flooded(site: Site) -> Iterator[Flooded]:
    """The site of this file, with somebody who is served all along."""
    flooded = Flooded(site)
    with flooded.neighbour:
        yield flooded


def head_of(two: Two, *fields: tuple[str, str]) -> bytes:
    """A header block without a trace in the tables of the connection."""
    pseudo = [(":method", "GET"), (":scheme", "http"), (":authority", "web.example.com"), (":path", "/flood")]
    return bytes(two.connection.encoder.encode([*pseudo, *fields]))


def test_case_15_a_bomb_of_references_ends_the_connection(flooded: Flooded) -> None:
    def bomb(two: Two) -> None:
        # One entry of 4,000 bytes, and references of one byte each to it.
        block = head_of(two, ("x-bomb", "v" * 4000)) + b"\xbe" * 16_000
        first, *rest = [block[at : at + 16_000] for at in range(0, len(block), 16_000)]
        frames = [frame(HEADERS, 1, first, flags=1)]
        frames += [frame(CONTINUATION, 1, part, flags=4 if part is rest[-1] else 0) for part in rest]
        two.raw(b"".join(frames))

    flooded.by(bomb, "calm")


def test_case_16_rapid_resets_end_the_connection(flooded: Flooded) -> None:
    def reset(two: Two) -> None:
        head = head_of(two)
        for first in range(1, 4001, 200):
            streams = range(first, first + 200, 2)
            pairs = (frame(HEADERS, one, head, flags=5) + frame(RESET, one, b"\0\0\0\x08") for one in streams)
            two.raw(b"".join(pairs))

    before = closed(flooded.site.gateway, "calm") + closed(flooded.site.gateway, "resets")
    with Two(flooded.site.proxy) as hostile:
        reset(hostile)
        hostile.end()
    # Either account runs out first: that of streams nobody had seen yet, or that of all.
    until(
        lambda: closed(flooded.site.gateway, "calm") + closed(flooded.site.gateway, "resets") == before + 1,
        "one connection closed",
    )
    assert hostile.goaway in (None, ENHANCE_YOUR_CALM)
    assert flooded.neighbour.get().status == 200


def test_case_17_resets_that_we_are_made_to_send_end_the_connection(flooded: Flooded) -> None:
    def provoke(two: Two) -> None:
        # Data that is longer than it was said to be breaks a stream, not the connection.
        head = head_of(two, ("content-length", "1"))
        for stream in range(1, 2001, 2):
            two.raw(frame(HEADERS, stream, head, flags=4) + frame(DATA, stream, b"12"))

    flooded.by(provoke, "calm")


def test_case_18_continuations_without_end_end_the_connection(flooded: Flooded) -> None:
    def continued(two: Two) -> None:
        two.raw(frame(HEADERS, 1, head_of(two), flags=1))
        two.raw(frame(CONTINUATION, 1) * 1000)

    flooded.by(continued, "calm")


@pytest.mark.parametrize(
    "cheap",
    [
        pytest.param(frame(PING, 0, b"12345678"), id="ping"),
        pytest.param(frame(SETTINGS, 0), id="settings"),
        pytest.param(frame(WINDOW_UPDATE, 0, b"\0\0\0\x01"), id="window"),
        pytest.param(frame(0xFA, 0, b"unknown"), id="unknown"),
    ],
)
def test_case_19_frames_that_carry_nothing_end_the_connection(flooded: Flooded, cheap: bytes) -> None:
    flooded.by(lambda two: two.raw(cheap * 20_000), "frames")


def test_case_19_empty_data_ends_the_connection(flooded: Flooded) -> None:
    def empty(two: Two) -> None:
        two.raw(frame(HEADERS, 1, head_of(two), flags=4) + frame(DATA, 1) * 20_000)

    before = sum(closed(flooded.site.gateway, reason) for reason in ("calm", "frames", "protocol"))
    with Two(flooded.site.proxy) as hostile:
        empty(hostile)
        hostile.end()
    until(
        lambda: sum(closed(flooded.site.gateway, reason) for reason in ("calm", "frames", "protocol")) == before + 1,
        "one connection closed",
    )
    assert flooded.neighbour.get().status == 200


# To upstreams.


def hello(connection: h2.connection.H2Connection, event: h2.events.Event) -> None:
    """Answers every request with its head."""
    if isinstance(event, h2.events.RequestReceived):
        body = json.dumps([[str(name), str(value)] for name, value in event.headers or []]).encode()
        assert event.stream_id is not None
        connection.send_headers(event.stream_id, [(":status", "200"), ("content-type", "application/json")])
        connection.send_data(event.stream_id, body, end_stream=True)


def routed(*addresses: str, **config: object) -> Gateway:
    """A gateway with one route to these addresses."""
    return Gateway({"routes": [{"to": {"addresses": [f"h2c://{address}" for address in addresses]}}], **config})


def test_an_upstream_gets_one_connection_for_many_requests() -> None:
    with TwoService(hello) as service, routed(service.address) as gateway, ExitStack() as stack:
        visitors = [stack.enter_context(Two(gateway.proxy)) for _ in range(4)]
        streams = [[two.request(path=f"/{number}") for number in range(20)] for two in visitors]
        answers = [two.answer(stream) for two, mine in zip(visitors, streams, strict=True) for stream in mine]

        assert {answer.status for answer in answers} == {200}
        # One for each thread.
        assert 1 <= service.connections <= gateway.status()["workers"]


def test_a_request_of_http_1_goes_out_in_http2() -> None:
    with TwoService(hello) as service, routed(service.address) as gateway:
        got = curl("--http1.1", "-H", "TE: trailers", "-H", "Connection: TE", f"http://{gateway.proxy}/one?x=1")

    head = dict(json.loads(got.body))
    assert (head[":authority"], head[":path"], head[":scheme"]) == (gateway.proxy, "/one?x=1", "http")
    assert head["te"] == "trailers"
    assert not {"host", "connection", "transfer-encoding"} & head.keys()


def test_a_stream_that_is_refused_is_tried_elsewhere_whatever_its_method() -> None:
    def refuse(connection: h2.connection.H2Connection, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            assert event.stream_id is not None
            connection.reset_stream(event.stream_id, error_code=7)

    with (
        TwoService(refuse) as first,
        TwoService(hello) as second,
        routed(first.address, second.address) as gateway,
        Two(gateway.proxy) as two,
    ):
        answers = [two.answer(two.request(method="POST", body=b"once")) for _ in range(6)]

    assert {answer.status for answer in answers} == {200}


def test_a_connection_that_ends_by_goaway_is_replaced() -> None:
    seen: list[int] = []

    def once(connection: h2.connection.H2Connection, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived) and event.stream_id == 1:
            hello(connection, event)
            seen.append(1)
            connection.close_connection(last_stream_id=1)

    with TwoService(once) as service, routed(service.address) as gateway, Two(gateway.proxy) as two:
        statuses = [two.answer(two.request(method="POST", body=b"x", path=f"/{number}")).status for number in range(8)]

    assert (statuses, len(seen)) == ([200] * 8, 8)


def test_a_connection_that_died_in_silence_gets_no_new_requests() -> None:
    with (
        TwoService(hello) as service,
        Relay(service.address) as line,
        routed(line.address, timeouts={"response": 1.2}) as gateway,
        Two(gateway.proxy) as two,
    ):
        assert two.get().status == 200
        line.freeze()

        assert [two.get(method="POST").status for _ in range(2)] == [504, 200]


def test_an_upstream_that_speaks_no_http2_is_told_by_a_502() -> None:
    def refuse(near: socket.socket) -> None:
        with near:
            near.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    with TcpService(refuse) as service, routed(service.address) as gateway, Two(gateway.proxy) as two:
        assert two.get().status == 502


def test_case_19_an_upstream_that_sends_frames_without_end_is_cut_and_told() -> None:
    def flood(near: socket.socket) -> None:
        with near, contextlib.suppress(OSError):
            near.sendall(frame(SETTINGS, 0))
            while True:
                near.sendall(frame(PING, 0, b"nothing!") * 100)

    with TcpService(flood) as service, routed(service.address) as gateway, Two(gateway.proxy) as two:
        assert two.get().status == 502
        gateway.event("upstream flooded", upstream=service.address)


# Through a tunnel.


def test_a_service_of_http2_behind_an_agent_shares_one_connection() -> None:
    with TwoService(hello) as service, Gateway() as gateway:
        with Agent(gateway.agents, "http", "web", service.address, "--upstream-protocol", "h2c"):
            gateway.until_offered("web")
            with Two(gateway.proxy) as two:
                streams = [two.request(path=f"/{number}") for number in range(50)]
                answers = [two.answer(stream) for stream in streams]
            one = curl("--http1.1", "-H", "x-tidegate-endpoint: web", f"http://{gateway.proxy}/")

        assert {answer.status for answer in answers} == {200}
        assert one.status == 200
        # One more: the agent has looked at its start whether somebody answers.
        assert service.connections == 2


def test_visitors_who_give_up_do_not_cut_the_connection_that_all_share() -> None:
    with (
        TwoService(hello) as service,
        Gateway() as gateway,
        Agent(gateway.agents, "http", "web", service.address, "--upstream-protocol", "h2c"),
        ExitStack() as stack,
    ):
        gateway.until_offered("web")
        # Each stays within what one connection may do.
        for _ in range(6):
            two = stack.enter_context(Two(gateway.proxy))
            for _ in range(40):
                stream = two.request(method="POST", end=False)
                two.raw(frame(RESET, stream, b"\0\0\0\x08"))
            assert two.get().status == 200

        assert service.connections == 2
        assert closed(gateway, "resets") == 0
