"""Which service a request reaches, and what it looks like there: every key of a route, over real connections."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.support import access
from tests.support.raw import Answer, Raw
from tests.support.service import Exchange, Service
from tests.support.tidegate import Agent, Config, Gateway
from tests.support.tools import curl

SERVICES = ("shop", "api", "v2", "wild", "deep", "beta", "post", "other")


def speaks(name: str) -> Callable[[Exchange], None]:
    """Answers with its own name and what came."""

    def answer(exchange: Exchange) -> None:
        exchange.read()
        body = json.dumps({"service": name, "target": exchange.target, "fields": exchange.fields})
        fields = [("Content-Type", "application/json"), ("Server", name), ("X-Powered-By", "a secret")]
        exchange.answer("200 OK", body.encode(), *fields)

    return answer


class Routed:
    """A gateway with routes to several services, and means to ask it byte by byte."""

    def __init__(self, config: Callable[[dict[str, str]], dict[str, Any]]) -> None:
        with ExitStack() as stack:
            self.services = {name: stack.enter_context(Service(speaks(name))) for name in SERVICES}
            addresses = {name: service.address for name, service in self.services.items()}
            self.gateway = stack.enter_context(Gateway(config(addresses)))
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Ends everything."""
        self._stack.close()

    def ask(
        self, host: str, target: str = "/", *, method: str = "GET", fields: str = "", listener: str = "proxy"
    ) -> Answer:
        """One request on a connection of its own."""
        with Raw(self.gateway.address(listener)) as raw:
            raw.send(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode("latin-1"))
            return raw.answer(method)

    def reaches(self, host: str, target: str = "/", **more: str) -> str:
        """The name of the service that answered; the status where none did."""
        answer = self.ask(host, target, **more)
        return str(answer.json()["service"]) if answer.status == 200 else str(answer.status)


def to(address: str) -> dict[str, Any]:
    """A route's addresses of its own."""
    return {"addresses": [address]}


def whole(at: dict[str, str]) -> dict[str, Any]:
    """One route for each key."""
    return {
        "listeners": {"inside": {"bind": "127.0.0.1:0"}},
        "upstreams": {"shop": {"addresses": [at["shop"]]}},
        "routes": [
            {"host": "shop.test", "to": {"upstream": "shop"}},
            {"host": "shop.test", "path": "/api", "to": to(at["api"])},
            {"host": "shop.test", "path": "/api/v2", "exact": True, "to": to(at["v2"])},
            {"host": "*.shop.test", "to": to(at["wild"])},
            {"host": "*.deep.shop.test", "to": to(at["deep"])},
            {"host": "shop.test", "methods": ["POST", "PUT"], "to": to(at["post"])},
            {"host": "shop.test", "headers": {"x-version": "2"}, "to": to(at["beta"])},
            {"host": "shop.test", "headers": {"x-beta": True, "x-version": "3"}, "to": to(at["other"])},
            {"host": "[::1]", "to": to(at["other"])},
            {"host": "strip.test", "path": "/app", "strip": True, "to": to(at["shop"])},
            {"host": "strip.test", "path": "/old", "replace": "/new/", "to": to(at["shop"])},
            {"host": "strip.test", "path": "/one", "exact": True, "replace": "/two", "to": to(at["shop"])},
            {"host": "inside.test", "listeners": ["inside"], "to": to(at["other"])},
            {"host": "keep.test", "to": to(at["shop"])},
            {"host": "rewrite.test", "host_header": "rewrite", "to": to(at["shop"])},
            {"host": "set.test", "host_header": "inner.example:81", "to": to(at["shop"])},
            {
                "name": "edited",
                "host": "edit.test",
                "request_headers": {"set": {"x-a": "set"}, "add": {"x-b": "added"}, "remove": ["cookie"]},
                "response_headers": {
                    "set": {"server": "gate"},
                    "add": {"x-frame-options": "DENY"},
                    "remove": ["x-powered-by"],
                },
                "to": to(at["shop"]),
            },
            {"host": "old.test", "redirect": "https://new.test{path}{query}"},
            {"host": "here.test", "redirect": {"to": "{scheme}://{host}/moved{query}", "status": 302}},
            {
                "path": "/robots.txt",
                "exact": True,
                "respond": {"status": 200, "body": "hi\n", "headers": {"x-own": "1"}},
            },
            {"path": "/nothing", "respond": 204},
            {
                "path": "/teapot",
                "respond": {"status": 418, "body": "{}", "headers": {"content-type": "application/json"}},
            },
        ],
    }


@pytest.fixture(scope="module")
def routed() -> Iterator[Routed]:
    site = Routed(whole)
    yield site
    site.close()


@pytest.mark.parametrize(
    ("host", "service"),
    [
        ("shop.test", "shop"),
        ("SHOP.Test", "shop"),
        ("shop.test.", "shop"),
        ("Shop.Test.:8080", "shop"),
        ("a.shop.test", "wild"),
        ("b.a.shop.test", "wild"),
        ("a.deep.shop.test", "deep"),
        ("deep.shop.test", "wild"),
        ("myshop.test", "404"),
        ("[::1]:8000", "other"),
        ("[0:0:0:0:0:0:0:1]", "other"),
        ("[::2]", "404"),
    ],
)
def test_a_host_is_matched_in_any_case_with_port_and_trailing_dot_and_as_ipv6(
    routed: Routed, host: str, service: str
) -> None:
    assert routed.reaches(host) == service


@pytest.mark.parametrize(
    ("target", "service"),
    [
        ("/api", "api"),
        ("/api/", "api"),
        ("/api/users?x=/", "api"),
        ("/api?x", "api"),
        ("/apix", "shop"),
        ("/API", "shop"),
        ("/api/v2", "v2"),
        ("/api/v2?x", "v2"),
        ("/api/v2/x", "api"),
        ("/%61pi/x", "api"),
    ],
)
def test_a_prefix_ends_at_an_element_and_an_exact_path_is_the_whole_path(
    routed: Routed, target: str, service: str
) -> None:
    assert routed.reaches("shop.test", target) == service


def test_methods_and_headers_are_conditions_and_more_of_them_count_first(routed: Routed) -> None:
    assert routed.reaches("shop.test", method="POST", fields="Content-Length: 0\r\n") == "post"
    assert routed.reaches("shop.test", method="DELETE") == "shop"
    assert routed.reaches("shop.test", fields="X-Version: 2\r\n") == "beta"
    assert routed.reaches("shop.test", fields="X-Version: 3\r\n") == "shop"
    assert routed.reaches("shop.test", fields="X-Version: 3\r\nx-beta: anything\r\n") == "other"


def test_a_route_counts_on_its_listeners_only(routed: Routed) -> None:
    assert routed.reaches("inside.test", listener="inside") == "other"
    assert routed.reaches("inside.test") == "404"
    assert routed.reaches("shop.test", listener="inside") == "shop"


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("/app", "/"),
        ("/app/", "/"),
        ("/app?q=/app", "/?q=/app"),
        ("/app/a%2Fb/c%20d?x=%2F", "/a%2Fb/c%20d?x=%2F"),
        ("/app/app/x", "/app/x"),
        ("/%61pp/x", "/x"),
        ("/app//evil.com/x", "/evil.com/x"),
        ("/old", "/new/"),
        ("/old/x?y", "/new/x?y"),
        ("/one?q", "/two?q"),
    ],
)
def test_strip_and_replace_work_on_the_path_as_it_was_sent(routed: Routed, target: str, sent: str) -> None:
    assert routed.ask("strip.test", target).json()["target"] == sent


@pytest.mark.parametrize("target", ["/app/../admin", "/app/%2e%2e/admin", "/app/..%2fadmin", "/app/x/./y"])
def test_a_rewritten_path_has_no_dot_segments(routed: Routed, target: str) -> None:
    answer = routed.ask("strip.test", target)

    assert (answer.status, answer.field("x-tidegate-error")) == (400, "malformed_request")


@pytest.mark.parametrize(
    "target",
    [
        "//api",
        "/x/../api",
        "/x/%2e%2E/api/y",
        "/api%2Fusers",
        "/api;x=1",
        "/x%2f..%2fapi",
        "/x\\..\\api",
        "/api/..",
        "/./api",
    ],
)
def test_case_36_a_path_that_may_be_read_as_one_of_another_route_is_refused(routed: Routed, target: str) -> None:
    answer = routed.ask("shop.test", target)

    assert (answer.status, answer.field("x-tidegate-error")) == (400, "malformed_request")


@pytest.mark.parametrize(
    "target", ["/a//b", "/x/../y", "/group%2Fproject", "/a;b", "/api/a%2Fb", "/api//x", "/%2561pi"]
)
def test_a_path_that_leads_one_way_however_it_is_read_is_sent_on_as_it_came(routed: Routed, target: str) -> None:
    assert routed.ask("shop.test", target).json()["target"] == target


def test_the_upstream_sees_the_host_that_the_route_wants(routed: Routed) -> None:
    def host(name: str) -> str:
        fields = routed.ask(name).json()["fields"]
        assert ["X-Forwarded-Host", name] in fields
        return "".join(value for key, value in fields if key.lower() == "host")

    assert host("keep.test") == "keep.test"
    assert host("rewrite.test") == routed.services["shop"].address
    assert host("set.test") == "inner.example:81"


def test_fields_are_removed_set_and_added_on_both_ways(routed: Routed) -> None:
    fields = "Cookie: a=b\r\nX-A: 1\r\nX-a: 2\r\nX-B: 3\r\nConnection: x-a\r\n"
    answer = routed.ask("edit.test", fields=fields)

    came = [(key.lower(), value) for key, value in answer.json()["fields"]]
    assert [value for key, value in came if key == "x-a"] == ["set"]
    assert [value for key, value in came if key == "x-b"] == ["3", "added"]
    assert not [key for key, _ in came if key == "cookie"]
    assert (answer.field("server"), answer.field("x-frame-options")) == ("gate", "DENY")
    assert answer.field("x-powered-by") is None


def test_a_redirect_repeats_what_was_asked(routed: Routed) -> None:
    answer = routed.ask("old.test:80", "/a%2Fb?c=d")
    assert (answer.status, answer.field("location")) == (308, "https://new.test/a%2Fb?c=d")
    answer = routed.ask("HERE.test:80", "/x?y", method="HEAD")
    assert (answer.status, answer.field("location"), answer.body) == (302, "http://HERE.test/moved?y", b"")


def test_a_fixed_answer_needs_no_service(routed: Routed) -> None:
    answer = routed.ask("nobody.test", "/robots.txt")
    assert (answer.status, answer.body, answer.field("x-own")) == (200, b"hi\n", "1")
    assert answer.field("content-type") == "text/plain; charset=utf-8"
    answer = routed.ask("nobody.test", "/robots.txt", method="HEAD")
    assert (answer.status, answer.field("content-length"), answer.body) == (200, "3", b"")
    answer = routed.ask("nobody.test", "/nothing/x")
    assert (answer.status, answer.field("content-length"), answer.body) == (204, None, b"")
    assert routed.ask("nobody.test", "/teapot").field("content-type") == "application/json"


def test_every_request_of_a_kept_connection_is_routed_by_itself(routed: Routed) -> None:
    turns = [
        ("shop.test", "/", "shop"),
        ("a.shop.test", "/", "wild"),
        ("shop.test", "/api", "api"),
        ("[::1]", "/", "other"),
    ]
    with Raw(routed.gateway.proxy) as raw:
        for host, target, service in turns * 2:
            raw.send(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert raw.answer().json()["service"] == service
            raw.send(b"POST /robots.txt HTTP/1.1\r\nHost: nobody.test\r\nContent-Length: 3\r\n\r\nabc")
            assert raw.answer().body == b"hi\n"
            raw.send(b"GET /none HTTP/1.1\r\nHost: nobody.test\r\n\r\n")
            assert raw.answer().status == 404


def test_a_whole_url_as_target_and_http_1_0_without_host_are_routed_too(routed: Routed) -> None:
    with Raw(routed.gateway.proxy) as raw:
        raw.send(b"GET http://Shop.Test/api/x HTTP/1.1\r\nHost: shop.test\r\n\r\n")
        assert raw.answer().json()["service"] == "api"
        raw.send(b"GET /robots.txt HTTP/1.0\r\n\r\n")
        assert raw.answer().body == b"hi\n"


def test_curl_is_led_by_redirects_and_names(routed: Routed) -> None:
    got = curl("-H", "Host: shop.test", f"http://{routed.gateway.proxy}/api/x")
    assert (got.status, json.loads(got.body)["service"]) == (200, "api")


def test_the_access_log_names_route_and_upstream(routed: Routed) -> None:
    routed.ask("edit.test", "/logged")

    line = access.line(routed.gateway, path="/logged")
    assert (line["route"], line["endpoint"], line["upstream"]) == ("edited", "edited", routed.services["shop"].address)
    routed.ask("nobody.test", "/nothing/logged")
    line = access.line(routed.gateway, path="/nothing/logged")
    assert (line["route"], line["endpoint"], line["status"]) == ("routes[20]", "", 204)


def in_order(at: dict[str, str]) -> dict[str, Any]:
    """The order of the file decides, as NanoProxy has it."""
    return {
        "routing": "first",
        "no_route_status": 502,
        "routes": [
            {"path": "/api", "to": to(at["api"])},
            {"host": "shop.test", "path": "/api/v2", "exact": True, "to": to(at["v2"])},
            {"host": "shop.test", "to": to(at["shop"])},
            {"host": "*.test", "to": to(at["wild"])},
            {"host": "late.test", "to": to(at["deep"])},
        ],
    }


def test_with_routing_first_the_order_of_the_file_decides() -> None:
    site = Routed(in_order)
    try:
        assert site.reaches("shop.test", "/api/v2") == "api"
        assert site.reaches("shop.test", "/") == "shop"
        assert site.reaches("late.test", "/") == "wild"
        assert site.reaches("none.example", "/") == "502"
    finally:
        site.close()


def test_a_route_has_its_own_patience() -> None:
    def slow(exchange: Exchange) -> None:
        exchange.receive()  # nothing comes: until the gateway gives up

    with Service(slow) as service:
        routes = [{"host": "slow.test", "timeouts": {"response": 0.3}, "to": to(service.address)}]
        with Gateway({"routes": routes}) as gateway, Raw(gateway.proxy) as raw:
            raw.send(b"GET / HTTP/1.1\r\nHost: slow.test\r\n\r\n")
            answer = raw.answer()
            assert (answer.status, answer.field("x-tidegate-error")) == (504, "upstream_timeout")


PROTECTED: Config = {
    "listeners": {
        "open": {"bind": "127.0.0.1:0", "dynamic_endpoints": True},
        "some": {"bind": "127.0.0.1:0", "dynamic_endpoints": {"allow": ["free"]}},
    },
    "routes": [
        {"host": "secret.test", "path": "/public", "listeners": ["proxy"], "to": {"endpoint": "secret"}},
    ],
}


@pytest.fixture(scope="module")
def protected() -> Iterator[tuple[Gateway, Service]]:
    """A gateway with the endpoints `secret`, of which a route shows a part, and `free`, which nothing names."""
    with Service(speaks("secret")) as service, Gateway(PROTECTED) as gateway, ExitStack() as stack:
        for name in ("secret", "free"):
            stack.enter_context(Agent(gateway.agents, "http", name, service.address))
            gateway.until_offered(name)
        yield gateway, service


@pytest.mark.parametrize("listener", ["proxy", "open", "some"])
@pytest.mark.parametrize(
    ("host", "target", "fields"),
    [
        ("a.test", "/private", "x-tidegate-endpoint: secret\r\n"),
        ("a.test", "/private", "x-piko-endpoint: secret\r\n"),
        ("a.test", "/private", "X-TIDEGATE-ENDPOINT: secret\r\n"),
        ("a.test", "/private", "x-tidegate-endpoint: SECRET\r\n"),
        ("a.test", "/private", "x-tidegate-endpoint: secret\r\nx-tidegate-endpoint: free\r\n"),
        ("a.test", "/private", "x-tidegate-endpoint: free\r\nx-piko-endpoint: secret\r\n"),
        ("free.test", "/private", "x-tidegate-endpoint: secret\r\n"),
        ("secret.test", "/private", "x-tidegate-endpoint: secret\r\n"),
        ("secret.other", "/private", ""),
        ("SECRET.other", "/private", ""),
        ("secret.other:80", "/private", ""),
        ("secret.other.", "/private", ""),
        ("secret.other.:80", "/private", ""),
        ("secret.test", "/private", ""),
        ("secret.test", "/public/../private", ""),
        ("secret.test", "/public%2f..%2fprivate", ""),
        ("secret%2eother", "/private", ""),
        ("secret.test", "/_piko/v1/tcp/secret", ""),
        ("a.test", "/_piko/v1/tcp/secret", "Upgrade: websocket\r\nConnection: upgrade\r\n"),
    ],
)
def test_case_36_an_endpoint_behind_a_route_is_reached_in_no_other_way(
    protected: tuple[Gateway, Service], listener: str, host: str, target: str, fields: str
) -> None:
    gateway, service = protected
    with Raw(gateway.address(listener)) as raw:
        raw.send(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode())
        answer = raw.answer()
    assert answer.status in (400, 404, 502), answer.body
    assert not service.named("private")


def test_what_the_route_shows_and_what_nothing_names_is_reached(protected: tuple[Gateway, Service]) -> None:
    gateway, _ = protected

    def status(listener: str, host: str, target: str = "/", fields: str = "") -> int:
        with Raw(gateway.address(listener)) as raw:
            raw.send(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode())
            return raw.answer().status

    assert status("proxy", "secret.test", "/public/x") == 200
    assert status("open", "free.other") == 200
    assert status("some", "a.test", fields="x-tidegate-endpoint: free\r\n") == 200
    # With routes, a listener that says nothing about names permits none.
    assert status("proxy", "free.other") == 404
    assert status("open", "nobody.other") == 502
