"""
Traffic that checks every answer, over HTTP and over TCP, and counts by what was going on meanwhile.

Only sends and counts. What is broken while it runs, and what that may cost, is `soak`'s.
"""

import http.client
import random
import socket
import threading
import time
from collections import Counter

from load import ENDPOINT, HEADER

ANSWER_SECONDS = 10.0
# Above the window of a new stream, so that bodies wait for window updates too.
LARGEST_BODY = 400_000
LARGEST_BLOCK = 64_000
BLOCKS_PER_CONNECTION = 50
# After a failure, so that a gateway that is gone is not asked ten thousand times a second.
PAUSE_SECONDS = 0.05


class Phase:
    """What is going on; `calm` where nothing is broken."""

    CALM = "calm"

    def __init__(self) -> None:
        self.name = self.CALM

    def of(self, before: str) -> str:
        """To which phase something belongs that began in `before` and ends now: the one that is not calm."""
        return self.name if before == self.CALM else before


class Traffic:
    """Clients in threads, until it is stopped."""

    def __init__(self, proxy: str, forward: str, http_clients: int, tcp_clients: int) -> None:
        self.phase = Phase()
        self.counts: Counter[tuple[str, str]] = Counter()
        """By (phase, `good`, `failed` or `wrong`)."""
        self.reasons: Counter[tuple[str, str]] = Counter()
        """By (phase, what failed)."""
        self._proxy, self._forward = proxy, forward
        self._stop = threading.Event()
        self._lock = threading.Lock()
        clients = [*[self._http_client] * http_clients, *[self._tcp_client] * tcp_clients]
        self._threads = [threading.Thread(target=client, args=(seed,)) for seed, client in enumerate(clients)]

    def start(self) -> None:
        """Starts all clients."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends them after what they are doing."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def works(self) -> bool:
        """Whether one request and one TCP connection are answered right now."""
        dice = random.Random(0)
        connection = http.client.HTTPConnection(self._proxy, timeout=ANSWER_SECONDS)
        try:
            return _ask(connection, dice) == "" and _echo(self._forward, dice, 1) == (1, "")
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _http_client(self, seed: int) -> None:
        dice = random.Random(seed)
        connection = http.client.HTTPConnection(self._proxy, timeout=ANSWER_SECONDS)
        while not self._stop.is_set():
            before = self.phase.name
            try:
                problem = _ask(connection, dice)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self._failed(before, f"http: {type(error).__name__}")
                continue
            if problem.startswith("status"):
                self._failed(before, f"http: {problem}")
            else:
                self._count(before, "wrong" if problem else "good")
        connection.close()

    def _tcp_client(self, seed: int) -> None:
        dice = random.Random(seed)
        while not self._stop.is_set():
            before = self.phase.name
            try:
                good, problem = _echo(self._forward, dice, BLOCKS_PER_CONNECTION)
            except OSError as error:
                self._failed(before, f"tcp: {type(error).__name__}")
                continue
            self._count(before, "good", good)
            if problem == "wrong":
                self._count(before, "wrong")
            elif problem:
                self._failed(before, f"tcp: {problem}")

    def _count(self, before: str, result: str, times: int = 1) -> None:
        with self._lock:
            self.counts[self.phase.of(before), result] += times

    def _failed(self, before: str, reason: str) -> None:
        self._count(before, "failed")
        with self._lock:
            self.reasons[self.phase.of(before), reason] += 1
        time.sleep(PAUSE_SECONDS)


def _ask(connection: http.client.HTTPConnection, dice: random.Random) -> str:
    """One request, some with a body; what was wrong with the answer, empty where nothing was."""
    size = dice.randrange(LARGEST_BODY)
    body = b"y" * dice.randrange(LARGEST_BODY) if dice.random() < 0.25 else None
    connection.request("POST" if body else "GET", f"/bytes/{size}", body=body, headers={HEADER: ENDPOINT})
    response = connection.getresponse()
    answer = response.read()
    if response.status != 200:
        return f"status {response.status}"
    return "" if answer == b"x" * size else "other bytes"


def _echo(address: str, dice: random.Random, blocks: int) -> tuple[int, str]:
    """Some blocks over one connection: how many came back, and what ended that early."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS) as connection:
        for number in range(blocks):
            block = dice.randbytes(dice.randrange(1, LARGEST_BLOCK))
            connection.sendall(block)
            back = bytearray()
            while len(back) < len(block):
                part = connection.recv(len(block) - len(back))
                if not part:
                    return number, "closed"
                back += part
            if back != block:
                return number, "wrong"
    return blocks, ""
