"""Routes, upstreams and TLS: what the engine gets of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Authority
from tidegate import engine
from tidegate.config.load import parse, validate
from tidegate.config.model import Agent, Gateway
from tidegate.config.snapshot import agent_snapshot, gateway_snapshot
from tidegate.errors import ConfigError

EVERYTHING = """
routing: first
no_route_status: 502
trusted_proxies: [10.0.0.0/8, "fd00::1"]
listeners:
  web: {bind: "127.0.0.1:0", proxy_protocol: [192.0.2.7]}
  passed: {bind: "127.0.0.1:0", tls: {}}
  db: {bind: "127.0.0.1:0", kind: tcp, to: {upstream: shop}}
  mail: {bind: "127.0.0.1:0", kind: tcp, to: {addresses: ["127.0.0.1:25"], proxy_protocol: 2}}
upstreams:
  shop:
    addresses: ["127.0.0.1:8080", {address: "https://localhost", weight: 2}, "h2c://[::1]:50051", 3000]
    tls: {server_name: Shop.Internal}
    balance: cookie
    cookie: session
    health: {path: /healthz, host: shop.internal, fall: 1}
    ejection: false
routes:
  - {host: App.Example.com., path: /api, strip: true, to: {endpoint: orders}}
  - {host: "*.example.com", to: {upstream: shop}}
  - {sni: vault.example.com, listeners: [passed], to: {addresses: ["127.0.0.1:8443"]}}
  - name: old
    listeners: [web]
    path: /old
    exact: true
    replace: /new
    methods: [GET]
    headers: {X-Version: 2, x-beta: true}
    host_header: Rewritten.example:8080
    request_headers: {set: {X-A: "1"}, add: {x-b: 2}, remove: [X-C]}
    timeouts: {response: 30s, idle: 5m}
    to: {addresses: ["127.0.0.1:8080"], health: tcp}
  - {host: old.example.com, redirect: "https://new.example.com{path}{query}"}
  - {path: /robots.txt, exact: true, respond: {body: hi, headers: {Content-Type: text/plain}}}
  - {path: /empty, respond: 204}
"""


def gateway(text: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(gateway_snapshot(validate(Gateway, parse(text, "f"))))
    return data


def test_the_engine_takes_everything_that_can_be_written() -> None:
    engine.start(gateway_snapshot(validate(Gateway, parse(EVERYTHING, "f")))).stop()


def test_a_route_arrives_with_every_name_in_its_normal_form() -> None:
    api, below, _, old, *_ = gateway(EVERYTHING)["routes"]
    assert (api["name"], api["host"], api["path"]) == ("routes[0]", "app.example.com", {"prefix": "/api"})
    assert api["action"]["forward"]["to"] == {"endpoint": {"tenant": "", "endpoint": "orders"}}
    assert api["action"]["forward"]["path"] == "strip"
    assert (below["host"], below["action"]["forward"]["to"]) == ("*.example.com", {"upstream": "shop"})
    assert old == {
        "name": "old", "listeners": ["web"], "sni": None, "host": None, "path": {"exact": "/old"}, "methods": ["GET"],
        "headers": [{"name": "x-version", "value": "2"}, {"name": "x-beta", "value": None}],
        "tenant": "", "allow": [], "deny": [], "auth": "inherit",
        "action": {"forward": {
            "to": {"upstream": "old"}, "path": {"replace": "/new"}, "host_header": {"set": "rewritten.example:8080"},
            "request_headers": {"remove": ["x-c"], "set": [["x-a", "1"]], "add": [["x-b", "2"]]},
            "response_headers": {"remove": [], "set": [], "add": []},
            "response_timeout": 30, "idle_timeout": 300,
        }},
    }  # fmt: skip


def test_answers_of_a_route_arrive_whole() -> None:
    moved, robots, empty = (route["action"] for route in gateway(EVERYTHING)["routes"][4:])
    assert moved == {"redirect": {"status": 308, "to": "https://new.example.com{path}{query}"}}
    assert robots == {"respond": {"status": 200, "body": "hi", "headers": [["content-type", "text/plain"]]}}
    assert empty == {"respond": {"status": 204, "body": "", "headers": []}}


def test_addresses_of_a_route_and_of_a_listener_are_upstreams_of_their_name() -> None:
    snapshot = gateway(EVERYTHING)
    shop, passed, old, mail = snapshot["upstreams"]
    assert [each["name"] for each in (shop, passed, old, mail)] == ["shop", "routes[2]", "old", "listeners.mail"]
    assert (old["health"]["path"], old["health"]["interval"], mail["proxy_protocol"]) == (None, 5, 2)
    assert [listener.get("to") for listener in snapshot["listeners"]][2:] == [
        {"upstream": "shop"}, {"upstream": "listeners.mail"},
    ]  # fmt: skip


def test_an_upstream_arrives_with_every_default() -> None:
    shop, _, old, _ = gateway(EVERYTHING)["upstreams"]
    tls = {"ca": None, "cert": None, "key": None, "server_name": "shop.internal", "insecure_skip_verify": False}
    assert shop["addresses"] == [
        {"host": "127.0.0.1", "port": 8080, "tls": None, "protocol": "http1", "weight": 1},
        {"host": "localhost", "port": 443, "tls": tls, "protocol": "http1", "weight": 2},
        {"host": "::1", "port": 50051, "tls": None, "protocol": "http2", "weight": 1},
        {"host": "localhost", "port": 3000, "tls": None, "protocol": "http1", "weight": 1},
    ]
    assert (shop["balance"], shop["ejection"]) == ({"cookie": "session"}, None)
    assert shop["health"] == {
        "path": "/healthz", "host": "shop.internal", "interval": 5, "timeout": 2, "fall": 1, "rise": 2,
    }  # fmt: skip
    assert (old["balance"], old["ejection"], old["resolve_interval"], old["proxy_protocol"]) == (
        "round_robin", {"failures": 5, "time": 10}, 30, None,
    )  # fmt: skip


def test_files_of_listeners_and_error_pages_are_read(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue("a")
    (tmp_path / "e.html").write_text("<p>{status}")
    tree = parse(
        "listeners: {web: {bind: ':0', tls: {certificates: [{cert: a.pem, key: a.key}], client_ca: ca.pem}}}\n"
        "error_pages: {html: e.html}",
        "f",
    )
    tree.base = str(tmp_path)
    snapshot = json.loads(gateway_snapshot(validate(Gateway, tree)))
    assert snapshot["listeners"][0]["tls"] == {
        "certificates": [{"cert": cert.read_text(), "key": key.read_text(), "name": str(cert)}],
        "client_ca": authority.ca.read_text(), "client_certificate": "required", "min_version": "1.2",
    }  # fmt: skip
    assert snapshot["error_pages"] == {"html": "<p>{status}", "json": None}


def test_a_certificate_comes_with_its_own_key(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    (cert, _), (_, strange) = authority.issue("a"), authority.issue("b")
    text = f"listeners: {{web: {{bind: ':0', tls: {{certificates: [{{cert: {cert}, key: {strange}}}]}}}}}}"
    with pytest.raises(ConfigError, match=r"certificates\[0\]\.key: .*b\.key is not the key of .*a\.pem$"):
        gateway(text)


def test_a_file_that_cannot_be_read_is_told_with_its_key() -> None:
    text = (
        "error_pages: {html: /nowhere/e}\nlisteners: {a: {bind: ':0', tls: {certificates: [{cert: /n/c, key: /n/k}]}}}"
    )
    with pytest.raises(ConfigError) as refused:
        gateway(text)
    assert [mistake.split(": ")[0] for mistake in refused.value.mistakes] == [
        "listeners.a.tls.certificates[0].cert", "listeners.a.tls.certificates[0].key", "error_pages.html",
    ]  # fmt: skip


def test_with_routes_no_request_names_an_endpoint_unless_it_is_allowed_to() -> None:
    def permitted(listener: str, routes: str) -> Any:
        return gateway(f"listeners: {{web: {{bind: ':0'{listener}}}}}\n{routes}")["listeners"][0]["dynamic_endpoints"]

    route = "routes: [{host: a.example.com, to: {endpoint: a}}]"
    assert permitted("", "") == "unnamed"
    assert permitted("", route) == {"allow": []}
    assert permitted(", dynamic_endpoints: true", route) == "unnamed"


def test_an_agent_tells_how_its_service_is_spoken_to_and_asked() -> None:
    text = "endpoints: [{name: a, to: 1, protocol: h2c, health: /up}, {name: b, to: 'tcp://h:1', health: tcp}]"
    web, tcp = json.loads(agent_snapshot(validate(Agent, parse(text, "f")), "id"))["endpoints"]
    assert (web["protocol"], web["health"]["path"]) == ("http2", "/up")
    assert (tcp["protocol"], tcp["health"]["path"]) == ("http1", None)
