"""HTTP through a tunnel, by curl: the ways to name an endpoint, and what a message may look like."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.support.process import until
from tests.support.service import Exchange, read_head
from tests.support.tools import curl
from tests.system.site import Site


def test_an_endpoint_is_named_by_the_header(site: Site) -> None:
    got = curl("-H", "x-tidegate-endpoint: web", f"http://{site.proxy}/by-header?a=b%20c")

    assert got.status == 200
    assert json.loads(got.body)["target"] == "/by-header?a=b%20c"


def test_an_endpoint_is_named_by_pikos_header(site: Site) -> None:
    got = curl("-H", "X-Piko-Endpoint: web", f"http://{site.proxy}/by-piko")

    assert got.status == 200


def test_an_endpoint_is_named_by_the_first_label_of_the_host(site: Site) -> None:
    resolve = f"WEB.gate.example.com:{site.port}:127.0.0.1"

    got = curl("--resolve", resolve, f"http://WEB.gate.example.com:{site.port}/by-host")

    assert got.status == 200


def test_an_endpoint_is_named_below_localhost_without_a_resolver(site: Site) -> None:
    assert curl(site.url("/by-localhost")).status == 200


def test_the_header_wins_over_the_host(site: Site) -> None:
    assert (
        curl("-H", "x-tidegate-endpoint: web", "-H", "Host: other.example.com", f"http://{site.proxy}/").status == 200
    )


def test_head_gets_the_length_and_no_body(site: Site) -> None:
    got = curl("--head", site.url("/head"))

    assert got.status == 200
    assert int(got.field("content-length") or 0) > 0
    assert got.body == b""


def test_an_upload_waits_for_100_continue(site: Site, tmp_path: Path) -> None:
    body = b"x" * 300_000
    file = tmp_path / "upload"
    file.write_bytes(body)

    got = curl("-H", "Expect: 100-continue", "--expect100-timeout", "15", "-T", str(file), site.url("/expect"))

    assert [head.split()[1] for head in got.heads] == ["100", "200"]
    assert len(json.loads(got.body)["body"]) == len(body)


def test_a_service_that_refuses_an_upload_is_heard_before_the_body_comes() -> None:
    def refuse(exchange: Exchange) -> None:
        exchange.answer("413 Content Too Large", b"too much", ("Connection", "close"))

    with Site(refuse) as site, site.connect() as downstream:
        downstream.send(b"PUT /big HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 1000000\r\n")
        downstream.send(b"Expect: 100-continue\r\n\r\n")

        answer = downstream.answer("PUT")

    assert (answer.status, answer.body) == (413, b"too much")


def test_a_downstream_of_http_1_0_gets_a_response_that_ends_with_the_connection(site: Site) -> None:
    with site.connect() as downstream:
        downstream.send(b"GET /old HTTP/1.0\r\nHost: web.example.com\r\n\r\n")
        whole = downstream.rest()

    head, _, body = whole.partition(b"\r\n\r\n")
    assert b" 200 " in head.split(b"\r\n")[0]
    assert b"transfer-encoding" not in head.lower()
    assert json.loads(body)["target"] == "/old"


def test_a_downstream_of_http_1_0_gets_no_chunks_where_the_service_sends_some() -> None:
    def chunked(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")

    with Site(chunked) as site:
        got = curl("--http1.0", site.url())

    assert (got.status, got.body) == (200, b"abcde")
    assert got.field("transfer-encoding") is None


def test_a_service_of_http_1_0_ends_its_answer_by_closing() -> None:
    def old(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil the end")
        exchange.socket.shutdown(socket.SHUT_WR)

    with Site(old) as site:
        assert curl(site.url()).body == b"until the end"
        assert curl(site.url()).body == b"until the end"


def test_a_chunked_upload_brings_its_trailers(site: Site) -> None:
    with site.connect() as downstream:
        downstream.send(
            b"POST /trailers HTTP/1.1\r\nHost: web.example.com\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
            b"5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 11\r\n\r\n"
        )
        got = downstream.answer("POST").json()

    assert got["body"] == "hello world"
    assert got["trailers"] == [["X-Sum", "11"]]


def test_a_chunked_upload_by_curl_arrives_whole(site: Site) -> None:
    body = bytes(range(256)) * 1000

    got = curl("-H", "Transfer-Encoding: chunked", "--data-binary", "@-", site.url("/chunks"), stdin=body)

    assert json.loads(got.body)["body"].encode("latin-1") == body


def test_trailers_of_a_response_arrive() -> None:
    def trailing(exchange: Exchange) -> None:
        exchange.send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 3\r\n\r\n"
        )

    with Site(trailing) as site, site.connect() as downstream:
        downstream.send(b"GET / HTTP/1.1\r\nHost: web.example.com\r\nTE: trailers\r\n\r\n")
        whole = downstream.until(b"0\r\nX-Sum: 3\r\n\r\n")

    assert b"abc" in whole


def test_connect_is_refused(site: Site) -> None:
    with site.connect() as downstream:
        downstream.send(b"CONNECT web.example.com:443 HTTP/1.1\r\nHost: web.example.com:443\r\n\r\nearly data")
        answer = downstream.answer("CONNECT")
        rest = downstream.rest()

    assert answer.status in (400, 405, 501)
    assert rest == b""
    assert b"early data" not in bytes(site.service.received)


def test_responses_without_a_body_keep_the_connection(site: Site) -> None:
    def answer(exchange: Exchange) -> None:
        exchange.send(
            b"HTTP/1.1 204 No Content\r\n\r\n"
            if exchange.target == "/204"
            else b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n'
        )

    with Site(answer) as empty, empty.connect() as downstream:
        for path, status in ((b"/204", 204), (b"/304", 304), (b"/204", 204)):
            downstream.send(b"GET " + path + b" HTTP/1.1\r\nHost: web.example.com\r\n\r\n")
            assert downstream.answer().status == status


def test_pipelined_requests_are_answered_in_their_order(site: Site) -> None:
    with site.connect() as downstream:
        downstream.send(b"".join(b"GET /pipe%d HTTP/1.1\r\nHost: web.a.b\r\n\r\n" % n for n in range(5)))
        with downstream.socket.makefile("rb") as reader:
            targets = []
            for _ in range(5):
                length = read_head(reader).lower().partition(b"content-length:")[2].split(b"\r\n")[0]
                targets.append(json.loads(reader.read(int(length)))["target"])

    assert targets == [f"/pipe{n}" for n in range(5)]


def test_connections_are_kept_on_both_sides() -> None:
    with Site() as site, site.connect() as downstream:
        for number in range(20):
            downstream.send(b"GET /%d HTTP/1.1\r\nHost: web.example.com\r\n\r\n" % number)
            assert downstream.answer().status == 200

        assert len({exchange.connection for exchange in site.service.requests}) == 1
        [listener] = [entry for entry in site.gateway.status()["listeners"] if entry["name"] == "proxy"]
        assert listener["connections"] == 1


def test_a_request_that_says_close_is_the_last_of_its_connection(site: Site) -> None:
    with site.connect() as downstream:
        downstream.send(b"GET /last HTTP/1.1\r\nHost: web.example.com\r\nConnection: close\r\n\r\n")
        answer = downstream.answer()
        rest = downstream.rest()

    assert (answer.status, answer.field("connection"), rest) == (200, "close", b"")


def test_an_answer_that_comes_before_the_upload_ends_does_not_wait_for_it() -> None:
    def early(exchange: Exchange) -> None:
        exchange.answer("200 OK", b"early")

    with Site(early) as site, site.connect() as downstream:
        downstream.send(b"POST / HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 10000000\r\n\r\nbegun")
        assert downstream.answer("POST").body == b"early"


@pytest.mark.parametrize("method", ["OPTIONS", "DELETE", "PATCH", "REPORT"])
def test_any_method_passes(site: Site, method: str) -> None:
    got = curl("-X", method, site.url(f"/method-{method}"))

    assert json.loads(got.body)["method"] == method


def test_options_of_the_whole_server_passes_as_a_star(site: Site) -> None:
    got = curl("-X", "OPTIONS", "--request-target", "*", site.url())

    assert json.loads(got.body)["target"] == "*"


def test_a_downstream_that_leaves_ends_the_request_at_the_service() -> None:
    left: list[bool] = []

    def endless(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                exchange.send(b"5\r\nmore.\r\n")
        except OSError:
            left.append(True)

    with Site(endless) as site:
        with site.connect() as downstream:
            downstream.send(b"GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n")
            downstream.take(1000)
        until(lambda: left, "the service sees the downstream leave")
