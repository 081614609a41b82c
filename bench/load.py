"""
The closed-loop load: wrk for HTTP/1 and h2load for HTTP/2, and what they counted.

Where the requests go comes from `paths`, what they cost from `cpu`.
"""

import http.client
import json
import re
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import jwt
from programs import BenchError

SCRIPT = Path(__file__).with_name("report.lua")
ENDPOINT = "web"
# Both systems know an endpoint by this field, so that both parse the same bytes.
HEADER = "x-piko-endpoint"
# What routes by name go by: the host of requests, and the server name of TLS, which the load takes from the URL.
HOST = "web.example.com"
NAME = "localhost"
# What signs the token of the load, and the token: a benchmark has nothing to hide.
SECRET = "a benchmark has nothing to hide!"
TOKEN = jwt.encode({"iss": "bench", "sub": "load", "tidegate": {"endpoints": ["*"]}}, SECRET, "HS256")
ANSWER_SECONDS = 10.0


@dataclass(frozen=True)
class Shape:
    """What is asked for, and by how many connections."""

    path: str
    """The path of the request."""
    body: int
    """Bytes in the body of the answer."""
    connections: int
    """Connections, each with one request at a time, or with `streams` of them."""
    tls: bool = False
    """Whether it speaks TLS."""
    close: bool = False
    """Whether every request has a connection, and so a full handshake, of its own."""
    streams: int = 0
    """Requests at a time on a connection of HTTP/2; 0 is HTTP/1."""
    shows: bool = False
    """Whether every request shows the token that `SECRET` has signed."""

    @property
    def words(self) -> str:
        """The shape in words."""
        size = f"{self.body >> 20} MiB" if self.body >= 1 << 20 else f"{self.body} bytes"
        kind = "HTTP/2 " if self.streams else "TLS " if self.tls else ""
        streams = f" with {self.streams} streams" if self.streams else ""
        each = ", a handshake each" if self.close else ""
        shown = ", a token shown" if self.shows else ""
        return f"{self.connections} {kind}connections{streams}, body of {size}{each}{shown}"

    @property
    def host(self) -> str:
        """The host that is asked for."""
        return NAME if self.tls else HOST


SMALL = Shape("/", 100, 64)
SHOWING = Shape("/", 100, 64, shows=True)
BULK = Shape(f"/bytes/{1 << 20}", 1 << 20, 4)
TLS_SMALL = Shape("/", 100, 64, tls=True)
TLS_BULK = Shape(f"/bytes/{1 << 20}", 1 << 20, 4, tls=True)
HANDSHAKES = Shape("/", 100, 16, tls=True, close=True)
STREAMS = Shape("/", 100, 16, tls=True, streams=16)


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
    if shape.streams:
        return _drive_streams(address, shape, seconds, cpus)
    command = ["taskset", "--cpu-list", cpus, "wrk", "--threads", "1", "--connections", str(shape.connections)]
    command += ["--duration", f"{max(1, round(seconds))}s", "--timeout", "5s", "--script", str(SCRIPT)]
    command += ["--header", f"{HEADER}: {ENDPOINT}", "--header", f"Host: {shape.host}"]
    command += ["--header", "Connection: close"] if shape.close else []
    command += ["--header", f"Authorization: Bearer {TOKEN}"] if shape.shows else []
    command.append(url(address, shape))
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


def url(address: str, shape: Shape) -> str:
    """The URL that the load asks for."""
    _, _, port = address.rpartition(":")
    return f"https://{NAME}:{port}{shape.path}" if shape.tls else f"http://{address}{shape.path}"


def _drive_streams(address: str, shape: Shape, seconds: float, cpus: str) -> Load:
    whole = max(1, round(seconds))
    command = ["taskset", "--cpu-list", cpus, "h2load", "--threads", "1", "--clients", str(shape.connections)]
    command += ["--max-concurrent-streams", str(shape.streams), "--duration", str(whole)]
    ran = subprocess.run([*command, url(address, shape)], capture_output=True, text=True, check=False)
    found = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", ran.stdout)
    good = re.search(r"status codes: (\d+) 2xx", ran.stdout)
    if ran.returncode != 0 or found is None or good is None:
        raise BenchError(f"h2load failed: {ran.stderr.strip() or ran.stdout.strip()}")
    requests, failed, errored, late = map(int, found.groups())
    problems = [f"{n} {what}" for n, what in ((failed, "failed"), (errored, "errors"), (late, "timeouts")) if n]
    # Those that the end of the time has cut count as neither.
    if requests == 0 or int(good[1]) < requests:
        problems.append(f"{good[1]} good answers of {requests}")
    return Load(requests, float(whole), ", ".join(problems))


def check(address: str, shape: Shape) -> None:
    """One request, whose answer must be right before anything is counted."""
    connection = _connection(address, shape)
    try:
        shown = {"Authorization": f"Bearer {TOKEN}"} if shape.shows else {}
        connection.request("GET", shape.path, headers={HEADER: ENDPOINT, "Host": shape.host, **shown})
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"{address} does not answer: {error}") from error
    finally:
        connection.close()
    if response.status != 200 or len(body) != shape.body:
        raise BenchError(f"{address} answers {response.status} with {len(body)} bytes: {body[:200]!r}")


def _connection(address: str, shape: Shape) -> http.client.HTTPConnection:
    if not shape.tls:
        return http.client.HTTPConnection(address, timeout=ANSWER_SECONDS)
    # The certificate was made a moment ago, by us.
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    port = int(address.rpartition(":")[2])
    return http.client.HTTPSConnection(NAME, port, timeout=ANSWER_SECONDS, context=trusting)
