"""
A change of a configuration with 10,000 routes: how soon it is in force, and what requests meanwhile see of it.

The time in the engine is measured on an engine in this process; everything else on a gateway whose file is saved.
"""

import contextlib
import http.client
import json
import threading
import time
from math import ceil
from pathlib import Path

import latency
from gates import gate
from load import HOST
from paths import ANYWHERE, responder
from programs import BenchError, Ground, Tools

from tidegate import engine
from tidegate.config.model import Gateway
from tidegate.config.snapshot import gateway_snapshot
from tidegate.config.sources import Source

ROUTES = 10_000
# No start-up of a gateway takes so long, and no change.
LONGEST_SECONDS = 60.0


def configuration(upstream: str, answer: str) -> dict[str, object]:
    """All routes lead to the upstream; `/answer` has an answer by which one configuration is told from another."""
    routes = [{"host": f"host-{n}.example.com", "path": "/api", "to": {"upstream": "app"}} for n in range(ROUTES - 2)]
    return {
        "listeners": {"web": {"bind": ANYWHERE}},
        "upstreams": {"app": {"addresses": [upstream]}},
        "routes": [
            *routes,
            {"path": "/answer", "respond": {"status": 200, "body": answer}},
            {"to": {"upstream": "app"}},
        ],
        "admin": {"bind": ANYWHERE},
        "workers": 1,
        "access_log": {"to": "off"},
        "log": {"format": "json"},
    }


def apply_ms(folder: Path) -> float:
    """From the call of `apply` until it is in force, on a running engine."""

    def snapshot(answer: str) -> bytes:
        file = folder / "apply.yaml"
        file.write_text(json.dumps(configuration("127.0.0.1:9", answer)))
        return gateway_snapshot(Source(Gateway, file=file, env={}).read())

    first, second = snapshot("first"), snapshot("second")
    role = engine.start(first)
    try:
        began = time.perf_counter()
        role.apply(second)
        return (time.perf_counter() - began) * 1e3
    finally:
        role.stop()


def saved_seconds(tools: Tools, cpus: str) -> float:
    """From the moment that a file is saved until a request gets the new answer."""
    with Ground(tools, cpus) as ground:
        upstream, _ = responder(ground)
        _, address = gate(ground, configuration(upstream, "first"))
        _wait_for(address, "first")
        _save(ground, configuration(upstream, "second"))
        began = time.perf_counter()
        _wait_for(address, "second")
        return time.perf_counter() - began


def p99_ratio(tools: Tools, cpus: str, rate: int, seconds: float) -> float:
    """The 99th percentile while the file is saved every second, in terms of that of a gateway left alone."""
    with Ground(tools, cpus) as ground:
        upstream, _ = responder(ground)
        _, address = gate(ground, configuration(upstream, "0"))
        latency.measure(address, rate, 1)
        alone = latency.measure(address, rate, seconds)
        # Written before, because who writes JSON cannot send requests in time.
        texts = [ground.write(f"{n}.yaml", json.dumps(configuration(upstream, str(n)))) for n in range(ceil(seconds))]
        stop = threading.Event()

        def save() -> None:
            for text in texts:
                if stop.wait(1.0):
                    return
                Path(text).replace(ground.folder / "tidegate.yaml")

        saver = threading.Thread(target=save)
        saver.start()
        try:
            changing = latency.measure(address, rate, seconds)
        finally:
            stop.set()
            saver.join()
    return latency.p99_ratio(changing, alone)


def _save(ground: Ground, whole: dict[str, object]) -> None:
    Path(ground.write("next.yaml", json.dumps(whole))).replace(ground.folder / "tidegate.yaml")


def _wait_for(address: str, answer: str) -> None:
    deadline = time.monotonic() + LONGEST_SECONDS
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection(address, timeout=LONGEST_SECONDS)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/answer", headers={"Host": HOST})
            if connection.getresponse().read().decode() == answer:
                return
        connection.close()
        time.sleep(0.01)
    raise BenchError(f"{address} does not answer {answer!r} within {LONGEST_SECONDS:g} s")
