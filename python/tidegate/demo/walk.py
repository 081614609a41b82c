"""
The requests of the demonstration: one function a path, each returns what came back or raises `AnswerError`.

Plain clients from the standard library (and `websockets`), because what they see is what anybody's client sees.
Always dials the loopback address: not every resolver knows names below .localhost.
"""

import hashlib
import http.client
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from tidegate.demo.certificates import trusting
from tidegate.demo.programs import Programs, join
from tidegate.demo.service import EVENT_SECONDS, EVENTS, GREETING

__all__ = ["AnswerError", "Result", "Step", "steps", "take"]

WAIT_SECONDS = 15.0
MIB = 1024 * 1024
UPLOAD_MIB = 64
# Small enough for every path.
DATAGRAMS, DATAGRAM_BYTES = 10, 1_000
SEALED_NAME = "sealed.localhost"


class AnswerError(Exception):
    """Something else came back than what should have."""


@dataclass(frozen=True)
class Step:
    """One path through the gateway."""

    name: str
    """What is tried."""
    parts: tuple[str, ...]
    """The programs it leads through."""
    run: Callable[[], str]
    """Sends the request; what came back, in words."""


@dataclass(frozen=True)
class Result:
    """How a step went."""

    step: Step
    ok: bool
    said: str
    seconds: float


def steps(programs: Programs) -> list[Step]:
    """Every path that is built, in the order of the story."""
    proxy, through = programs.proxy, ("sample service", "agent", "gateway")
    quic = ("sample service", "agent over QUIC", "gateway")
    named, behind = f"web.localhost:{proxy[1]}", ("sample service", "gateway")
    return [
        Step("HTTP by header", through, lambda: _hello(proxy, {"x-tidegate-endpoint": "web"})),
        Step(f"HTTP by http://{named}/", through, lambda: _hello(proxy, {"Host": named})),
        Step("WebSocket", through, lambda: _websocket(proxy, named)),
        Step("server-sent events", through, lambda: _events(proxy, named)),
        Step(f"upload of {UPLOAD_MIB} MiB", through, lambda: _upload(proxy, named)),
        Step("TCP through the forward", (*through, "forward"), lambda: _lines(programs.forward)),
        Step("TCP through a gateway listener", through, lambda: _lines(programs.db)),
        Step("one TLS port: ended, to an address", behind, lambda: _secure(programs.secure, "app.localhost")),
        Step("one TLS port: ended, to a tunnel", through, lambda: _secure(programs.secure, "inside.localhost")),
        Step("one TLS port: passed through", behind, lambda: _secure(programs.secure, SEALED_NAME)),
        Step("HTTP through a tunnel over QUIC", quic, lambda: _hello(proxy, {"Host": f"far.localhost:{proxy[1]}"})),
        Step("UDP through a gateway listener", quic, lambda: _words(programs.udp)),
        Step("CONNECT into the agent's network", through, lambda: _connected(programs.out, join(programs.lines))),
    ]


def take(step: Step) -> Result:
    """Runs one step and its clock."""
    begun = time.perf_counter()
    try:
        said, ok = step.run(), True
    except (AnswerError, OSError, http.client.HTTPException, WebSocketException, TimeoutError) as problem:
        said, ok = (getattr(problem, "strerror", None) or str(problem) or type(problem).__name__).lower(), False
    return Result(step, ok, said, time.perf_counter() - begun)


def _hello(proxy: tuple[str, int], headers: dict[str, str]) -> str:
    with closing(http.client.HTTPConnection(*proxy, timeout=WAIT_SECONDS)) as connection:
        connection.request("GET", "/", headers=headers)
        response = connection.getresponse()
        body = response.read().decode(errors="replace").strip()
    _expect(response.status == 200 and body.startswith("hello from the sample service"), f"{response.status} {body!r}")
    return f'{response.status}, "{body.partition(",")[0]}"'


def _websocket(proxy: tuple[str, int], host: str) -> str:
    messages: list[str | bytes] = ["hello", os.urandom(100_000), "goodbye"]
    with (
        socket.create_connection(proxy, WAIT_SECONDS) as sock,
        connect(f"ws://{host}/echo", sock=sock, open_timeout=WAIT_SECONDS, close_timeout=WAIT_SECONDS) as websocket,
    ):
        for message in messages:
            websocket.send(message)
            _expect(websocket.recv(WAIT_SECONDS) == message, "another message than the one that was sent")
    return f"{len(messages)} messages came back, one of 100 kB"


def _events(proxy: tuple[str, int], host: str) -> str:
    with closing(http.client.HTTPConnection(*proxy, timeout=WAIT_SECONDS)) as connection:
        begun = time.perf_counter()
        connection.request("GET", "/events", headers={"Host": host})
        response = connection.getresponse()
        _expect(response.status == 200, f"{response.status} {response.reason}")
        arrived = [time.perf_counter() - begun for line in response if line.startswith(b"data: event ")]
    _expect(len(arrived) == EVENTS, f"{len(arrived)} events of {EVENTS}")
    spread = arrived[-1] - arrived[0]
    _expect(spread > EVENT_SECONDS * (EVENTS - 1) / 2, "all events at once, at the end")
    return f"{EVENTS} events, the first after {_milliseconds(arrived[0])}, then one each {spread / (EVENTS - 1):.1f} s"


def _upload(proxy: tuple[str, int], host: str) -> str:
    digest, block = hashlib.sha256(), os.urandom(MIB - 8)

    def blocks() -> Iterator[bytes]:
        for number in range(UPLOAD_MIB):
            # Numbered, so that blocks out of order change the hash.
            numbered = number.to_bytes(8, "big") + block
            digest.update(numbered)
            yield numbered

    headers = {"Host": host, "Content-Length": str(UPLOAD_MIB * MIB)}
    begun = time.perf_counter()
    with closing(http.client.HTTPConnection(*proxy, timeout=WAIT_SECONDS)) as connection:
        connection.request("PUT", "/upload", body=blocks(), headers=headers)
        response = connection.getresponse()
        body = response.read()
    _expect(response.status == 200, f"{response.status} {body[:200].decode(errors='replace')!r}")
    answer = json.loads(body)
    _expect(answer["bytes"] == UPLOAD_MIB * MIB, f"{answer['bytes']} bytes arrived")
    _expect(answer["sha256"] == digest.hexdigest(), "another hash than that of what was sent")
    return f"the same SHA-256 {answer['sha256'][:8]}…, {UPLOAD_MIB / (time.perf_counter() - begun):.0f} MiB/s"


def _lines(address: tuple[str, int]) -> str:
    with socket.create_connection(address, WAIT_SECONDS) as sock:
        return _talk(sock)


def _words(address: tuple[str, int]) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(WAIT_SECONDS)
        sock.connect(address)
        for number in range(DATAGRAMS):
            said = f"hello {number} ".encode().ljust(DATAGRAM_BYTES, b"x")
            sock.send(said)
            _expect(sock.recv(2 * DATAGRAM_BYTES) == said.upper(), "another datagram than the one that was sent")
    return f"{DATAGRAMS} datagrams of {DATAGRAM_BYTES:,} bytes came back in capitals"


def _connected(proxy: tuple[str, int], target: str) -> str:
    with socket.create_connection(proxy, WAIT_SECONDS) as sock:
        sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n") and (byte := sock.recv(1)):
            head += byte
        line = head.partition(b"\r\n")[0].decode(errors="replace")
        _expect(line == "HTTP/1.1 200 OK", line or "no answer")
        return f"200, {_talk(sock)}"


def _talk(sock: socket.socket) -> str:
    with sock.makefile("rb") as reader:
        greeting = reader.readline()
        _expect(greeting == GREETING, f"{greeting!r} as greeting")
        sock.sendall(b"hello\n")
        answer = reader.readline()
        _expect(answer == b"HELLO\n", f"{answer!r} for hello")
        sock.shutdown(socket.SHUT_WR)
        rest = reader.read()
        _expect(rest == b"bye after 6 bytes\n", f"{rest!r} after our last byte")
    return "greeting, HELLO, bye after our last byte"


def _secure(address: tuple[str, int], name: str) -> str:
    with (
        socket.create_connection(address, WAIT_SECONDS) as sock,
        trusting().wrap_socket(sock, server_hostname=name) as tls,
    ):
        tls.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
        with closing(http.client.HTTPResponse(tls)) as response:
            response.begin()
            body = response.read().decode(errors="replace")
        version = tls.version()
    _expect(response.status == 200 and body.startswith("hello from the sample service"), f"{response.status} {body!r}")
    # Each certificate names what it is for and nothing else, so that the one that was shown is known.
    return f"{response.status}, {version}, certificate of the {'service' if name == SEALED_NAME else 'gateway'}"


def _expect(fits: bool, got: str) -> None:
    if not fits:
        raise AnswerError(f"got {got}")


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
