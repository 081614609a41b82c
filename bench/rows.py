"""
What is measured and what it may cost: the cases of a round, and the bars they are held against.

How a case is run is `run`'s; how its figures are printed, `table`'s.
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import paths
from load import BULK, SMALL, Shape

# The bars are for a run in which nginx costs this much; what it costs in a run makes them fit the machine.
NGINX_MICROSECONDS = {SMALL: 15.2, BULK: 616.0}


@dataclass
class Series:
    """One figure, once a round."""

    values: list[float] = field(default_factory=list)
    """The figures."""

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    def over(self, other: "Series") -> "Series":
        """The ratio, round by round: both were measured within seconds."""
        return Series([mine / theirs for mine, theirs in zip(self.values, other.values, strict=True)])


@dataclass
class Measured:
    """What a case has given so far."""

    cost: Series = field(default_factory=Series)
    """CPU of the proxies, µs a request."""
    rate: Series = field(default_factory=Series)
    """Requests/s."""
    latency: dict[str, Series] = field(default_factory=dict)
    """p50, p99, p99.9 and our own lateness, µs."""
    errors: list[str] = field(default_factory=list)
    """What went wrong; any of it makes the case no result."""


@dataclass(frozen=True)
class Case:
    """One thing that is loaded in every round."""

    name: str
    """What it is called in the table."""
    build: paths.Build
    """Starts it."""
    shape: Shape
    """What is asked for."""
    cpus: int = 1
    """How many CPUs all of it shares."""


NGINX = Case("nginx", paths.nginx, SMALL)
TUNNEL = Case("tidegate tunnel: gateway + agent", paths.tunnel, SMALL)
WORKERS = Case("the same, `--workers 2`", paths.tunnel_of_two_workers, SMALL, cpus=2)
GO = Case("Go pair: yamux + net/http, a stream per request", paths.go_tunnel, SMALL)
TCP = Case("tidegate TCP: forward + gateway + agent", paths.tcp, SMALL)
DIRECT = Case("no proxy (the responder's own cost)", paths.direct, SMALL)
NGINX_BULK = Case("nginx", paths.nginx, BULK)
TUNNEL_BULK = Case("tidegate tunnel: gateway + agent", paths.tunnel, BULK)

REQUESTS = (
    DIRECT,
    NGINX,
    Case("HAProxy `mode http`", paths.haproxy, SMALL),
    TUNNEL,
    WORKERS,
    GO,
    TCP,
    Case("Go TCP: forward + server + agent", paths.go_tcp, SMALL),
)
TRANSFERS = (
    NGINX_BULK,
    TUNNEL_BULK,
    Case("Go pair: yamux + net/http", paths.go_tunnel, BULK),
    Case("tidegate TCP: forward + gateway + agent", paths.tcp, BULK),
)
# At a fixed rate; the load has a CPU of its own.
PACED = (DIRECT, TUNNEL, GO)

Cases = Mapping[Case, Measured]
IDLE_TUNNEL, IDLE_AGENT, HELP = "idle tunnel", "idle agent", "help"


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


BARS = (
    Bar(
        "HTTP through the tunnel, gateway + agent",
        "µs/request",
        45,
        22,
        (TUNNEL,),
        lambda cases, _: cases[TUNNEL].cost,
        yardstick=NGINX,
    ),
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
    Bar(
        "TCP through forward + gateway + agent",
        "µs/request",
        40,
        25,
        (TCP,),
        lambda cases, _: cases[TCP].cost,
        yardstick=NGINX,
    ),
    Bar(
        "bulk through the tunnel, gateway + agent",
        "µs/MiB",
        1600,
        900,
        (TUNNEL_BULK,),
        lambda cases, _: cases[TUNNEL_BULK].cost,
        yardstick=NGINX_BULK,
    ),
    Bar("memory of the gateway for an idle tunnel", "KiB", 40, 16, (), lambda _, idle: idle[IDLE_TUNNEL]),
    Bar("`tidegate --help`", "ms", 300, None, (), lambda _, idle: idle[HELP]),
    Bar("memory of an idle agent, Python and all", "MiB", None, None, (), lambda _, idle: idle[IDLE_AGENT]),
)
