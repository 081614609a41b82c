"""Fields on their way: what is kept, what is removed, what is ours."""

from __future__ import annotations

from tests.support.service import Exchange
from tests.support.tools import curl
from tests.system.site import Site

HOST = b"Host: web.example.com\r\n"


def received(site: Site, path: str, *lines: str) -> Exchange:
    """Sends a GET with these lines as they are, and returns what the service got."""
    head = "".join(f"{line}\r\n" for line in (f"GET {path} HTTP/1.1", *lines))
    with site.connect() as downstream:
        downstream.send(head.encode("latin-1") + b"\r\n")
        assert downstream.answer().status == 200
    [exchange] = site.service.named(path)
    return exchange


def test_case_and_order_of_request_fields_are_kept(site: Site) -> None:
    lines = ["Host: web.example.com", "X-ZULU: 1", "x-alpha: 2", "Accept: */*", "X-zulu: 3", "COOKIE: a=b"]

    exchange = received(site, "/order", *lines)

    names = [key for key, _ in exchange.fields if key in {line.partition(":")[0] for line in lines}]
    assert names == ["Host", "X-ZULU", "x-alpha", "Accept", "X-zulu", "COOKIE"]


def test_case_and_order_of_response_fields_are_kept() -> None:
    def answer(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 All Good\r\nX-ZULU: 1\r\nx-alpha: 2\r\nSet-Cookie: a\r\nset-cookie: b\r\n")
        exchange.send(b"Content-Length: 2\r\nX-zulu: 3\r\n\r\nok")

    with Site(answer) as site:
        got = curl(site.url())

    assert got.lines[0] == "HTTP/1.1 200 All Good"
    ours = [line for line in got.lines[1:] if not line.lower().startswith("x-tidegate-")]
    assert ours == ["X-ZULU: 1", "x-alpha: 2", "Set-Cookie: a", "set-cookie: b", "Content-Length: 2", "X-zulu: 3"]


def test_the_service_learns_who_asked_for_what(site: Site) -> None:
    exchange = received(site, "/forwarded", "Host: web.example.com:8000")

    assert exchange.value("host") == "web.example.com:8000"
    assert exchange.value("x-forwarded-for") == "127.0.0.1"
    assert exchange.value("x-forwarded-host") == "web.example.com:8000"
    assert exchange.value("x-forwarded-proto") == "http"
    forwarded = (exchange.value("forwarded") or "").lower()
    assert "for=127.0.0.1" in forwarded
    assert 'host="web.example.com:8000"' in forwarded
    assert "proto=http" in forwarded


def test_what_strangers_say_about_the_way_here_is_dropped(site: Site) -> None:
    exchange = received(
        site,
        "/stranger",
        "Host: web.example.com",
        "X-Forwarded-For: 6.6.6.6",
        "x-forwarded-for: 6.6.6.7",
        "X-FORWARDED-HOST: bank.example",
        "X-Forwarded-Proto: https",
        "Forwarded: for=6.6.6.6;host=bank.example;proto=https",
    )

    assert b"6.6.6" not in exchange.head
    assert b"bank" not in exchange.head
    assert exchange.value("x-forwarded-for") == "127.0.0.1"
    assert exchange.value("x-forwarded-proto") == "http"


def test_aliases_with_underscores_do_not_speak_for_us(site: Site) -> None:
    exchange = received(site, "/underscore", "Host: web.example.com", "X_Forwarded_For: 6.6.6.6", "x_tidegate_id: 6666")

    assert b"666" not in exchange.head.replace(b".", b"")


def test_our_own_fields_do_not_reach_the_service(site: Site) -> None:
    exchange = received(
        site,
        "/our-fields",
        "Host: a.example.com",
        "x-tidegate-endpoint: web",
        "X-Piko-Endpoint: web",
        "X-PIKO-FORWARD: true",
        "x-tidegate-features: all",
        "x-piko-tenant-id: t",
        "X-Tidegate-Error: no_upstream",
    )

    lowered = exchange.head.lower()
    assert b"x-piko" not in lowered
    assert b"x-tidegate" not in lowered


def test_our_own_fields_do_not_reach_the_service_in_trailers(site: Site) -> None:
    with site.connect() as downstream:
        downstream.send(
            b"POST /ours-trailers HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
        )
        downstream.send(
            b"X-Sum: 1\r\nX-Tidegate-Endpoint: b\r\nx-piko-forward: true\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n"
        )
        got = downstream.answer("POST").json()

    assert got["trailers"] == [["X-Sum", "1"]]


def test_our_own_fields_of_a_service_do_not_reach_the_downstream() -> None:
    def answer(exchange: Exchange) -> None:
        exchange.answer("200 OK", b"", ("X-Tidegate-Error", "no_upstream"), ("x-tidegate-url", "http://evil"))

    with Site(answer) as site:
        got = curl(site.url())

    assert got.status == 200
    assert got.field("x-tidegate-error") is None
    assert got.field("x-tidegate-url") is None


def test_hop_by_hop_fields_and_what_connection_names_are_removed(site: Site) -> None:
    exchange = received(
        site,
        "/hops",
        "Host: web.example.com",
        "Connection: keep-alive, X-Mine, X-Forwarded-For, Host",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "X-Mine: gone",
        "X-Other: stays",
        "Upgrade-Insecure-Requests: 1",
    )

    for name in ("keep-alive", "proxy-connection", "x-mine", "te", "upgrade"):
        assert exchange.values(name) == [], name
    assert exchange.value("x-other") == "stays"
    assert exchange.value("upgrade-insecure-requests") == "1"
    # Ours are added afterwards: nobody can have them removed.
    assert exchange.value("x-forwarded-for") == "127.0.0.1"
    assert exchange.value("host") == "web.example.com"


def test_hop_by_hop_fields_of_a_response_are_removed() -> None:
    def answer(exchange: Exchange) -> None:
        fields = [("Connection", "X-Mine"), ("X-Mine", "gone"), ("Keep-Alive", "timeout=9"), ("X-Other", "stays")]
        exchange.answer("200 OK", b"ok", *fields, ("Proxy-Authenticate", "Basic"))

    with Site(answer) as site:
        got = curl(site.url())

    assert got.field("x-mine") is None
    assert got.field("keep-alive") is None
    assert got.field("x-other") == "stays"


def test_authorization_passes_untouched(site: Site) -> None:
    exchange = received(site, "/authorization", "Host: web.example.com", "Authorization: Basic QTpC")

    assert exchange.value("authorization") == "Basic QTpC"


def test_the_absolute_form_is_sent_on_as_a_path(site: Site) -> None:
    with site.connect() as downstream:
        downstream.send(b"GET http://web.example.com/absolute?q HTTP/1.1\r\n" + HOST + b"\r\n")
        assert downstream.answer().json()["target"] == "/absolute?q"


def test_host_is_rewritten_where_the_agent_is_told_to() -> None:
    with Site(lambda exchange: exchange.answer_json(exchange.fields), None, "--host-header", "rewrite") as site:
        curl(site.url("/rewritten"))
        [exchange] = site.service.named("/rewritten")
        assert exchange.value("host") == site.service.address
        assert exchange.value("x-forwarded-host") == f"web.localhost:{site.port}"


def test_host_is_the_name_that_the_agent_is_told() -> None:
    with Site(lambda exchange: exchange.answer_json(exchange.fields), None, "--host-header", "shop.internal") as site:
        curl(site.url("/named"))
        [exchange] = site.service.named("/named")
        assert exchange.value("host") == "shop.internal"
        assert exchange.value("x-forwarded-host") == f"web.localhost:{site.port}"
