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
from programs import BenchError, Ground, Tools

CONNECT_SECONDS = 10.0
SETTLE_SECONDS = 10.0
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
