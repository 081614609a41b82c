"""Forwards that choose between QUIC and WebSocket by what the network lets pass, in networks of their own."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.support.certificates import Authority
from tests.support.namespace import Namespace
from tests.support.process import until
from tests.support.raw import Raw, told_by
from tests.support.service import TcpService
from tests.support.tidegate import Agent, Forward, Gateway
from tests.system.over_quic import Quic, echo, says, way

_BACK = 30
"""Seconds after which a forward is back on QUIC, at most."""


@pytest.fixture(scope="module")
def quic(authority: Authority) -> Quic:
    """Both ends trust it."""
    return Quic(authority)


@pytest.fixture
def network() -> Iterator[Namespace]:
    """What the test opens is in it."""
    with Namespace() as namespace, namespace.inside():
        yield namespace


@pytest.fixture
def gateway(quic: Quic, network: Namespace) -> Iterator[Gateway]:
    """A gateway that takes forwards over QUIC, with an endpoint `db` that says back what it hears."""
    with (
        TcpService(echo) as service,
        Gateway({"listeners": {"proxy": quic.reached()}}) as gateway,
        Agent(gateway.agents, "tcp", "db", service.address),
    ):
        yield gateway


def choosing(quic: Quic, gateway: Gateway, transport: str = "auto") -> Forward:
    """A forward that may use both."""
    return quic.forward(gateway.proxy, "db", "--admin", "127.0.0.1:0", transport=transport)


def until_over(forward: Forward, transport: str) -> None:
    """Waits until new connections take it."""
    until(lambda: way(forward)[0] == transport, f"new connections go over {transport}", _BACK)


def why_not(gateway: Gateway) -> str:
    """What is said of UDP that is dropped."""
    return f"no answer on UDP {gateway.proxy.rpartition(':')[2]}"


def test_connections_have_a_websocket_each_while_udp_is_dropped_and_none_is_cut_when_it_is_not(
    quic: Quic, network: Namespace, gateway: Gateway
) -> None:
    network.lose_datagrams(100)
    with choosing(quic, gateway) as forward, Raw(forward.address) as early:
        begun = time.monotonic()
        says(early, b"early\n")
        # The head start of QUIC, and what the test needs itself.
        assert time.monotonic() - begun < 2
        assert forward.event("quic unavailable")["reason"] == why_not(gateway)
        assert way(forward) == ("websocket", why_not(gateway))
        network.lose_datagrams(0)
        opened = time.monotonic()
        while way(forward)[0] != "quic":
            with Raw(forward.address) as line:
                says(line, b"meanwhile\n")
            assert time.monotonic() - opened < _BACK
        changed = forward.event("transport changed")
        assert (changed["from"], changed["to"], changed["reason"]) == ("websocket", "quic", "UDP is answered")
        assert way(forward) == ("quic", "")
        says(early, b"still over WebSocket\n")
        with Raw(forward.address) as line:
            says(line, b"over QUIC\n")
        assert forward.seen("stream refused") == []


def test_new_connections_take_a_websocket_within_seconds_when_udp_is_cut_in_the_middle_of_one(
    quic: Quic, network: Namespace, gateway: Gateway
) -> None:
    with choosing(quic, gateway) as forward:
        until_over(forward, "quic")
        with Raw(forward.address) as running:
            says(running, b"x" * 100_000)
            cut = time.monotonic()
            network.lose_datagrams(100)
            # It is on its way when nobody knows yet.
            running.send(b"kept\n")
            with Raw(forward.address) as line:
                says(line, b"new\n")
            assert time.monotonic() - cut < 3
            changed = forward.event("transport changed")
            assert (changed["from"], changed["to"], changed["reason"]) == ("quic", "websocket", why_not(gateway))
            assert way(forward) == ("websocket", why_not(gateway))
            for _ in range(20):
                with Raw(forward.address) as line:
                    says(line, b"more\n")
            network.lose_datagrams(0)
            opened = time.monotonic()
            until_over(forward, "quic")
            assert time.monotonic() - opened < _BACK
            # What ran over QUIC has waited, and has lost nothing.
            assert running.take(5) == b"kept\n"
            says(running, b"goes on\n")
        assert forward.seen("stream refused") == []


def test_a_session_that_is_idle_when_udp_is_cut_costs_its_first_connection_a_moment(
    quic: Quic, network: Namespace, gateway: Gateway
) -> None:
    with choosing(quic, gateway) as forward:
        until_over(forward, "quic")
        network.lose_datagrams(100)
        begun = time.monotonic()
        with Raw(forward.address) as line:
            says(line, b"first\n")
        assert time.monotonic() - begun < 5
        begun = time.monotonic()
        with Raw(forward.address) as line:
            says(line, b"second\n")
        assert time.monotonic() - begun < 2


def test_a_forward_that_was_told_to_use_quic_says_why_there_is_none(
    quic: Quic, network: Namespace, gateway: Gateway
) -> None:
    network.lose_datagrams(100)
    with choosing(quic, gateway, "quic") as forward:
        assert told_by(forward.address) == b""
        assert why_not(gateway) in forward.event("stream refused")["reason"]
        network.lose_datagrams(0)

        def served() -> bool:
            with Raw(forward.address) as line:
                line.send(b"hello\n")
                line.end()
                return line.rest() == b"hello\n"

        until(served, "it is served over QUIC", _BACK)


@pytest.mark.parametrize("percent", [5, 30])
def test_lost_datagrams_lose_no_byte(quic: Quic, network: Namespace, gateway: Gateway, percent: int) -> None:
    with choosing(quic, gateway) as forward:
        until_over(forward, "quic")
        with Raw(forward.address, timeout=60) as line:
            network.lose_datagrams(percent)
            for number in range(20):
                says(line, b"line %d\n" % number)
            network.lose_datagrams(0)
            says(line, b"y" * 200_000)
