"""
The way back: an agent that may use both is cut off from UDP, goes over WebSocket, and gets UDP back under load.

The link is that of `losses`, without delay and loss.
"""

import contextlib
import http.client
import signal
import threading
import time
from collections.abc import Callable, Iterator

import load
import losses
import quic
from programs import BenchError, Ground, Tools

VISITORS = 4
STEP_SECONDS = 60.0
"""No change takes so long."""
PAUSE_SECONDS = 0.02
"""Between two requests of a visitor."""


def seconds_and_lost(tools: Tools, cpus: str) -> tuple[float, int]:
    """From the moment that UDP passes again to the last tunnel being QUIC, and the requests that failed meanwhile."""
    with losses.link() as link, Ground(tools, cpus) as ground:
        relay = link.open(ground, losses.kernels_own(), 0, 0)
        gate = losses.start(ground, link, "auto", "system")

        def over(transport: str) -> bool:
            return _tunnels(gate, transport) > 0 and _tunnels(gate) == _tunnels(gate, transport)

        _until("over QUIC", lambda: over("quic"))
        relay.signal(signal.SIGUSR1)
        with _visiting(gate.http):
            _until("over WebSocket", lambda: over("websocket"))
        with _visiting(gate.http) as failed:
            relay.signal(signal.SIGUSR2)
            began = time.monotonic()
            _until("back on QUIC", lambda: over("quic"))
            took = time.monotonic() - began
        return took, len(failed)


def _tunnels(gate: quic.Gate, transport: str = "") -> float:
    labels = f'{{tenant="",endpoint="{load.ENDPOINT}",transport="{transport}"}}' if transport else ""
    return quic.metric(gate, f"tidegate_sessions{labels}")


def _until(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + STEP_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"not {what} within {STEP_SECONDS:g} s")
        time.sleep(0.05)


@contextlib.contextmanager
def _visiting(address: str) -> Iterator[list[str]]:
    """Requests all the while; the list is of those that failed."""
    failed: list[str] = []
    stop = threading.Event()

    def visit() -> None:
        while not stop.wait(PAUSE_SECONDS):
            connection = http.client.HTTPConnection(address, timeout=STEP_SECONDS)
            try:
                connection.request("GET", "/", headers={load.HEADER: load.ENDPOINT, "Host": load.HOST})
                status = connection.getresponse().status
                if status != 200:
                    failed.append(str(status))
            except (OSError, http.client.HTTPException) as error:
                failed.append(str(error))
            finally:
                connection.close()

    visitors = [threading.Thread(target=visit) for _ in range(VISITORS)]
    for visitor in visitors:
        visitor.start()
    try:
        yield failed
    finally:
        stop.set()
        for visitor in visitors:
            visitor.join()
