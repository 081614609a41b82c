"""
What a measured thing may cost: the promises of the table, and where their figures come from.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cases import (
    ADDRESS,
    ADDRESS_BULK,
    APPLY,
    BACK,
    CHANGING,
    COPIED,
    COPIED_BULK,
    ENDED,
    FLOOD,
    GO,
    HAPROXY,
    HAPROXY_PASSED,
    HAPROXY_PASSED_BULK,
    HAPROXY_TCP,
    HELP,
    IDLE_AGENT,
    IDLE_QUIC,
    IDLE_TUNNEL,
    LOSSY,
    LOST,
    NEW_TOKEN,
    NGINX,
    NGINX_BULK,
    NGINX_ENDED,
    NGINX_SHAKEN,
    NGINX_STREAMED,
    PASSED,
    PASSED_BULK,
    QUIC_GO_BULK,
    RECEIVED_AT_ONCE,
    SAVED,
    SENT_AT_ONCE,
    SHAKEN,
    SHOWN,
    STREAMED,
    TCP,
    THOUSAND,
    TUNNEL,
    TUNNEL_BULK,
    WORKERS,
    Case,
    Cases,
    Series,
)
from load import BULK, SMALL

# The bars are for a run in which nginx costs this much; what it costs in a run makes them fit the machine.
NGINX_MICROSECONDS = {SMALL: 15.2, BULK: 616.0}


@dataclass(frozen=True)
class Bar:
    """A promise, and where its figure comes from."""

    what: str
    """What is promised."""
    unit: str
    """The unit of the figures."""
    first: float | None
    """What it must reach; None where it is only told."""
    goal: float | None
    """What it is meant to reach one day."""
    cases: tuple[Case, ...]
    """The cases that must be without errors."""
    figure: Callable[[Cases, Mapping[str, Series]], Series]
    """The figure of each round."""
    yardstick: Case | None = None
    """The case of nginx that the bar is scaled by."""
    at_least: bool = False
    """Whether more is better."""


def _at_most(what: str, ours: Case, theirs: Case, first: float, goal: float | None = None) -> Bar:
    """A bar on our CPU time in terms of somebody else's, of the same round."""
    return Bar(
        f"{what}: CPU", "times", first, goal, (ours, theirs), lambda cases, _: cases[ours].cost.over(cases[theirs].cost)
    )


def _cost(what: str, case: Case, yardstick: Case, first: float | None, goal: float) -> Bar:
    """A bar on our CPU time alone, for a request or for a MiB."""
    unit = "µs/MiB" if yardstick is NGINX_BULK else "µs/request"
    return Bar(what, unit, first, goal, (case,), lambda cases, _: cases[case].cost, yardstick=yardstick)


def _lossy(what: str, name: str) -> Bar:
    """A bar on QUIC in terms of WebSocket, over a bad link."""
    return Bar(what, "times", 1.3, 1.8, (), lambda _, idle: idle[name], at_least=True)


BARS = (
    _cost("HTTP through the tunnel, gateway + agent", TUNNEL, NGINX, 45, 22),
    Bar(
        "the same, requests/s against the Go pair, all on one core",
        "times",
        4,
        None,
        (TUNNEL, GO),
        lambda cases, _: cases[TUNNEL].rate.over(cases[GO].rate),
        at_least=True,
    ),
    Bar(
        "the same, two workers on two cores and one tunnel, CPU against one worker",
        "times",
        1.5,
        None,
        (TUNNEL, WORKERS),
        lambda cases, _: cases[WORKERS].cost.over(cases[TUNNEL].cost),
    ),
    _cost("TCP through forward + gateway + agent", TCP, NGINX, 40, 25),
    _cost("bulk through the tunnel, gateway + agent", TUNNEL_BULK, NGINX_BULK, 1600, 900),
    _at_most("HTTP to an address, against nginx", ADDRESS, NGINX, 1),
    _at_most("the same, against HAProxy `mode http`", ADDRESS, HAPROXY, 1),
    _cost("the same", ADDRESS, NGINX, None, 13),
    _at_most("the same, against HAProxy `mode tcp`", ADDRESS, HAPROXY_TCP, 1),
    _at_most("a route among 1,000, against one alone", THOUSAND, ADDRESS, 1.05),
    _at_most("passed through by server name, against HAProxy", PASSED, HAPROXY_PASSED, 1),
    _cost("bulk by Host", ADDRESS_BULK, NGINX_BULK, 320, 260),
    _cost("bulk passed through by server name", PASSED_BULK, NGINX_BULK, 320, 260),
    _at_most("the same, against HAProxy", PASSED_BULK, HAPROXY_PASSED_BULK, 1),
    _at_most("TLS ended, against nginx", ENDED, NGINX_ENDED, 1),
    _at_most("full handshakes, against nginx", SHAKEN, NGINX_SHAKEN, 1 / 0.9),
    _at_most("HTTP/2, against nginx", STREAMED, NGINX_STREAMED, 1 / 0.8, 1 / 1.1),
    Bar(
        "what a known token adds to a request",
        "µs/request",
        1.5,
        None,
        (SHOWN, ADDRESS),
        lambda cases, _: cases[SHOWN].cost.less(cases[ADDRESS].cost),
        yardstick=NGINX,
    ),
    Bar("200 new ES256 tokens a second: p99", "ms", 20, None, (), lambda _, idle: idle[NEW_TOKEN]),
    Bar("a flood of forged tokens: p99 of others", "times", 1.5, None, (), lambda _, idle: idle[FLOOD]),
    Bar("memory of the gateway for an idle tunnel", "KiB", 40, 16, (), lambda _, idle: idle[IDLE_TUNNEL]),
    _cost("QUIC: TCP listener, gateway + agent", COPIED, NGINX, 36, 25),
    _cost("bulk through the same", COPIED_BULK, NGINX_BULK, 2300, 1500),
    Bar(
        "the same, MiB/s against the Go pair, all on one core",
        "times",
        2,
        None,
        (COPIED_BULK, QUIC_GO_BULK),
        lambda cases, _: cases[COPIED_BULK].rate.over(cases[QUIC_GO_BULK].rate),
        at_least=True,
    ),
    Bar("the same, datagrams sent by a system call", "", None, None, (), lambda _, idle: idle[SENT_AT_ONCE]),
    Bar("the same, datagrams received by one", "", None, None, (), lambda _, idle: idle[RECEIVED_AT_ONCE]),
    _lossy("5 % lost, 20 streams: QUIC against WebSocket, both cubic", LOSSY["cubic"]),
    _lossy("the same, both bbr", LOSSY["bbr"]),
    Bar("back on QUIC after UDP is", "s", 30, None, (), lambda _, idle: idle[BACK]),
    Bar("requests that failed on the way back", "", 0, None, (), lambda _, idle: idle[LOST]),
    Bar("memory of the gateway for an idle tunnel of QUIC", "KiB", 40, 16, (), lambda _, idle: idle[IDLE_QUIC]),
    Bar("10,000 routes, from `apply` to in force", "ms", 200, None, (), lambda _, idle: idle[APPLY]),
    Bar("10,000 routes, from a saved file to in force", "s", 5, None, (), lambda _, idle: idle[SAVED]),
    Bar(
        "the same, saved every second: p99 against none",
        "times",
        None,
        None,
        (),
        lambda _, idle: idle[CHANGING],
    ),
    Bar("`tidegate --help`", "ms", 300, None, (), lambda _, idle: idle[HELP]),
    Bar("memory of an idle agent, Python and all", "MiB", None, None, (), lambda _, idle: idle[IDLE_AGENT]),
)
