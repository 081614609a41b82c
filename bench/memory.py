"""
What idles: the gateway's memory for a tunnel without traffic, an agent's memory, and the time of `tidegate --help`.

The tunnels are opened here, on bare sockets, so that thousands of them need no thousands of agents.
"""

import contextlib
import socket
import subprocess
import time

import cpu
import paths
import quic
from programs import BenchError, Ground, Tools

CONNECT_SECONDS = 30.0
SETTLE_SECONDS = 10.0
# The most tunnels that an agent keeps for an endpoint.
PER_ENDPOINT = 64
# Any 16 bytes will do; these are the example of RFC 6455.
UPGRADE = (
    "GET /piko/v1/upstream/idle-{number} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def idle_tunnel_kib(tools: Tools, cpus: str, count: int) -> float:
    """Resident memory that the gateway needs for one more tunnel, each of an endpoint of its own."""
    with Ground(tools, cpus) as ground, contextlib.ExitStack() as tunnels:
        gate, _, agents = paths.gateway(ground)
        # What is only needed once is there before the first look.
        tunnels.enter_context(_open(agents, 0))
        before = _settled(gate.pid)
        for number in range(1, count + 1):
            tunnels.enter_context(_open(agents, number))
        return (_settled(gate.pid) - before) / count


def idle_quic_kib(tools: Tools, cpus: str, count: int) -> float:
    """The same for a tunnel of QUIC; agents open them, as many as one may have for an endpoint."""
    with Ground(tools, cpus) as ground:
        gate = quic.gateway(ground)
        _connect(ground, gate, 1, 1)
        before = _settled(gate.program.pid)
        endpoints = max(1, count // PER_ENDPOINT)
        _connect(ground, gate, endpoints, PER_ENDPOINT)
        return (_settled(gate.program.pid) - before) / (endpoints * PER_ENDPOINT)


def idle_agent_mib(tools: Tools, cpus: str) -> float:
    """Resident memory of an agent that has connected and has nothing to do."""
    with Ground(tools, cpus) as ground:
        return _settled(paths.tunnel(ground).proxies[1].pid) / 1024


def help_ms(tools: Tools, cpus: str) -> float:
    """Wall time of `tidegate --help`."""
    start = time.perf_counter()
    command = ["taskset", "--cpu-list", cpus, tools.tidegate, "--help"]
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode != 0:
        raise BenchError("`tidegate --help` failed")
    return (time.perf_counter() - start) * 1000


def _open(address: str, number: int) -> socket.socket:
    host, _, port = address.rpartition(":")
    tunnel = socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS)
    tunnel.sendall(UPGRADE.format(number=number, address=address).encode())
    answer = tunnel.recv(4096)
    if b" 101 " not in answer:
        tunnel.close()
        raise BenchError(f"tunnel {number} was refused: {answer[:200]!r}")
    return tunnel


def _connect(ground: Ground, gate: quic.Gate, endpoints: int, each: int) -> None:
    """One more agent, and waits for all its tunnels."""
    wanted = quic.metric(gate, "tidegate_sessions") + endpoints * each
    leads = {f"idle-{endpoints}-{number}": "tcp://127.0.0.1:9" for number in range(endpoints)}
    file = quic.agent_file(ground, gate, leads, connections=each)
    agent = ground.start(f"agent-{endpoints}", ground.tools.tidegate, "agent", "start", "--config", file, *paths.QUIET)
    deadline = time.monotonic() + CONNECT_SECONDS
    while quic.metric(gate, "tidegate_sessions") < wanted:
        if time.monotonic() > deadline:
            raise BenchError(f"not all tunnels came about within {CONNECT_SECONDS:g} s:\n{agent.tail()}")
        time.sleep(0.1)


def _settled(pid: int) -> int:
    """The resident memory, once it has not changed for half a second."""
    deadline = time.monotonic() + SETTLE_SECONDS
    last = cpu.resident_kib(pid)
    while time.monotonic() < deadline:
        time.sleep(0.5)
        now = cpu.resident_kib(pid)
        if now == last:
            break
        last = now
    return last
