"""What people read."""

import pytest

from tidegate.control import wording

WEB = {"name": "web", "kind": "http", "to": {"host": "localhost", "port": 3000, "tls": None}}
PG = {"name": "pg", "kind": "tcp", "to": {"host": "localhost", "port": 5432, "tls": None}}


def test_an_http_endpoint_shows_both_ends() -> None:
    event = {"endpoint": "web", "gateway": "http://localhost:8001", "url": "http://web.localhost:8000"}
    assert wording.arrow(event, WEB) == "http://web.localhost:8000 -> http://localhost:3000"


def test_a_gateway_that_tells_no_address_is_named_itself() -> None:
    event = {"endpoint": "web", "gateway": "http://piko:8001", "url": ""}
    assert wording.arrow(event, WEB) == "endpoint web at http://piko:8001 -> http://localhost:3000"


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("http://pg.localhost:8000", "tidegate forward 5432 pg"),
        ("http://pg.localhost:9000", "tidegate forward 5432 pg --connect http://localhost:9000"),
        ("https://pg.gate.example.com", "tidegate forward 5432 pg --connect https://pg.gate.example.com"),
        ("", "tidegate forward 5432 pg --connect URL"),
        ("http://[", "tidegate forward 5432 pg --connect URL"),
        ("http://pg.localhost:99999", "tidegate forward 5432 pg --connect URL"),
    ],
)
def test_a_tcp_endpoint_shows_the_forward_to_use(url: str, line: str) -> None:
    assert wording.arrow({"endpoint": "pg", "url": url}, PG) == f"{line} -> tcp://localhost:5432"


@pytest.mark.parametrize(
    ("host", "tls", "shown"),
    [("::1", None, "http://[::1]:3000"), ("app", {}, "http://app:3000"), ("app", {"ca": "x"}, "https://app:3000")],
)
def test_a_local_service_is_written_as_people_do(host: str, tls: dict[str, str] | None, shown: str) -> None:
    assert wording.target({"kind": "http", "to": {"host": host, "port": 3000, "tls": tls}}) == shown


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ({"requests": 3}, "draining 3 requests, Ctrl-C again to stop now"),
        ({"requests": 1, "streams": 2}, "draining 1 request, Ctrl-C again to stop now"),
        ({"requests": 0, "streams": 2}, "draining 2 streams, Ctrl-C again to stop now"),
        ({"requests": 0, "streams": 0}, "draining, Ctrl-C again to stop now"),
    ],
)
def test_draining_says_what_is_waited_for(counts: dict[str, int], sentence: str) -> None:
    assert wording.draining(counts, interrupted=True, grace=60) == sentence


def test_draining_for_a_supervisor_says_how_long() -> None:
    assert wording.draining({"requests": 3}, interrupted=False, grace=60) == "draining 3 requests, for at most 60 s"


def test_a_tunnel_listener_that_asks_for_credentials_needs_no_warning() -> None:
    listener = {"name": "agents", "kind": "tunnel", "bind": ["0.0.0.0:8001"]}
    assert wording.exposed({"role": "gateway", "listeners": [listener]}, [])
    assert not wording.exposed({"role": "gateway", "listeners": [{**listener, "auth": {"set": "main/1"}}]}, [])


def test_loopback_needs_no_warning() -> None:
    snapshot = {
        "role": "gateway",
        "listeners": [
            {"name": "agents", "kind": "tunnel", "bind": ["127.0.0.1:8001", "[::1]:8001"]},
            {"name": "web", "kind": "http", "bind": ["0.0.0.0:80"]},
        ],
    }
    assert wording.exposed(snapshot, ["127.0.0.1:8003"]) == []


def test_listeners_off_loopback_are_named_with_the_line_that_closes_them() -> None:
    snapshot = {
        "role": "gateway",
        "listeners": [{"name": "agents", "kind": "tunnel", "bind": ["0.0.0.0:8001", "[::]:8001"]}],
    }
    tunnel, admin = wording.exposed(snapshot, ["[::]:8003"])
    assert (tunnel.listener, tunnel.port) == ("agents", 8001)
    assert 'listeners: {agents: {bind: "127.0.0.1:8001", kind: tunnel}}' in tunnel.sentence
    assert (admin.listener, admin.port) == ("admin", 8003)
    assert 'admin: {bind: "127.0.0.1:8003"}' in admin.sentence


def test_the_admin_listener_of_an_agent_is_closed_by_its_flag() -> None:
    (admin,) = wording.exposed({"role": "agent"}, ["192.0.2.1:9000"])
    assert "--admin 127.0.0.1:9000" in admin.sentence


def test_an_agent_at_a_port_for_visitors_is_told_where_agents_go() -> None:
    event = {"endpoint": "web", "gateway": "http://g:8000", "reason": "http://g:8000 answered 400: missing endpoint id"}
    assert wording.refused(event).endswith("(this is no agents' port: agents connect to port 8001 by default)")


def test_a_proxy_off_loopback_that_asks_nobody_is_exposed_and_one_with_a_list_is_not() -> None:
    listener = {"name": "out", "kind": "connect", "bind": ["0.0.0.0:3128"]}
    found = wording.exposed({"listeners": [listener]}, [])
    assert [(each.listener, each.port) for each in found] == [("out", 3128)]
    assert "can connect to whatever agents allow" in found[0].sentence
    for closing in ({"allow": ["10.0.0.0/8"]}, {"auth": {"set": "main"}}, {"bind": ["127.0.0.1:3128"]}):
        assert wording.exposed({"listeners": [{**listener, **closing}]}, []) == []


def test_an_endpoint_that_connects_says_so_and_where_nothing_is_allowed_what_to_do() -> None:
    offer = {"name": "dc1", "kind": "connect", "to": None, "allow": [{"name": "a.example"}]}
    event = {"endpoint": "dc1", "gateway": "http://localhost:8001", "url": "http://dc1.localhost:8000"}
    assert (
        wording.arrow(event, offer) == "endpoint dc1 at http://localhost:8001 -> CONNECT to what is allowed (1 entry)"
    )
    assert "--allow" in wording.nothing_allowed({"endpoint": "dc1"})


def test_an_endpoint_whose_service_fails_is_told_with_the_reason() -> None:
    event = {"endpoint": "web", "address": "localhost:3000", "reason": "it answered 500 to GET /healthz"}
    assert wording.unhealthy(event) == (
        "endpoint web is not offered: its service at localhost:3000 fails its check: it answered 500 to GET /healthz"
    )
