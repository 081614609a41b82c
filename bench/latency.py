"""
The open-loop load: requests at a fixed rate whatever the answers do, each timed from when it should have been sent.

One thread that never sleeps, on a CPU of its own: a timer that comes a millisecond late would be all that is seen. Its
own cost is in every figure; the row without a proxy shows how much that is.
"""

import gc
import math
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from load import ENDPOINT, HEADER
from programs import BenchError

CONNECTIONS = 64
ANSWER_SECONDS = 5.0
STATUS = b"HTTP/1.1 200 "
LENGTH = b"content-length:"


@dataclass(frozen=True)
class Latency:
    """What one run saw, in microseconds."""

    p50: float
    """Half of the requests were faster."""
    p99: float
    """One in a hundred was slower."""
    p999: float
    """One in a thousand was slower."""
    late: float
    """By how much we ourselves were late with one send in a hundred."""
    errors: str
    """What went wrong, in words; empty where nothing did."""


class Connection:
    """One kept connection, with at most one request under way."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.request = f"GET / HTTP/1.1\r\nHost: {address}\r\n{HEADER}: {ENDPOINT}\r\n".encode()
        self.due = 0.0
        self._answer = b""

    def send(self, due: float, more: bytes) -> None:
        """Sends the request that was due at this time, with more fields."""
        self.due = due
        self.socket.send(self.request + more + b"\r\n")

    def answered(self) -> bool:
        """Reads; True once the whole answer is there."""
        block = self.socket.recv(1 << 16)
        if not block:
            raise ConnectionResetError
        self._answer += block
        if not complete(self._answer):
            return False
        if not self._answer.startswith(STATUS):
            raise ValueError(self._answer[:40])
        self._answer = b""
        return True


def complete(answer: bytes) -> bool:
    """Whether an answer with a Content-Length has come as a whole."""
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    lengths = [int(line[len(LENGTH) :]) for line in head.lower().split(b"\r\n") if line.startswith(LENGTH)]
    return len(body) >= (lengths[0] if lengths else 0)


def measure(address: str, rate: int, seconds: float, fields: Sequence[bytes] = (b"",)) -> Latency:
    """Asks at this rate for so long, each request with the next of `fields`: whole lines of a head."""
    connections = [Connection(address) for _ in range(CONNECTIONS)]
    gc.collect()
    gc.disable()
    try:
        return _loop(connections, rate, round(rate * seconds), fields)
    finally:
        gc.enable()
        for connection in connections:
            connection.socket.close()


def p99_ratio(then: Latency, alone: Latency) -> float:
    """The 99th percentile of one measurement in terms of another; raises `BenchError` where either had errors."""
    if alone.errors or then.errors:
        raise BenchError(alone.errors or then.errors)
    return then.p99 / alone.p99


def _loop(connections: Sequence[Connection], rate: int, count: int, fields: Sequence[bytes]) -> Latency:
    poll = select.epoll()
    by_file = {connection.socket.fileno(): connection for connection in connections}
    for file in by_file:
        poll.register(file, select.EPOLLIN)
    free = deque(connections)
    took: list[float] = []
    late: list[float] = []
    failed = sent = 0
    start = time.perf_counter() + 0.05
    stop = start + count / rate + ANSWER_SECONDS
    while len(took) + failed < count and (now := time.perf_counter()) < stop:
        # Where no connection is free the request waits, and its time runs.
        while sent < count and free and (due := start + sent / rate) <= now:
            free.popleft().send(due, fields[sent % len(fields)])
            late.append(time.perf_counter() - due)
            sent += 1
        for file, _ in poll.poll(0):
            connection = by_file[file]
            try:
                if connection.answered():
                    took.append(time.perf_counter() - connection.due)
                    free.append(connection)
            except (OSError, ValueError):
                failed += 1
                poll.unregister(file)
    poll.close()
    lost = count - len(took)
    return Latency(
        p50=percentile(took, 0.5),
        p99=percentile(took, 0.99),
        p999=percentile(took, 0.999),
        late=percentile(late, 0.99),
        errors=f"{lost} of {count} without a good answer" if lost else "",
    )


def percentile(seconds: Sequence[float], share: float) -> float:
    """The value below which this share lies, in microseconds; nearest rank."""
    if not seconds:
        return math.nan
    return sorted(seconds)[max(0, math.ceil(share * len(seconds)) - 1)] * 1e6
