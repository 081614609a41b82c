"""
A tunnel over a bad link: what QUIC and WebSocket make of a path that is late and loses packets.

The link is `peers/lossy.c` between the gateway, here, and the agent, in a network namespace of its own, at addresses
that are set aside for benchmarks (RFC 2544). It needs root.
"""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import load
import quic
from paths import QUIET
from programs import BenchError, Ground, Program, Tools

DELAY_MICROSECONDS = 25_000
"""Of each direction: 50 ms for a question and its answer."""
LOSS_PERCENT = 5
"""Of each direction."""
REQUESTS = load.Shape("/bytes/1024", 1024, 20)
"""What is asked for: 20 streams of one tunnel, with an answer of 1 KiB each."""
SHORTEST_SECONDS = 3
"""In less than that single losses are seen."""
WARM_UP_SECONDS = 1
ENDLESS = 1 << 40
"""Bytes of an answer of which only the beginning is waited for."""


@dataclass(frozen=True)
class Carrier:
    """What carries the tunnel."""

    transport: str
    """`quic` or `websocket`."""
    congestion: str
    """The congestion control of both ends: for QUIC our setting, for TCP that of the route."""

    @property
    def name(self) -> str:
        """Its name in the table."""
        return f"{'QUIC' if self.transport == 'quic' else 'WebSocket over TCP'}, {self.congestion}"


CARRIERS = tuple(Carrier(transport, control) for transport in ("websocket", "quic") for control in ("cubic", "bbr"))


@dataclass(frozen=True)
class Carried:
    """What one run saw."""

    requests: float
    """Requests completed in a second."""
    mib: float
    """What one endless answer brought, MiB/s."""


def kernels_own() -> str:
    """The congestion control that the kernel gives to TCP by itself."""
    return Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()


class Link:
    """Two ends with a bad link between them: here and in `namespace`."""

    def __init__(self) -> None:
        self.namespace = self.device = f"tgb-{os.getpid()}"
        net = os.getpid() % 256
        self.here, self.there = f"198.18.{net}.1", f"198.18.{net}.2"

    def inside(self, *command: str) -> tuple[str, ...]:
        """The command line that runs a program at the far end."""
        return ("ip", "netns", "exec", self.namespace, *command)

    def open(self, ground: Ground, congestion: str, delay: int, loss: float) -> Program:
        """Starts the relay and wires both ends; the link is there as long as it runs."""
        words = (self.device, f"/run/netns/{self.namespace}", self.device, str(delay), str(loss))
        relay = ground.start("lossy", ground.tools.peer("lossy"), *words)
        relay.event("ready")
        for where, own, other in (((), self.here, self.there), (("-n", self.namespace), self.there, self.here)):
            _ip(*where, "address", "add", f"{own}/30", "dev", self.device)
            _ip(*where, "link", "set", self.device, "up")
            _ip(*where, "route", "add", f"{other}/32", "dev", self.device, "congctl", congestion)
        return relay


@contextlib.contextmanager
def link() -> Iterator[Link]:
    """The far end of a link, as long as it is needed."""
    made = Link()
    _ip("netns", "add", made.namespace)
    try:
        _ip("-n", made.namespace, "link", "set", "lo", "up")
        yield made
    finally:
        _ip("netns", "delete", made.namespace)


def measure(tools: Tools, cpus: str, carrier: Carrier, seconds: float) -> Carried:
    """What one tunnel brings over the bad link."""
    seconds = max(seconds, SHORTEST_SECONDS)
    with link() as bad, Ground(tools, cpus) as ground:
        tcp = carrier.congestion if carrier.transport == "websocket" else "cubic"
        bad.open(ground, tcp, DELAY_MICROSECONDS, LOSS_PERCENT)
        web = start(ground, bad, carrier.transport, carrier.congestion).http
        load.check(web, REQUESTS)
        load.drive(web, REQUESTS, WARM_UP_SECONDS, cpus)
        counted = load.drive(web, REQUESTS, seconds, cpus)
        if counted.errors:
            raise BenchError(counted.errors)
        return Carried(counted.requests / counted.seconds, _bulk(web, seconds))


def start(ground: Ground, bad: Link, transport: str, congestion: str) -> quic.Gate:
    """A gateway at this end, and at the other one an agent that is connected and its responder."""
    upstream = ground.start("responder", *bad.inside(ground.tools.peer("responder"), "0"))
    address = str(upstream.event("listening")["address"])
    gate = quic.gateway(ground, bad.here, congestion)
    leads = {load.ENDPOINT: f"http://{address}"}
    file = quic.agent_file(ground, gate, leads, transport=transport, congestion=congestion)
    ground.start("agent", *bad.inside(ground.tools.tidegate, "agent", "start", "--config", file, *QUIET))
    gate.program.event("agent connected")
    return gate


def _bulk(address: str, seconds: float) -> float:
    """MiB/s of an answer without end, after a second in which the path is learnt."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=load.ANSWER_SECONDS) as connection:
        head = f"GET /bytes/{ENDLESS} HTTP/1.1\r\nHost: {load.HOST}\r\n{load.HEADER}: {load.ENDPOINT}\r\n\r\n"
        connection.sendall(head.encode())
        _received(connection, WARM_UP_SECONDS)
        began = time.monotonic()
        return _received(connection, seconds) / (time.monotonic() - began) / (1 << 20)


def _received(connection: socket.socket, seconds: float) -> int:
    """The bytes that come in this time."""
    until, count = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        part = connection.recv(1 << 20)
        if not part:
            raise BenchError("an answer without end has ended")
        count += len(part)
    return count


def _ip(*words: str) -> None:
    ran = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise BenchError(f"ip {' '.join(words)}: {ran.stderr.strip()} (a bad link needs root)")
