"""Peers that break WebSocket or yamux: their session ends, memory stays bounded, everybody else goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.programs import BadServer, PikoAgent, Service, all_come_back, attack_gateway
from tests.support.http import request
from tests.support.process import until
from tests.support.tidegate import Agent, Gateway

BROKEN = (
    "wrong-version",
    "wrong-type",
    "unknown-id",
    "own-unknown-id",
    "foreign-syn",
    "syn-too-much-data",
    "beyond-window",
    "length-max",
    "window-overflow",
    "syn-twice",
    "goaway-protocol",
    "goaway-unknown",
    "ws-huge-length",
    "ws-wrong-mask",
    "ws-fragmented-control",
    "ws-long-control",
    "ws-reserved-bits",
    "ws-unknown-opcode",
    "ws-text",
    "ws-lonely-continue",
    "ws-half-frame",
)
"""After these a session must end."""

LEGAL = ("closed-stream-data", "reset-stream-data")
"""These happen where nobody is to blame: the session must live on."""

FLOODS = ("syn-flood", "ping-flood", "ws-ping-flood", "ws-tiny-fragments", "ws-empty-fragments", "ws-empty-messages")
"""A session may end or bear these; it may not hang, and may not cost memory."""

MEMORY = 300 << 20
"""Bytes that no script may drive a process over: a session's budget is 64 MiB, and there is one bad session."""


@pytest.fixture
def neighbour(gateway: Gateway, service: Service) -> Iterator[PikoAgent]:
    """An agent of the endpoint `good` that must not notice anything."""
    with PikoAgent(gateway.agents, "http", "good", service.http) as agent:
        gateway.until_offered("good")
        yield agent
        all_come_back("--http", f"http://{gateway.proxy}", "--endpoint", "good", "--count", "50")
        assert len(agent.seen("connected")) == 1
        assert gateway.peak_memory() < MEMORY


@pytest.mark.parametrize("script", BROKEN)
@pytest.mark.usefixtures("neighbour")
def test_a_gateway_ends_the_session_of_an_agent_that_is_broken(gateway: Gateway, script: str) -> None:
    outcome = attack_gateway(gateway.agents, gateway.proxy, script)
    assert not outcome["alive"], outcome
    assert outcome["end"], outcome
    gateway.event("agent disconnected", endpoint="bad")


@pytest.mark.parametrize("script", LEGAL)
@pytest.mark.usefixtures("neighbour")
def test_a_gateway_forgives_data_for_a_stream_that_has_been_closed(gateway: Gateway, script: str) -> None:
    outcome = attack_gateway(gateway.agents, gateway.proxy, script)
    assert outcome["alive"], outcome


@pytest.mark.parametrize("script", FLOODS)
@pytest.mark.usefixtures("neighbour")
def test_a_gateway_withstands_a_flood_from_an_agent(gateway: Gateway, script: str) -> None:
    outcome = attack_gateway(gateway.agents, gateway.proxy, script)
    assert outcome["alive"] or outcome["end"], outcome


@pytest.mark.parametrize("script", [*BROKEN, *FLOODS, "reset-stream-data"])
def test_an_agent_serves_on_after_a_server_that_is_broken(service: Service, script: str) -> None:
    with BadServer(script) as server, Agent(server.upstream, "http", "web", service.http) as agent:
        outcome = server.event("outcome", deadline=90)
        if script in BROKEN:
            assert not outcome["alive"], outcome
        else:
            assert outcome["alive"] or outcome["end"], outcome
        # The server's end of the bad session is closed by now; the agent comes to the part that behaves.
        server.event("agent connected", endpoint="web")
        headers = {"x-piko-endpoint": "web"}
        until(lambda: request(server.proxy, headers=headers).status == 200, "the agent serves")
        assert agent.peak_memory() < MEMORY
