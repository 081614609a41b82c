"""
The closed-loop load: wrk, and what it counted.

Where the requests go comes from `paths`, what they cost from `cpu`.
"""

import http.client
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from programs import BenchError

SCRIPT = Path(__file__).with_name("report.lua")
ENDPOINT = "web"
# Both systems know an endpoint by this field, so that both parse the same bytes.
HEADER = "x-piko-endpoint"
ANSWER_SECONDS = 10.0


@dataclass(frozen=True)
class Shape:
    """What is asked for, and by how many connections."""

    path: str
    """The path of the request."""
    body: int
    """Bytes in the body of the answer."""
    connections: int
    """Connections, each with one request at a time."""

    @property
    def words(self) -> str:
        """The shape in words."""
        size = f"{self.body >> 20} MiB" if self.body >= 1 << 20 else f"{self.body} bytes"
        return f"{self.connections} connections, body of {size}"


SMALL = Shape("/", 100, 64)
BULK = Shape(f"/bytes/{1 << 20}", 1 << 20, 4)


@dataclass(frozen=True)
class Load:
    """What one run of wrk counted."""

    requests: int
    """Answers received."""
    seconds: float
    """How long it took."""
    errors: str
    """What went wrong, in words; empty where nothing did."""


def drive(address: str, shape: Shape, seconds: float, cpus: str) -> Load:
    """Loads an address for some seconds."""
    command = ["taskset", "--cpu-list", cpus, "wrk", "--threads", "1", "--connections", str(shape.connections)]
    command += ["--duration", f"{max(1, round(seconds))}s", "--timeout", "5s", "--script", str(SCRIPT)]
    command += ["--header", f"{HEADER}: {ENDPOINT}", f"http://{address}{shape.path}"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in ran.stdout.splitlines() if line.startswith('{"requests"')]
    if ran.returncode != 0 or not lines:
        raise BenchError(f"wrk failed: {ran.stderr.strip() or ran.stdout.strip()}")
    counted: dict[str, int] = json.loads(lines[0])
    problems = [
        f"{counted[kind]} {kind}" for kind in ("connect", "read", "write", "status", "timeout") if counted[kind]
    ]
    if counted["requests"] == 0:
        problems.append("no answer")
    elif counted["bytes"] < counted["requests"] * shape.body:
        problems.append(f"{counted['bytes']} bytes for {counted['requests']} requests")
    return Load(counted["requests"], counted["microseconds"] / 1e6, ", ".join(problems))


def check(address: str, shape: Shape) -> None:
    """One request, whose answer must be right before anything is counted."""
    connection = http.client.HTTPConnection(address, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", shape.path, headers={HEADER: ENDPOINT})
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"{address} does not answer: {error}") from error
    finally:
        connection.close()
    if response.status != 200 or len(body) != shape.body:
        raise BenchError(f"{address} answers {response.status} with {len(body)} bytes: {body[:200]!r}")
