"""What an agent may connect to: how an entry is written, and what the engine gets of it."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.config.load import parse, validate
from tidegate.config.model import Agent
from tidegate.config.snapshot import agent_snapshot
from tidegate.config.targets import allow, allow_text


@pytest.mark.parametrize(
    ("written", "normal", "network", "name", "ports"),
    [
        ("10.0.0.0/8:10250", "10.0.0.0/8:10250", "10.0.0.0/8", None, (10250, 10250)),
        ("10.0.0.0/8", "10.0.0.0/8", "10.0.0.0/8", None, (1, 65535)),
        ("10.1.2.3", "10.1.2.3", "10.1.2.3/32", None, (1, 65535)),
        (" 10.1.2.3:080 ", "10.1.2.3:80", "10.1.2.3/32", None, (80, 80)),
        ("[fd00::/8]:443", "[fd00::/8]:443", "fd00::/8", None, (443, 443)),
        ("[fd00::/8]", "fd00::/8", "fd00::/8", None, (1, 65535)),
        ("FD00::1", "fd00::1", "fd00::1/128", None, (1, 65535)),
        ("[::1]:1-1024", "[::1]:1-1024", "::1/128", None, (1, 1024)),
        ("db.example:1-1024", "db.example:1-1024", None, "db.example", (1, 1024)),
        ("DB.Example.:443-443", "db.example:443", None, "db.example", (443, 443)),
        ("*.Corp.example:443", "*.corp.example:443", None, "*.corp.example", (443, 443)),
        ("*.corp.example", "*.corp.example", None, "*.corp.example", (1, 65535)),
        ("localhost", "localhost", None, "localhost", (1, 65535)),
        ("bücher.example:443", "xn--bcher-kva.example:443", None, "xn--bcher-kva.example", (443, 443)),
        ("host:1-65535", "host", None, "host", (1, 65535)),
    ],
)
def test_an_entry_has_one_form(
    written: str, normal: str, network: str | None, name: str | None, ports: tuple[int, int]
) -> None:
    entry = allow(written)
    assert str(entry) == normal == allow_text(normal)
    assert entry.dump() == {"network": network, "name": name, "low": ports[0], "high": ports[1]}


@given(st.text(max_size=30))
def test_whatever_is_written_is_an_entry_or_a_mistake_that_is_told(text: str) -> None:
    with contextlib.suppress(ValueError):
        normal = allow_text(text)
        assert allow_text(normal) == normal


def test_the_engine_gets_the_list_and_the_agents_own_address() -> None:
    text = "endpoints: [{name: dc1, to: connect, allow: [10.0.0.0/8:443]}]\nadmin: {bind: '127.0.0.1:8003'}"
    offer = json.loads(agent_snapshot(validate(Agent, parse(text, "agent.yaml")), "id"))["endpoints"][0]
    assert (offer["kind"], offer["to"]) == ("connect", None)
    assert offer["allow"] == [{"network": "10.0.0.0/8", "name": None, "low": 443, "high": 443}]
    assert offer["connect"] == {"only_safe": False, "never": ["127.0.0.1:8003"], "failed_status": None}
