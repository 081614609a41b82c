"""
The ways through a tunnel over QUIC, and their peer: programs in the shape of quic-reverse-http-tunnel.

The same over WebSocket is in `paths`; the same over a bad link in `losses`.
"""

import http.client
import json
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from certificates import Authority
from load import ANSWER_SECONDS, ENDPOINT, HOST
from paths import ANYWHERE, QUIET, Way, responder
from programs import BenchError, Ground, Program, Tools

# What the peer checks the server's certificate for, whatever address it dials.
PEER_NAME = "quic-tunnel-server"
HTTP, BYTES = "http", "bytes"
# What one way carries when datagrams are counted: enough that the beginning does not count.
FLOW = 32 << 20
FLOW_SECONDS = 30.0


@dataclass(frozen=True)
class Gate:
    """A gateway that takes tunnels over both."""

    program: Program
    """The process."""
    agents: str
    """Where agents connect, by TCP and UDP."""
    http: str
    """Where requests go in."""
    bytes: str
    """Where connections go in that are copied to the endpoint."""
    admin: str
    """Where its metrics are."""
    ca: str
    """The authority that has signed its certificate."""


def gateway(ground: Ground, host: str = "127.0.0.1", congestion: str = "system") -> Gate:
    """A gateway with one worker; agents connect to this address of it."""
    authority = Authority(ground.folder)
    cert, key = authority.issue("localhost")
    tls = {"certificates": [{"cert": cert, "key": key}]}
    listeners = {
        HTTP: {"bind": ANYWHERE, "dynamic_endpoints": {"allow": [ENDPOINT]}},
        BYTES: {"bind": ANYWHERE, "kind": "tcp", "to": {"endpoint": ENDPOINT}},
        "agents": {"bind": f"{host}:0", "kind": "tunnel", "tls": tls, "transports": ["websocket", "quic"]},
    }
    whole = {
        "listeners": listeners,
        "admin": {"bind": ANYWHERE},
        "tunnel": {"congestion": congestion},
        "workers": 1,
        "access_log": {"to": "off"},
        "log": {"format": "json"},
    }
    # JSON is YAML.
    file = ground.write("tidegate.yaml", json.dumps(whole))
    program = ground.start("gateway", ground.tools.tidegate, "gateway", "--config", file)

    def address(listener: str) -> str:
        return str(program.event("listening", listener=listener)["address"])

    return Gate(program, address("agents"), address(HTTP), address(BYTES), address("admin"), authority.ca)


def agent_file(
    ground: Ground,
    gate: Gate,
    endpoints: Mapping[str, str],
    *,
    connections: int = 1,
    transport: str = "quic",
    congestion: str = "system",
) -> str:
    """What an agent is told, as a file: endpoints and where each leads."""
    whole = {
        "connect": {
            "urls": [f"https://{gate.agents}"],
            "transport": transport,
            "connections": connections,
            "ca": gate.ca,
            "server_name": "localhost",
        },
        "endpoints": [{"name": name, "to": to} for name, to in endpoints.items()],
        "tunnel": {"congestion": congestion},
    }
    return ground.write("agent.yaml", json.dumps(whole))


def tunnel(ground: Ground) -> Way:
    """HTTP through gateway and agent."""
    gate, agent = _tunnel(ground, "http")
    return Way(gate.http, (gate.program, agent))


def copied(ground: Ground) -> Way:
    """Connections that the gateway copies to the agent and the agent to the upstream."""
    gate, agent = _tunnel(ground, "tcp")
    return Way(gate.bytes, (gate.program, agent))


def _tunnel(ground: Ground, kind: str) -> tuple[Gate, Program]:
    upstream, _ = responder(ground)
    gate = gateway(ground)
    file = agent_file(ground, gate, {ENDPOINT: f"{kind}://{upstream}"})
    agent = ground.start("agent", ground.tools.tidegate, "agent", "start", "--config", file, *QUIET)
    gate.program.event("agent connected")
    return gate, agent


def metric(gate: Gate, name: str) -> float:
    """A metric of a gateway; where its labels are left out, all of them together."""
    with urllib.request.urlopen(f"http://{gate.admin}/metrics", timeout=ANSWER_SECONDS) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def at_once(tools: Tools, cpus: str) -> tuple[float, float]:
    """Datagrams that a system call of the gateway sends and receives in bulk: by GSO and GRO."""
    with Ground(tools, cpus) as ground:
        gate = _tunnel(ground, "tcp")[0]
        _exchange(gate.bytes, bytes(FLOW), "/")
        sent = _a_call(gate, "out")
        _exchange(gate.bytes, b"", f"/bytes/{2 * FLOW}")
        return sent, _a_call(gate, "in")


def _exchange(address: str, body: bytes, path: str) -> None:
    connection = http.client.HTTPConnection(address, timeout=FLOW_SECONDS)
    try:
        connection.request("POST", path, body=body, headers={"Host": HOST})
        answer = connection.getresponse()
        while answer.read(1 << 20):
            pass
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"{address} does not answer: {error}") from error
    finally:
        connection.close()


def _a_call(gate: Gate, direction: str) -> float:
    label = f'{{direction="{direction}"}}'
    datagrams, calls = (metric(gate, f"tidegate_quic_udp_{what}_total{label}") for what in ("datagrams", "calls"))
    return datagrams / calls


def go_pair(ground: Ground) -> Way:
    """The peer: a TCP listener, a stream of quic-go for each connection, and the agent that copies it."""
    authority = Authority(ground.folder)
    upstream, _ = responder(ground)
    cert, key = authority.issue(PEER_NAME)
    files = ("--cert-file", cert, "--cert-key", key, "--client-ca-file", authority.ca)
    server = ground.start("quic-server", ground.tools.peer("quic-server"), *files)
    listening = server.event("listening")
    cert, key = authority.issue("agent")
    files = ("--cert-file", cert, "--cert-key", key, "--ca-file", authority.ca)
    where = ("--server", str(listening["quic"]), "--upstream", upstream)
    agent = ground.start("quic-agent", ground.tools.peer("quic-agent"), *where, *files)
    server.event("agent connected")
    return Way(str(listening["tcp"]), (server, agent))
