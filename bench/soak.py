"""
Hours of checked traffic through gateway, agents and forward, while one after the other is killed, stopped or frozen.

Fails where an answer was wrong, where a request failed although nothing was broken or what was done to the programs
has to go unnoticed, where something did not come back in time, and where memory or open files have grown too far.
"""

import argparse
import http.client
import json
import os
import random
import signal
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cpu
from load import ENDPOINT
from programs import BenchError, Ground, Program, Tools, default_tools, end_on_sigterm, free_address
from reloads import TIMES, reload_often
from traffic import Phase, Traffic

BACK_SECONDS = 45.0  # the longest back-off of an agent is 15 s, thrice
FROZEN_SECONDS = 2.0
CALM_SECONDS = 3.0
TCP_CLIENTS = 2
MOST_MIB = 256
MOST_FILES = 1000
QUIET = ("--access-log", "off", "--log-format", "json")


class Parts:
    """The programs, each on the address it always comes back to."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._starts: Counter[str] = Counter()
        self.web, self.echo, self.proxy, self.agents, self.forward, self.admin = (free_address() for _ in range(6))
        self.ready = {"agent-a": free_address(), "agent-b": free_address()}
        self.running: dict[str, Program] = {}
        endpoints = [{"name": ENDPOINT, "to": f"http://{self.web}"}, {"name": "echo", "to": f"tcp://{self.echo}"}]
        content = {"connect": {"urls": [f"http://{self.agents}"]}, "endpoints": endpoints}
        self._agent_file = ground.write("agent.yaml", json.dumps(content))
        self.config: dict[str, Any] = {
            "listeners": {"proxy": {"bind": self.proxy}, "agents": {"bind": self.agents, "kind": "tunnel"}},
            "admin": {"bind": self.admin},
        }
        self.file = Path(ground.write("tidegate.yaml", json.dumps(self.config)))
        for part in ("web", "echo", "gateway", *self.ready, "forward"):
            self.start(part)

    def start(self, part: str) -> None:
        """Starts a part, for the first time or again."""
        self._starts[part] += 1
        name = f"{part}-{self._starts[part]}"
        self.running[part] = self._ground.start(name, *self._command(part))
        self.running[part].event("started" if part in self.ready else "listening")

    def all_ready(self) -> bool:
        """Whether every agent has a tunnel for each of its endpoints."""
        return all(_ready(address) for address in self.ready.values())

    def _command(self, part: str) -> list[str]:
        tidegate, responder = self._ground.tools.tidegate, self._ground.tools.peer("responder")
        if part == "web":
            return [responder, self.web.rpartition(":")[2]]
        if part == "echo":
            return [responder, self.echo.rpartition(":")[2], "echo"]
        if part == "gateway":
            return [tidegate, "gateway", "--config", str(self.file), "--grace-period", "5s", *QUIET]
        if part == "forward":
            return [tidegate, "forward", self.forward, "echo", "--connect", f"http://{self.proxy}", *QUIET]
        config = ["--config", self._agent_file, "--admin", self.ready[part], "--grace-period", "5s"]
        return [tidegate, "agent", "start", *config, *QUIET]


def _ready(address: str) -> bool:
    connection = http.client.HTTPConnection(address, timeout=5)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def kill(parts: Parts, part: str) -> None:
    """kill -9, and started again."""
    parts.running[part].kill()
    parts.start(part)


def stop(parts: Parts, part: str) -> None:
    """SIGTERM, which drains, and started again."""
    parts.running[part].ask_to_end()
    parts.start(part)


def freeze(parts: Parts, part: str) -> None:
    """Stands still, shorter than what a ping waits."""
    os.kill(parts.running[part].pid, signal.SIGSTOP)
    time.sleep(FROZEN_SECONDS)
    os.kill(parts.running[part].pid, signal.SIGCONT)


def reload(parts: Parts, _: str, times: int = TIMES) -> None:
    """New configurations, half of them broken."""
    reload_often(parts.file, parts.config, parts.admin, times)


@dataclass(frozen=True)
class Break:
    """One way in which something goes wrong."""

    name: str
    """What it is called."""
    do: Callable[[Parts, str], None]
    """What is done."""
    parts: tuple[str, ...]
    """To one of these."""
    unnoticed: bool = False
    """Whether no request may fail because of it."""


BREAKS = (
    Break("agent killed", kill, ("agent-a", "agent-b")),
    Break("agent stopped", stop, ("agent-a", "agent-b"), unnoticed=True),
    Break("agent frozen", freeze, ("agent-a", "agent-b"), unnoticed=True),
    Break("gateway killed", kill, ("gateway",)),
    Break("gateway stopped", stop, ("gateway",)),
    Break("gateway frozen", freeze, ("gateway",), unnoticed=True),
    Break("gateway reloaded", reload, ("gateway",), unnoticed=True),
    Break("forward killed", kill, ("forward",)),
    Break("service killed", kill, ("web", "echo")),
)


class Soak:
    """One run, and what came of it."""

    def __init__(self, parts: Parts, traffic: Traffic, seed: int) -> None:
        self.parts = parts
        self.traffic = traffic
        self.back: defaultdict[str, list[float]] = defaultdict(list)
        self.most: Counter[str] = Counter()
        self.problems: list[str] = []
        self._dice = random.Random(seed)

    def turn(self, chosen: Break | None = None) -> str:
        """Breaks something, waits until all is well again, and then for a calm time; what happened, in words."""
        chosen = chosen or self._dice.choice(BREAKS)
        part = self._dice.choice(chosen.parts)
        before = self.traffic.counts.copy()
        self.traffic.phase.name = chosen.name
        chosen.do(self.parts, part)
        self.back[chosen.name].append(self.wait_until_well())
        self.traffic.phase.name = Phase.CALM
        time.sleep(CALM_SECONDS)
        self._look_at_sizes()
        counts = self.traffic.counts - before
        failed, calm = counts[chosen.name, "failed"], counts[Phase.CALM, "failed"]
        if calm:
            self.problems.append(f"{calm} requests failed in the calm after: {chosen.name}")
        if failed and chosen.unnoticed:
            self.problems.append(f"{failed} requests failed that should not notice: {chosen.name}")
        good = sum(count for (_, result), count in counts.items() if result == "good")
        return f"{chosen.name} ({part}): back after {self.back[chosen.name][-1]:.2f} s, {good} good, {failed} failed"

    def wait_until_well(self) -> float:
        """How long it takes until every way works."""
        start = time.monotonic()
        while time.monotonic() - start < BACK_SECONDS:
            if self.parts.all_ready() and self.traffic.works():
                return time.monotonic() - start
            time.sleep(0.05)
        raise BenchError(f"not well again after {BACK_SECONDS:g} s")

    def report(self) -> str:
        """All counts."""
        counts = self.traffic.counts
        lines = [f"{'':<16} {'times':>6} {'good':>10} {'failed':>8} {'wrong':>6} {'back, median':>13} {'longest':>8}"]
        for name in (Phase.CALM, *(each.name for each in BREAKS)):
            good, failed, wrong = (counts[name, result] for result in ("good", "failed", "wrong"))
            back = self.back.get(name, [])
            times = f"{statistics.median(back):>11.2f} s {max(back):>6.2f} s" if back else ""
            lines.append(f"{name:<16} {len(back) or '':>6} {good:>10} {failed:>8} {wrong:>6} {times}".rstrip())
        lines += [f"failed: {phase}: {reason}: {n}" for (phase, reason), n in sorted(self.traffic.reasons.items())]
        lines += [f"most: {what}: {n}" for what, n in sorted(self.most.items())]
        return "\n".join(lines)

    def conclude(self) -> None:
        """Adds what only shows at the end."""
        wrong = sum(count for (_, result), count in self.traffic.counts.items() if result == "wrong")
        if wrong:
            self.problems.append(f"{wrong} answers were wrong")
        for what, most in self.most.items():
            limit = MOST_MIB if what.endswith("MiB") else MOST_FILES
            if most > limit:
                self.problems.append(f"{what}: {most}, more than {limit}")

    def _look_at_sizes(self) -> None:
        for part in ("gateway", *self.parts.ready, "forward"):
            pid = self.parts.running[part].pid
            files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
            for what, size in ((f"{part} MiB", cpu.resident_kib(pid) // 1024), (f"{part} open files", files)):
                self.most[what] = max(self.most[what], size)


def soak(options: argparse.Namespace, tools: Tools) -> int:
    """Runs for the time asked for."""
    cpus = ",".join(str(number) for number in sorted(os.sched_getaffinity(0)))
    with Ground(tools, cpus) as ground:
        parts = Parts(ground)
        traffic = Traffic(parts.proxy, parts.forward, options.clients, TCP_CLIENTS)
        run = Soak(parts, traffic, options.seed)
        run.wait_until_well()
        traffic.start()
        stop_at = time.monotonic() + options.minutes * 60
        try:
            if options.reloads:
                many = partial(reload, times=options.reloads)
                print(f"{time.strftime('%H:%M:%S')} {run.turn(Break('gateway reloaded', many, ('gateway',), True))}")
            while time.monotonic() < stop_at:
                print(f"{time.strftime('%H:%M:%S')} {run.turn()}", flush=True)
        except BenchError as error:
            run.problems.append(str(error))
            for program in parts.running.values():
                print(f"{program.name}:\n{program.tail()}", file=sys.stderr)
        except KeyboardInterrupt:
            print("stopped early")
        finally:
            traffic.stop()
        run.conclude()
    print(run.report())
    print("\n".join(f"PROBLEM: {problem}" for problem in run.problems) or "no problem")
    return 1 if run.problems else 0


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0 where all held, 1 where something did not, 2 where something is missing."""
    parser = argparse.ArgumentParser(prog="bench/soak.py", description="Traffic while everything around it breaks.")
    tools = default_tools()
    parser.add_argument("--minutes", type=float, default=120, help="how long (120)")
    parser.add_argument("--clients", type=int, default=8, help="HTTP clients; two more speak TCP (8)")
    parser.add_argument("--reloads", type=int, default=1000, help="new configurations in a row at the start (1000)")
    parser.add_argument("--seed", type=int, default=1, help="picks what breaks, and when (1)")
    parser.add_argument("--tidegate", default=tools.tidegate, help="the tidegate to run")
    parser.add_argument("--peers", type=Path, default=tools.peers, help="folder of what `make bench-peers` builds")
    options = parser.parse_args(arguments)
    tools = Tools(options.tidegate, options.peers.resolve())
    if missing := tools.missing("taskset"):
        print(f"missing: {', '.join(missing)} (`make bench-peers` builds the peers)", file=sys.stderr)
        return 2
    end_on_sigterm()
    try:
        return soak(options, tools)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
