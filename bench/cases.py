"""
What is measured: the cases of a round, and what one has given so far.

How a case is run is `run`'s; what it may cost, `bars`.
"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field

import gates
import paths
import quic
from load import BULK, HANDSHAKES, SHOWING, SMALL, STREAMS, TLS_BULK, TLS_SMALL, Shape


@dataclass
class Series:
    """One figure, once a round."""

    values: list[float] = field(default_factory=list)
    """The figures."""

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    def less(self, other: "Series") -> "Series":
        """The difference, round by round."""
        return Series([mine - theirs for mine, theirs in zip(self.values, other.values, strict=True)])

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
    bulk: Series = field(default_factory=Series)
    """MiB/s of one answer over a bad link."""
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
HAPROXY = Case("HAProxy `mode http`", paths.haproxy, SMALL)
TUNNEL = Case("tidegate tunnel: gateway + agent", paths.tunnel, SMALL)
WORKERS = Case("the same, `--workers 2`", paths.tunnel_of_two_workers, SMALL, cpus=2)
GO = Case("Go pair: yamux + net/http, a stream per request", paths.go_tunnel, SMALL)
TCP = Case("tidegate TCP: forward + gateway + agent", paths.tcp, SMALL)
DIRECT = Case("no proxy (the responder's own cost)", paths.direct, SMALL)
NGINX_BULK = Case("nginx", paths.nginx, BULK)
TUNNEL_BULK = Case("tidegate tunnel: gateway + agent", paths.tunnel, BULK)
ADDRESS = Case("tidegate: a route to an address", gates.to_address, SMALL)
SHOWN = Case("tidegate: a route to an address, with a token", gates.to_address_with_a_token, SHOWING)
THOUSAND = Case("tidegate: the same among 1,000 routes", gates.among_a_thousand, SMALL)
HAPROXY_TCP = Case("HAProxy `mode tcp`", gates.haproxy_tcp, SMALL)
PASSED = Case("tidegate: passed through by server name", gates.passed_through, TLS_SMALL)
HAPROXY_PASSED = Case("HAProxy `mode tcp` by server name", gates.haproxy_passed_through, TLS_SMALL)
ADDRESS_BULK = Case("tidegate: a route to an address", gates.to_address, BULK)
PASSED_BULK = Case("tidegate: passed through by server name", gates.passed_through, TLS_BULK)
HAPROXY_PASSED_BULK = Case("HAProxy `mode tcp` by server name", gates.haproxy_passed_through, TLS_BULK)
ENDED = Case("tidegate: TLS ended", gates.ended, TLS_SMALL)
NGINX_ENDED = Case("nginx: TLS ended", gates.nginx_ended, TLS_SMALL)
SHAKEN = Case("tidegate", gates.ended, HANDSHAKES)
NGINX_SHAKEN = Case("nginx", gates.nginx_ended, HANDSHAKES)
STREAMED = Case("tidegate", gates.ended, STREAMS)
NGINX_STREAMED = Case("nginx", gates.nginx_ended, STREAMS)
COPIED = Case("tidegate: TCP listener, QUIC, agent", quic.copied, SMALL)
COPIED_BULK = Case("tidegate: TCP listener, QUIC, agent", quic.copied, BULK)
QUIC_GO = Case("Go pair: TCP listener, quic-go, agent", quic.go_pair, SMALL)
QUIC_GO_BULK = Case("Go pair: TCP listener, quic-go, agent", quic.go_pair, BULK)

GROUPS: dict[str, tuple[tuple[Case, ...], ...]] = {
    "requests": (
        (
            DIRECT,
            NGINX,
            HAPROXY,
            TUNNEL,
            WORKERS,
            GO,
            TCP,
            Case("Go TCP: forward + server + agent", paths.go_tcp, SMALL),
            ADDRESS,
            THOUSAND,
            HAPROXY_TCP,
            Case("kiagateway by Host", gates.kiagateway_http, SMALL),
            Case("Go in the shape of NanoProxy", gates.nanoproxy, SMALL),
        ),
        (SHOWN,),
    ),
    "bulk": (
        (
            NGINX_BULK,
            TUNNEL_BULK,
            Case("Go pair: yamux + net/http", paths.go_tunnel, BULK),
            Case("tidegate TCP: forward + gateway + agent", paths.tcp, BULK),
            ADDRESS_BULK,
            Case("HAProxy `mode tcp`", gates.haproxy_tcp, BULK),
        ),
        (
            PASSED_BULK,
            HAPROXY_PASSED_BULK,
            Case("kiagateway by server name", gates.kiagateway_tls, TLS_BULK),
        ),
    ),
    "tls": (
        (
            ENDED,
            NGINX_ENDED,
            PASSED,
            HAPROXY_PASSED,
            Case("kiagateway by server name", gates.kiagateway_tls, TLS_SMALL),
        ),
        (SHAKEN, NGINX_SHAKEN),
        (STREAMED, NGINX_STREAMED),
    ),
    "quic": (
        (NGINX, COPIED, QUIC_GO, Case("tidegate: HTTP through a tunnel of QUIC", quic.tunnel, SMALL)),
        (NGINX_BULK, COPIED_BULK, QUIC_GO_BULK, Case("tidegate: HTTP through a tunnel of QUIC", quic.tunnel, BULK)),
    ),
}
"""What is loaded in every round, in tables of one shape each."""

# At a fixed rate; the load has a CPU of its own.
PACED = (DIRECT, TUNNEL, GO)

Cases = Mapping[Case, Measured]
IDLE_TUNNEL, IDLE_AGENT, HELP = "idle tunnel", "idle agent", "help"
APPLY, SAVED, CHANGING = "apply", "saved", "changing"
NEW_TOKEN, FLOOD = "new token", "flood"
IDLE_QUIC, SENT_AT_ONCE, RECEIVED_AT_ONCE = "idle tunnel of QUIC", "sent at once", "received at once"
BACK, LOST = "back on QUIC", "lost"
# What QUIC makes of a bad link in terms of WebSocket, with the same congestion control; the default is the system's.
LOSSY = {"cubic": "both cubic", "bbr": "both bbr"}
