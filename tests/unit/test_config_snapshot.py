"""What the engine gets."""

import json
import os
import resource
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from tidegate.config import binds, snapshot
from tidegate.config.load import parse, validate
from tidegate.config.model import Agent, Forward, Gateway
from tidegate.config.snapshot import agent_snapshot, describe, forward_snapshot, gateway_snapshot, note
from tidegate.errors import ConfigError

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def gateway(text: str = "") -> dict[str, Any]:
    data: dict[str, Any] = json.loads(gateway_snapshot(validate(Gateway, parse(text, "f"))))
    return data


def agent(text: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(agent_snapshot(validate(Agent, parse(text, "f")), "id"))
    return data


@pytest.mark.parametrize(
    ("system", "ours"), [("bbr\n", "bbr"), ("cubic\n", "cubic"), ("reno\n", "cubic"), (None, "cubic")]
)
def test_quic_sends_as_the_system_does_it_for_tcp_unless_told(
    system: str | None, ours: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "tcp_congestion_control"
    if system is not None:
        told.write_text(system)
    monkeypatch.setattr(snapshot, "TCP_CONGESTION", told)
    assert gateway()["tunnel"]["congestion"] == ours
    assert gateway("tunnel: {congestion: bbr}")["tunnel"]["congestion"] == "bbr"
    assert gateway("tunnel: {congestion: cubic}")["tunnel"]["congestion"] == "cubic"


def test_a_gateway_without_configuration_is_on_loopback_only() -> None:
    plain: dict[str, Any] = {
        "tls": None, "proxy_protocol": [], "allow": [], "deny": [], "tenant": "", "auth": None,
        "transports": ["websocket"], "quic_at": None, "quic_tunnel": None,
    }  # fmt: skip
    assert gateway()["listeners"] == [
        {"name": "proxy", "bind": ["127.0.0.1:8000"], "kind": "http", "dynamic_endpoints": "unnamed", **plain},
        {"name": "agents", "bind": ["127.0.0.1:8001"], "kind": "tunnel", **plain},
    ]


def test_a_gateway_arrives_complete() -> None:
    assert set(gateway()) == {
        "role", "version", "node", "workers", "takeover", "listeners", "public_url", "timeouts", "limits", "tunnel",
        "access_log", "upstreams", "verifier_sets", "tenants", "routes",
        "routing", "no_route_status", "trusted_proxies", "error_pages",
    }  # fmt: skip
    assert gateway()["workers"] >= 1
    assert gateway()["node"]
    assert gateway("access_log: {to: off}")["access_log"]["to"] is None


@pytest.mark.parametrize(
    ("written", "meant"),
    [("true", "unnamed"), ("false", {"allow": []}), ("{allow: [a, b]}", {"allow": ["a", "b"]})],
)
def test_dynamic_endpoints_say_what_is_permitted(written: str, meant: Any) -> None:
    listeners = gateway(f"listeners: {{web: {{bind: ':80', dynamic_endpoints: {written}}}}}")["listeners"]
    assert listeners[0]["dynamic_endpoints"] == meant


def test_a_tcp_listener_leads_to_an_endpoint() -> None:
    (listener,) = gateway("listeners: {db: {bind: '127.0.0.1:1', kind: tcp, to: {endpoint: pg}}}")["listeners"]
    assert (listener["kind"], listener["to"]) == ("tcp", {"endpoint": {"tenant": "", "endpoint": "pg"}})


def test_an_address_that_nobody_knows_names_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ConfigError, match=r"^listeners\.web\.bind: 'nowhere:80': no address is known"):
        gateway("listeners: {web: {bind: 'nowhere:80'}}")


def test_an_agent_offers_each_endpoint_as_what_it_is() -> None:
    offers = agent("endpoints: [{name: web, to: 3000, host_header: rewrite}, {name: pg, to: 'tcp://db:5432'}]")[
        "endpoints"
    ]
    assert offers == [
        {
            "name": "web", "kind": "http", "host_header": "rewrite",
            "to": {"host": "localhost", "port": 3000, "tls": None}, "protocol": "http1", "health": None,
        },
        {
            "name": "pg", "kind": "tcp", "host_header": "keep",
            "to": {"host": "db", "port": 5432, "tls": None}, "protocol": "http1", "health": None,
        },
    ]  # fmt: skip
    named = agent("endpoints: [{name: web, to: 'https://x', host_header: app.local}]")["endpoints"][0]
    assert named["host_header"] == {"set": "app.local"}
    assert named["to"]["tls"]["insecure_skip_verify"] is False


def test_files_are_read_when_the_snapshot_is_made(tmp_path: Path) -> None:
    for name, text in (("ca", CERTIFICATE), ("cert", CERTIFICATE), ("key", KEY), ("token", "Bearer abc\n")):
        (tmp_path / name).write_text(text)
    files = "".join(f"{key}: {tmp_path}/{key}, " for key in ("ca", "cert", "key"))
    text = f"connect: {{urls: ['https://g'], token_file: {tmp_path}/token, {files}}}\nendpoints: [{{name: a, to: 1}}]"
    connect = agent(text)["connect"]
    assert (connect["token"], connect["tls"]["ca"], connect["tls"]["key"]) == ("abc", CERTIFICATE, KEY)


def test_a_file_that_will_not_do_is_told_with_its_key(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    text = (
        f"connect: {{urls: ['https://g'], token_file: {tmp_path}/none, ca: {tmp_path}/empty}}\n"
        "endpoints: [{name: a, to: 1, server_name: x}]"
    )
    with pytest.raises(ConfigError) as refused:
        agent(text)
    assert [mistake.split(":")[0] for mistake in refused.value.mistakes] == [
        "endpoints[0]", "connect.token_file", "connect.ca",
    ]  # fmt: skip


def test_tls_settings_that_would_do_nothing_are_a_mistake() -> None:
    with pytest.raises(ConfigError, match="no URL begins with https"):
        agent("connect: {urls: ['http://g'], insecure_skip_verify: true}\nendpoints: [{name: a, to: 1}]")


def test_a_role_with_nothing_to_do_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="nothing to offer"):
        agent("")
    with pytest.raises(ConfigError, match="nothing to forward"):
        forward_snapshot(Forward())


@pytest.mark.parametrize(
    ("url", "env", "proxy"),
    [
        ("https://g.example.com", {"HTTPS_PROXY": "http://p:3128"}, "http://p:3128"),
        ("https://g.example.com", {"https_proxy": "p"}, "http://p:80"),
        ("http://g.example.com", {"HTTPS_PROXY": "http://p:3128"}, None),
        ("wss://g.example.com", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "x, .example.com"}, None),
        ("https://g.example.com:8001", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "example.com:8001"}, None),
        ("https://g.example.com", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "ample.com"}, "http://p:1"),
        ("https://10.1.2.3", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, None),
        ("https://g", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, None),
        ("https://localhost", {"HTTPS_PROXY": "http://p:1"}, None),
        ("https://[::1]:8001", {"HTTPS_PROXY": "http://p:1"}, None),
    ],
)
def test_the_environment_names_a_proxy_for_each_url(
    url: str, env: dict[str, str], proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    text = f"connect: {{urls: ['{url}', 'http://localhost:8001']}}\nendpoints: [{{name: a, to: 1}}]"
    assert agent(text)["connect"]["proxies"] == [proxy, None]


def test_a_proxy_of_another_kind_is_refused_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://user:hunter2@p:1")
    with pytest.raises(ConfigError, match="HTTPS_PROXY is no HTTP proxy") as refused:
        agent("connect: {urls: ['https://g']}\nendpoints: [{name: a, to: 1}]")
    assert "hunter2" not in str(refused.value)


def test_a_forward_binds_a_port_alone_on_localhost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binds, "_has_ipv6", lambda _: True)
    config = validate(Forward, parse("forwards: [{bind: 5432, endpoint: pg}]", "f"))
    forwards = json.loads(forward_snapshot(config))["forwards"]
    assert forwards == [{"bind": ["127.0.0.1:5432", "[::1]:5432"], "endpoint": "pg", "udp_idle": None}]


def test_ports_for_datagrams_have_numbers_of_their_own() -> None:
    said = """
    connect: {urls: ["https://gate"]}
    forwards: [{bind: "127.0.0.1:53", endpoint: a}, {bind: "127.0.0.1:53", endpoint: b, kind: udp, idle: 5s}]
    """
    forwards = json.loads(forward_snapshot(validate(Forward, parse(said, "f"))))["forwards"]
    assert [port["udp_idle"] for port in forwards] == [None, 5.0]


def test_what_is_shown_of_a_configuration_holds_no_secret() -> None:
    config = validate(Agent, parse("connect: {token: to-ken}\nendpoints: [{name: a, to: 1}]", "f"))
    shown = describe(config)
    assert shown["endpoints"] == [{"name": "a", "to": "http://localhost:1"}]
    assert "to-ken" not in json.dumps(shown)
    assert describe(Gateway())["listeners"][0] == {"name": "proxy", "kind": "http", "bind": "127.0.0.1:8000"}


@pytest.mark.parametrize(
    ("hard", "written", "in_force"),
    [(20_600, "", 10_000), (4_296, "", 2_048), (4_296, "limits: {connections: 9}", 9), (150, "", 16)],
)
def test_connections_leave_descriptors_for_where_they_lead(
    hard: int, written: str, in_force: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, hard))
    assert gateway(written)["limits"]["connections"] == in_force
    assert note(validate(Gateway, parse(written, "f"))) == ""


def test_a_limit_that_somebody_wrote_is_not_lowered_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 4_296))
    config = validate(Gateway, parse("limits: {connections: 5000}", "f"))
    assert note(config).startswith("limits.connections is 2048 instead of 5000")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, resource.RLIM_INFINITY))
    assert note(config) == ""


def test_an_access_log_that_cannot_be_written_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        gateway(f"access_log: {{to: {tmp_path}/nowhere/x}}")
    assert str(refused.value) == f"access_log.to: cannot open {tmp_path}/nowhere/x: no such file or directory"
    with pytest.raises(ConfigError, match="is a directory"):
        gateway(f"access_log: {{to: {tmp_path}}}")
    os.mkfifo(tmp_path / "pipe")
    assert gateway(f"access_log: {{to: {tmp_path}/pipe}}")["access_log"]["to"] == f"{tmp_path}/pipe"


def test_the_access_log_is_told_the_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "EAST-05:30")
    time.tzset()
    try:
        assert gateway()["access_log"]["utc_offset"] == 19_800
    finally:
        monkeypatch.undo()
        time.tzset()
