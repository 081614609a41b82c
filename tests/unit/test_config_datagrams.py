"""UDP services and listeners for datagrams, as people write them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tidegate.config.effective import as_yaml
from tidegate.config.load import parse, validate
from tidegate.config.model import Agent, Gateway
from tidegate.config.snapshot import agent_snapshot, gateway_snapshot
from tidegate.errors import ConfigError


def gateway(written: str) -> Any:
    """The listener `in` as the engine gets it."""
    text = f"listeners: {{in: {{bind: '127.0.0.1:5353', {written}}}}}"
    return json.loads(gateway_snapshot(validate(Gateway, parse(text, "f"))))["listeners"][0]


def agent(offer: str, connect: str = "urls: ['https://gate:8001']") -> Any:
    """An endpoint as the engine gets it."""
    text = f"connect: {{{connect}}}\nendpoints: [{{{offer}}}]"
    return json.loads(agent_snapshot(validate(Agent, parse(text, "f")), "id"))["endpoints"][0]


def mistake(made: Any, *written: str) -> str:
    """What is said about it."""
    with pytest.raises(ConfigError) as error:
        made(*written)
    return str(error.value)


def test_a_listener_for_datagrams_is_told_whole() -> None:
    found = gateway("kind: udp, to: {endpoint: dns}")
    assert (found["kind"], found["to"]) == ("udp", {"tenant": "", "endpoint": "dns"})
    assert (found["idle"], found["sessions"], found["transports"]) == (60.0, 4096, [])
    found = gateway("kind: udp, to: {endpoint: dns, tenant: a}, idle: 500ms, sessions: 3, deny: [10.0.0.0/8]")
    assert (found["to"]["tenant"], found["idle"], found["sessions"]) == ("a", 0.5, 3)


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("kind: udp", "needs `to: {endpoint: NAME}`"),
        ("kind: udp, to: {addresses: ['10.0.0.1:53']}", "needs `to: {endpoint: NAME}`"),
        ("kind: udp, to: [{name: '*', endpoint: a}]", "needs `to: {endpoint: NAME}`"),
        ("kind: udp, to: {endpoint: a}, tls: {}", "`tls` belongs to what is spoken over TCP"),
        ("kind: udp, to: {endpoint: a}, proxy_protocol: [10.0.0.0/8]", "this one is of kind udp"),
        ("kind: udp, to: {endpoint: a}, auth: {users: u}", "auth"),
        ("kind: udp, to: {endpoint: a}, idle: 0", "idle"),
        ("kind: udp, to: {endpoint: a}, sessions: 0", "sessions"),
        ("kind: udp, to: {endpoint: a}, transports: [quic]", "`transports` belongs to listeners of kind tunnel"),
        ("kind: tcp, to: {endpoint: a}, idle: 5s", "`idle` belongs to listeners of kind udp"),
        ("sessions: 5", "`sessions` belongs to listeners of kind udp"),
    ],
)
def test_a_listener_that_cannot_be_is_told(written: str, sentence: str) -> None:
    assert sentence in mistake(gateway, written)


def test_tcp_and_udp_have_ports_of_their_own() -> None:
    text = """
listeners:
  tcp: {bind: "127.0.0.1:5353", kind: tcp, to: {endpoint: dns}}
  udp: {bind: "127.0.0.1:5353", kind: udp, to: {endpoint: dns}}
"""
    config = validate(Gateway, parse(text, "f"))
    assert len(json.loads(gateway_snapshot(config))["listeners"]) == 2
    both = text.replace("kind: tcp", "kind: udp")
    assert "binds 127.0.0.1:5353 already" in mistake(lambda: gateway_snapshot(validate(Gateway, parse(both, "f"))))


def test_an_endpoint_of_datagrams_is_told_whole() -> None:
    found = agent("name: dns, to: 'udp://10.0.0.53:53'")
    assert (found["kind"], found["idle"]) == ("udp", 60.0)
    assert found["to"] == {"host": "10.0.0.53", "port": 53, "tls": None}
    assert agent("name: dns, to: 'udp://[::1]:53', idle: 1m")["idle"] == 60.0


@pytest.mark.parametrize(
    ("offer", "sentence"),
    [
        ("name: a, to: 'udp://h'", "is no local service"),
        ("name: a, to: 'udp://h:53/x'", "holds more than a host and a port"),
        ("name: a, to: 'udp://h:53', health: tcp", "`health` means nothing to datagrams"),
        ("name: a, to: 'udp://h:53', host_header: keep", "`host_header` means nothing to datagrams"),
        ("name: a, to: 'udp://h:53', protocol: h2c", "`protocol` means nothing to datagrams"),
        ("name: a, to: 'udp://h:53', allow: ['a:1']", "`allow` belongs to `to: connect`"),
        ("name: a, to: 'tcp://h:53', idle: 5s", "`idle` belongs to UDP services"),
        ("name: a, to: connect, idle: 5s", "`idle` belongs to one local service"),
    ],
)
def test_an_endpoint_that_cannot_be_is_told(offer: str, sentence: str) -> None:
    assert sentence in mistake(agent, offer)


@pytest.mark.parametrize(
    ("connect", "what_to_do"),
    [
        ("urls: ['https://g:1'], transport: websocket", "write transport: auto or quic"),
        ("urls: ['http://g:1']", "no URL begins with https://"),
        ("urls: ['https://g:1'], proxy: 'http://p:3128'", "leave out `proxy`: it goes through none"),
    ],
)
def test_without_quic_the_refusal_says_so(connect: str, what_to_do: str) -> None:
    told = mistake(agent, "name: dns, to: 'udp://h:53'", connect)
    assert f'endpoint "dns" is UDP, which needs QUIC ({what_to_do})' in told
    assert agent("name: web, to: 3000", connect)["kind"] == "http"


def test_what_means_nothing_beside_another_kind_is_not_shown() -> None:
    tree = parse("listeners: {web: {bind: ':80'}, in: {bind: ':53', kind: udp, to: {endpoint: a}}}", "f")
    shown = as_yaml(validate(Gateway, tree), tree)
    assert shown.count("sessions:") == 1
