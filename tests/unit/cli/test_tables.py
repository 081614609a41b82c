"""What `tidegate status` prints."""

from typing import Any

import pytest

from tidegate.cli import tables

SESSION = {
    "session": "s1",
    "agent": "a1",
    "address": "10.0.0.9:4711",
    "transport": "websocket",
    "requests_in_flight": 2,
}
GATEWAY: dict[str, Any] = {
    "role": "gateway",
    "version": "1.2.3",
    "uptime": 3725,
    "state": "running",
    "workers": 2,
    "listeners": [
        {"name": "proxy", "kind": "http", "addresses": ["127.0.0.1:8000"], "connections": 12},
        {"name": "agents", "kind": "tunnel", "addresses": ["127.0.0.1:8001", "[::1]:8001"], "connections": 4},
    ],
    "endpoints": [{"tenant": "", "name": "web", "listeners": [{**SESSION, "streams": 1, "rtt_ms": 0.42}]}],
    "totals": {"requests": 17, "errors": 0},
    "problems": [],
}


def test_a_gateway_fits_one_screen() -> None:
    assert tables.screen(GATEWAY) == (
        "tidegate gateway 1.2.3, running, up 1 h 2 min, 2 workers\n"
        "\n"
        "LISTENER  KIND    ADDRESS                     CONNECTIONS\n"
        "proxy     http    127.0.0.1:8000                       12\n"
        "agents    tunnel  127.0.0.1:8001, [::1]:8001            4\n"
        "\n"
        "ENDPOINT  LISTENERS  RUNNING  STREAMS  RTT\n"
        "web               1        2        1  0.4 ms\n"
        "\n"
        "since the start: 17 requests, 0 errors\n"
        "\n"
        "nothing is wrong"
    )


def test_what_is_wrong_stands_at_the_end() -> None:
    assert tables.screen({**GATEWAY, "problems": ["disk on fire"]}).endswith("\n\nwrong:\n  disk on fire")


def test_an_agent_shows_tunnels_and_addresses() -> None:
    tunnels = [
        {"gateway": "http://gate:8001", "slot": 0, "state": "connected", "url": "http://web.gate"},
        {"gateway": "http://gate:8001", "slot": 1, "state": "waiting", "reason": "refused"},
    ]
    endpoint = {"name": "web", "kind": "http", "to": "http://localhost:3000", "tunnels": tunnels}
    assert tables.endpoints([endpoint]) == (
        "ENDPOINT  KIND  TO                     TUNNELS  URL\n"
        "web       http  http://localhost:3000  1 of 2   http://web.gate"
    )
    assert "refused" in tables.one_endpoint(endpoint)


def test_a_forward_shows_its_ports() -> None:
    forwards = [{"address": "127.0.0.1:5432", "endpoint": "pg", "connections": 1}]
    assert "127.0.0.1:5432  pg" in tables.screen({"role": "forward", "version": "1", "forwards": forwards})


def test_a_gateway_without_agents_says_what_to_do() -> None:
    assert "tidegate agent http 3000" in tables.endpoints([])


def test_an_endpoint_of_a_tenant_carries_its_name() -> None:
    assert "acme/web" in tables.endpoints([{"tenant": "acme", "name": "web", "listeners": []}])


def test_names_of_peers_do_not_control_the_terminal() -> None:
    listener = {**SESSION, "agent": "\x1b[2Jgone\n", "since": None}
    text = tables.one_endpoint({"name": "web", "listeners": [listener]})
    assert "\x1b" not in text
    assert "\\x1b[2Jgone\\n" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min 0 s"), (3599, "59 min 59 s"), (7800, "2 h 10 min"), (360000, "4 d 4 h")],
)
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert tables.duration(seconds) == text


def test_routes_and_upstreams_have_a_line_each() -> None:
    routes = [{"name": "all", "match": "every host", "to": "upstream shop", "requests": 40}]
    assert tables.routes(routes).splitlines() == [
        "ROUTE  MATCH       TO             REQUESTS",
        "all    every host  upstream shop        40",
    ]
    address = {"address": "10.0.0.7:80", "state": "down", "reason": "refused", "failures": 2}
    address |= {"requests_in_flight": 1, "requests": 3}
    lines = tables.upstreams([{"name": "shop", "addresses": [address]}, {"name": "none", "addresses": []}]).splitlines()
    assert lines[0].split()[4:] == ["SINCE", "RUNNING", "REQUESTS", "FAILURES", "REASON"]
    assert lines[1].split() == ["shop", "10.0.0.7:80", "-", "down", "-", "1", "3", "2", "refused"]
    assert "no address" in lines[2]
    assert "by itself" in tables.routes([])
    assert "no upstreams" in tables.upstreams([])


def test_agents_are_shown_with_what_they_offer() -> None:
    agent = {"agent": "a1", "address": "10.0.0.9:1", "endpoints": ["web", "db"], "sessions": 4, "since": None}
    agent |= {"transports": ["websocket", "quic"], "not_quic": ["no answer on UDP 8001"]}
    row = tables.agents([agent]).splitlines()[1].split()
    assert row[:8] == ["a1", "10.0.0.9:1", "web,", "db", "4", "websocket,", "quic", "-"]
    assert row[8:] == ["no", "answer", "on", "UDP", "8001"]
    assert "no agent" in tables.agents([])


def test_the_configuration_says_what_is_in_force_and_what_was_refused() -> None:
    found: dict[str, Any] = {
        "source": "tidegate.yaml",
        "since": 0,
        "hash": "abc",
        "files": ["/etc/a.pem"],
        "in_force": True,
    }
    assert tables.configuration(found).splitlines()[1] == "  /etc/a.pem"
    found |= {"in_force": False, "last_refused": {"at": 0, "reasons": ["a: 1", "b: 2"]}}
    shown = tables.configuration(found)
    assert "is what is written now" in shown
    assert shown.endswith("  a: 1\n  b: 2")
