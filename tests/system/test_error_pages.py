"""What people and programs see where tidegate answers itself: HTML or JSON, built in or the user's."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.support.http import Response, request
from tests.support.raw import Raw
from tests.support.service import Exchange, Service, echo
from tests.support.tidegate import Gateway
from tests.support.tools import curl
from tests.system.site import Site

FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
CHROME = (
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,"
    "application/signed-exchange;v=b3;q=0.7"
)


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with Gateway() as gateway:
        yield gateway


def ask(gateway: Gateway, accept: str | None, *, method: str = "GET") -> Response:
    """Asks for an endpoint that nobody offers."""
    headers = {} if accept is None else {"Accept": accept}
    return request(gateway.proxy, endpoint="nobody", headers=headers, method=method)


@pytest.mark.parametrize("accept", [FIREFOX, CHROME, "text/html", "text/*;q=0.5, application/json;q=0.4"])
def test_a_browser_gets_a_page_that_needs_nothing_else(gateway: Gateway, accept: str) -> None:
    answer = ask(gateway, accept)

    assert answer.status == 502
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-tidegate-error"] == "no_upstream"
    for said in ("502 Bad Gateway", "no available upstreams", "no_upstream", answer.headers["x-tidegate-request-id"]):
        assert said in answer.text
    assert not links(answer.text)


def links(page: str) -> list[str]:
    """What a page would load."""
    found: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "action"))

    Links().feed(page)
    return found


@pytest.mark.parametrize(
    "accept", [None, "*/*", "application/json", "application/json, text/html", "text/html;q=0, */*", "image/png", "%"]
)
def test_a_program_gets_json(gateway: Gateway, accept: str | None) -> None:
    answer = ask(gateway, accept)

    assert (answer.status, answer.headers["content-type"]) == (502, "application/json")
    assert answer.json() == {"error": "no available upstreams"}


@pytest.mark.parametrize("accept", [FIREFOX, "*/*"])
def test_head_gets_the_same_head_and_no_body(gateway: Gateway, accept: str) -> None:
    whole, head = ask(gateway, accept), ask(gateway, accept, method="HEAD")

    assert head.body == b""
    for name in ("content-type", "content-length", "x-tidegate-error"):
        assert head.headers[name] == whole.headers[name]


def test_pages_of_the_user_take_the_place_of_ours_and_are_filled_in(tmp_path: Path) -> None:
    html, json = tmp_path / "error.html", tmp_path / "error.json"
    html.write_text("<h1>{status} bei uns: {code}</h1><p>{message} {detail}</p>{other}{request_id}")
    json.write_text('{"status": {status}, "title": "{reason}", "trace": "{request_id}", "why": "{detail}"}')
    pages = {"html": str(html), "json": str(json)}
    with Gateway(
        {"error_pages": pages, "no_route_status": 502, "routes": [{"host": "a.test", "respond": 204}]}
    ) as gateway:
        page = request(gateway.proxy, headers={"Accept": FIREFOX})
        trace = page.headers["x-tidegate-request-id"]
        assert (page.status, page.text) == (502, f"<h1>502 bei uns: no_route</h1><p>no route </p>{{other}}{trace}")
        program = request(gateway.proxy)
        assert program.json() == {
            "status": 502, "title": "Bad Gateway", "trace": program.headers["x-tidegate-request-id"], "why": "",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"Host : a\r\n\r\n", 400),
        (b"Host: a\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n", 431),
        (b"Host: a\r\nX-Nev", 408),
    ],
    ids=["400", "431", "408"],
)
def test_a_request_whose_head_cannot_be_read_gets_the_page_for_programs(
    tmp_path: Path, head: bytes, status: int
) -> None:
    (html := tmp_path / "error.html").write_text("<h1>{status}</h1>")
    (json := tmp_path / "error.json").write_text('{"mine": {status}}')
    config = {"error_pages": {"html": str(html), "json": str(json)}, "timeouts": {"head": 0.3}}
    accept = f"GET / HTTP/1.1\r\nAccept: {FIREFOX}\r\n".encode()
    with Gateway(config) as gateway, Raw(gateway.proxy) as downstream:
        # What the request before on this connection accepted says nothing about this one.
        downstream.send(accept + b"Host: a\r\n\r\n")
        assert downstream.answer().body == b"<h1>400</h1>"
        downstream.send(accept + head)
        answer = downstream.answer()
        assert (answer.status, answer.field("content-type")) == (status, "application/json")
        assert answer.json() == {"mine": status}


def test_a_request_that_is_refused_for_what_it_says_gets_the_page_it_accepts(tmp_path: Path) -> None:
    (html := tmp_path / "error.html").write_text("<h1>{status} {code}</h1>")
    refused = (
        b"GET / HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n"
    )
    with Gateway({"error_pages": {"html": str(html)}}) as gateway, Raw(gateway.proxy) as downstream:
        downstream.send(refused)
        assert downstream.answer().body == b"<h1>400 malformed_request</h1>"


def test_what_an_upstream_says_about_itself_is_left_alone() -> None:
    def broken(exchange: Exchange) -> None:
        exchange.answer("503 Service Unavailable", b"back soon", ("Content-Type", "text/plain"))

    with Site(broken) as site:
        got = curl("-H", f"Accept: {FIREFOX}", site.url())
        assert (got.status, got.body) == (503, b"back soon")


def test_an_upstream_that_answers_nonsense_is_told_as_a_page() -> None:
    def nonsense(exchange: Exchange) -> None:
        if "/bad" in exchange.target:
            exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n")
        else:
            echo(exchange)

    with Service(nonsense) as service, Gateway({"routes": [{"to": {"addresses": [service.address]}}]}) as gateway:
        headers = {"Accept": FIREFOX}
        answer = request(gateway.proxy, "/bad", headers=headers)
        assert (answer.status, answer.headers["content-type"]) == (502, "text/html; charset=utf-8")
        assert answer.headers["x-tidegate-error"] == "upstream_malformed"
        assert request(gateway.proxy, "/good", headers=headers).status == 200
