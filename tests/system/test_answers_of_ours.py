"""Answers that come from the gateway or the agent: their status, their JSON, their error code."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest

from tests.support.ports import reserved
from tests.support.process import until
from tests.support.service import Exchange
from tests.support.tidegate import Agent, Gateway
from tests.support.tools import Curled, curl
from tests.system.site import Site


def is_ours(got: Curled, status: int, code: str, error: str) -> None:
    """Checks the form that every answer of ours has."""
    assert got.status == status
    assert got.field("content-type") == "application/json"
    assert got.field("x-content-type-options") == "nosniff"
    assert got.field("x-tidegate-error") == code
    assert got.field("x-tidegate-request-id")
    assert f'"error":"{error}"'.encode() in got.body.replace(b'": "', b'":"')


def test_an_endpoint_that_nobody_offers_is_502(site: Site) -> None:
    got = curl("-H", "x-tidegate-endpoint: nobody", f"http://{site.proxy}/")

    is_ours(got, 502, "no_upstream", "no available upstreams")


def test_a_request_that_names_no_endpoint_is_400(site: Site) -> None:
    is_ours(curl(f"http://{site.proxy}/"), 400, "missing_endpoint", "missing endpoint id")


def test_a_host_without_a_dot_names_no_endpoint(site: Site) -> None:
    got = curl("-H", "Host: web", f"http://{site.proxy}/")

    is_ours(got, 400, "missing_endpoint", "missing endpoint id")


@pytest.mark.parametrize(
    "headers",
    [
        ["x-tidegate-endpoint: web", "x-piko-endpoint: other"],
        ["x-tidegate-endpoint: web", "X-Tidegate-Endpoint: other"],
    ],
)
def test_two_endpoints_in_one_request_are_400(site: Site, headers: list[str]) -> None:
    got = curl(*(part for header in headers for part in ("-H", header)), f"http://{site.proxy}/conflict")

    assert got.status == 400
    assert got.field("content-type") == "application/json"
    assert site.service.named("/conflict") == []


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ü", "x" * 129])
def test_what_cannot_be_the_name_of_an_endpoint_reaches_nobody(site: Site, name: str) -> None:
    got = curl("-H", f"x-tidegate-endpoint: {name}" if name else "x-tidegate-endpoint;", f"http://{site.proxy}/name")

    assert got.status in (400, 502)
    assert site.service.named("/name") == []


def test_paths_of_ours_are_reserved(site: Site) -> None:
    got = curl("-H", "x-tidegate-endpoint: web", f"http://{site.proxy}/_piko/v1/anything")

    assert got.status in (400, 404)
    assert site.service.named("/_piko") == []


def test_a_service_that_is_too_slow_is_504() -> None:
    release = threading.Event()

    def slow(exchange: Exchange) -> None:
        release.wait(20)
        exchange.answer()

    with Site(slow, {"timeouts": {"response": 0.5}}) as site:
        got = curl(site.url("/slow"))
        release.set()

    is_ours(got, 504, "upstream_timeout", "upstream timeout")


def test_a_service_that_does_not_listen_is_502_and_the_agent_names_it() -> None:
    with reserved() as nobody:
        port = nobody.rpartition(":")[2]
        with Gateway() as gateway, Agent(gateway.agents, "http", "web", str(port)) as agent:
            gateway.until_offered("web")
            got = curl("-H", "x-tidegate-endpoint: web", f"http://{gateway.proxy}/")
            warning = agent.event("service unreachable")

        is_ours(got, 502, "upstream_unreachable", "upstream unreachable")
        assert json.loads(got.body) == {"error": "upstream unreachable"}
        assert warning["level"] == "warn"
        assert warning["address"] == f"localhost:{port}"


@pytest.mark.parametrize("accept", ["*/*", "text/html"])
def test_where_an_upstream_is_stands_in_the_log_and_not_in_the_answer(accept: str, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    with reserved() as nobody:
        port = nobody.rpartition(":")[2]
        routes = [
            {"host": "a.test", "to": {"addresses": [nobody]}},
            {"host": "b.test", "to": {"addresses": ["inside.invalid:80"]}},
        ]
        with Gateway({"routes": routes, "access_log": {"to": str(log), "format": "json"}}) as gateway:
            for host, inside in (("a.test", port), ("b.test", "inside.invalid")):
                got = curl("-H", f"Host: {host}", "-H", f"Accept: {accept}", f"http://{gateway.proxy}/")

                assert (got.status, got.field("x-tidegate-error")) == (502, "upstream_unreachable")
                assert inside not in got.body.decode()
            # A line is written behind the answer.
            until(lambda: len(log.read_text().splitlines()) == 2, "both stand in the log")
        told = [json.loads(line)["detail"] for line in log.read_text().splitlines()]
        assert [port in told[0], "inside.invalid" in told[1]] == [True, True]


def test_a_service_that_hangs_up_without_an_answer_is_502() -> None:
    def hang_up(exchange: Exchange) -> None:
        exchange.socket.shutdown(socket.SHUT_RDWR)

    with Site(hang_up) as site:
        got = curl("-X", "POST", site.url("/hang-up"))
        assert len(site.service.named("/hang-up")) == 1, "a POST that may have arrived is not sent again"

    assert got.status == 502
    assert got.field("content-type") == "application/json"


def test_an_answer_that_is_no_http_is_502() -> None:
    with Site(lambda exchange: exchange.send(b"220 smtp.example.com ESMTP\r\n\r\n")) as site:
        got = curl(site.url("/smtp"))

    assert got.status == 502


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["two-lengths", "length-and-chunks", "folded", "space-before-colon", "nul"],
)
def test_an_answer_with_two_readings_is_502(head: bytes) -> None:
    with Site(lambda exchange: exchange.send(head)) as site:
        got = curl(site.url("/ambiguous"))

    assert got.status == 502
    assert b"abc" not in got.body


def is_cut(got: Curled) -> None:
    """Checks that a downstream cannot take a part for the whole: 502 where there was time for it, else a broken end."""
    # curl: transfer closed with outstanding read data remaining, or a reset.
    assert got.status == 502 or (got.status == 200 and got.code in (18, 56)), got


@pytest.mark.parametrize(
    "part",
    [b"Content-Length: 10\r\n\r\nfive.", b"Transfer-Encoding: chunked\r\n\r\n5\r\nfive.\r\n5\r\nfi"],
    ids=["length", "chunks"],
)
def test_a_response_cut_in_the_middle_is_seen_as_cut_by_the_downstream(part: bytes) -> None:
    def cut(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\n" + part)
        exchange.socket.shutdown(socket.SHUT_RDWR)

    with Site(cut) as site:
        got = curl(site.url("/cut"))

    is_cut(got)
