"""What tunnels are made of, as people write it: at listeners, and where an agent connects."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.certificates import Authority
from tidegate.config.load import parse, validate
from tidegate.config.model import Agent, Gateway
from tidegate.config.snapshot import agent_snapshot, gateway_snapshot
from tidegate.errors import ConfigError


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> str:
    """`tls` of a listener."""
    cert, key = Authority(tmp_path_factory.mktemp("authority")).issue("gate")
    return f"tls: {{certificates: [{{cert: {cert}, key: {key}}}]}}"


def listener(written: str) -> Any:
    """A tunnel listener as the engine gets it."""
    text = f"listeners: {{agents: {{bind: '127.0.0.1:8001', kind: tunnel, {written}}}}}"
    snapshot = json.loads(gateway_snapshot(validate(Gateway, parse(text, "f"))))
    return snapshot["listeners"][0]


def agent(written: str) -> Any:
    """How an agent connects."""
    text = f"connect: {{{written}}}\nendpoints: [{{name: web, to: 3000}}]"
    return json.loads(agent_snapshot(validate(Agent, parse(text, "f")), "id"))["connect"]


def mistake(made: Any, written: str) -> str:
    """What is said about it."""
    with pytest.raises(ConfigError) as error:
        made(written)
    return str(error.value)


def test_quic_is_there_where_tls_is_and_nobody_says_otherwise(tls: str) -> None:
    assert listener("allow: [10.0.0.0/8]")["transports"] == ["websocket"]
    assert listener(tls)["transports"] == ["websocket", "quic"]
    assert listener(f"{tls}, transports: [websocket]")["transports"] == ["websocket"]
    assert listener(f"{tls}, transports: quic")["transports"] == ["quic"]
    assert listener(f"{tls}, transports: [quic, websocket, quic]")["transports"] == ["quic", "websocket"]


def test_where_quic_stands_elsewhere_agents_are_told(tls: str) -> None:
    assert listener(f"{tls}, quic_at: 'gate.example.com:9443'")["quic_at"] == "gate.example.com:9443"
    assert listener("quic_at: '[fd00::1]:9443'")["quic_at"] == "[fd00::1]:9443"
    assert listener(tls)["quic_at"] is None


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("transports: [websocket, quic]", "quic needs `tls: {certificates: [{cert: FILE, key: FILE}]}`"),
        ("transports: []", "names nothing"),
        ("transports: [tcp]", "transports"),
        ("TLS, transports: [quic], quic_at: 'a:1'", "`quic_at` is told by WebSocket"),
        ("quic_at: ':9443'", "is no place to dial"),
        ("quic_at: 'gate.example.com'", "quic_at"),
        ("quic_at: 'gate.example.com:0'", "is no place to dial"),
        ("kind: http, transports: [websocket]", "`transports` belongs to listeners of kind tunnel"),
        ("kind: http, quic_at: 'a:1'", "`quic_at` belongs to listeners of kind tunnel"),
    ],
)
def test_what_cannot_be_is_told(tls: str, written: str, sentence: str) -> None:
    if written.startswith("kind"):
        text = f"listeners: {{web: {{bind: ':80', {written}}}}}"
        assert sentence in mistake(lambda text: validate(Gateway, parse(text, "f")), text)
    else:
        assert sentence in mistake(listener, written.replace("TLS", tls))


def test_an_agent_says_what_its_tunnels_are_made_of() -> None:
    assert agent("urls: ['https://gate:8001']")["transport"] == "auto"
    assert agent("urls: ['http://gate:8001'], proxy: 'http://proxy:3128'")["transport"] == "auto"
    assert agent("transport: websocket")["transport"] == "websocket"
    assert agent("urls: ['https://gate:8001'], transport: quic")["transport"] == "quic"
    assert agent("urls: ['http://a:1', 'wss://gate:8001'], transport: quic")["transport"] == "quic"
    assert "no URL begins with https://" in mistake(agent, "urls: ['http://gate:8001'], transport: quic")
    proxied = "urls: ['https://gate:8001'], transport: quic, proxy: 'http://proxy:3128'"
    assert "goes through no HTTP proxy" in mistake(agent, proxied)
    assert "transport" in mistake(agent, "transport: udp")
