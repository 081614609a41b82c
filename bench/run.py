"""
Measures tidegate against its peers and its bars, in one run, and prints the tables of docs/benchmarks.md.

Every round measures each case once, in the same order (A B C, A B C, ...), with programs that are started for it. This
is the command line and the rounds; the cases are in `cases`, what they start in `paths` and `gates`, what it may cost
in `bars`.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from textwrap import fill

import changes
import cpu
import latency
import load
import losses
import memory
import quic
import returning
import table
import tokens
from cases import (
    APPLY,
    BACK,
    CHANGING,
    FLOOD,
    GROUPS,
    HELP,
    IDLE_AGENT,
    IDLE_QUIC,
    IDLE_TUNNEL,
    LOSSY,
    LOST,
    NEW_TOKEN,
    PACED,
    RECEIVED_AT_ONCE,
    SAVED,
    SENT_AT_ONCE,
    Case,
    Measured,
    Series,
)
from programs import ROOT, BenchError, Ground, Tools, default_tools, end_on_sigterm

PAGE = ROOT / "docs" / "benchmarks.md"
CHOICES = (*GROUPS, "latency", "changes", "tokens", "idle")
WARM_UP_SECONDS = 1
HELP_RUNS = 10


class Bench:
    """One run: its settings, and what it has measured so far."""

    def __init__(self, options: argparse.Namespace, tools: Tools, cpus: list[int]) -> None:
        self.options = options
        self.tools = tools
        self.cpus = cpus
        chosen = options.only
        loads = [case for name, tables in GROUPS.items() if name in chosen for cases in tables for case in cases]
        self.cases = {case: Measured() for case in loads}
        self.paced = {case: Measured() for case in PACED} if "latency" in chosen else {}
        self.carried = {carrier: Measured() for carrier in losses.CARRIERS} if "quic" in chosen else {}
        self.back = Measured()
        self.idle: dict[str, Series] = {}

    def run(self) -> None:
        """All rounds."""
        for number in range(1, self.options.rounds + 1):
            for case, measured in self.cases.items():
                self._attempt(measured, f"round {number}: {case.name}", partial(self._load, case, measured))
            for case, measured in self.paced.items():
                name = f"round {number}: {case.name}, open loop"
                self._attempt(measured, name, partial(self._pace, case, measured))
            if "quic" in self.options.only:
                self._carry_all(number)
                self._count(number)
            if "changes" in self.options.only:
                self._change(number)
            if "tokens" in self.options.only:
                self._show_tokens(number)
            if "idle" in self.options.only:
                self._rest(number)

    def heading(self) -> str:
        """When, where and how it was measured."""
        options = self.options
        return fill(
            f"{time.strftime('%Y-%m-%d')}, {cpu.model()}, {len(os.sched_getaffinity(0) | set(self.cpus))} CPUs, Linux "
            f"{platform.release()}. Medians of {options.rounds} rounds of {options.seconds} s, lowest to highest as "
            f"spread; open loop at {options.rate:,} requests/s; {options.tunnels:,} idle tunnels.",
            120,
            break_on_hyphens=False,
        )

    def report(self) -> str:
        """The heading and the tables."""
        tables = table.everything(self.cases, self.paced, self.carried, self.idle, self.options.only)
        return f"{self.heading()}\n\n{tables}"

    @property
    def broken(self) -> bool:
        """Whether some case had errors."""
        groups = (self.cases.values(), self.paced.values(), self.carried.values(), (self.back,))
        return any(measured.errors for group in groups for measured in group)

    def _attempt(self, measured: Measured, name: str, step: Callable[[], str]) -> None:
        """Runs a step; what goes wrong there is an error of its case, and the run goes on."""
        try:
            said = step()
        except (BenchError, OSError) as error:
            measured.errors.append(" / ".join(str(error).splitlines()))
            said = f"ERROR {error}"
        print(f"{name}: {said}", file=sys.stderr, flush=True)

    def _pins(self, count: int) -> str:
        if count > len(self.cpus):
            raise BenchError(f"needs {count} CPUs, and there are {len(self.cpus)}")
        return ",".join(str(number) for number in self.cpus[:count])

    def _load(self, case: Case, measured: Measured) -> str:
        pins = self._pins(case.cpus)
        with Ground(self.tools, pins) as ground:
            way = case.build(ground)
            load.check(way.address, case.shape)
            load.drive(way.address, case.shape, WARM_UP_SECONDS, pins)
            before = cpu.nanoseconds(program.pid for program in way.proxies)
            counted = load.drive(way.address, case.shape, self.options.seconds, pins)
            spent = cpu.nanoseconds(program.pid for program in way.proxies) - before
        if counted.errors:
            raise BenchError(counted.errors)
        measured.cost.values.append(spent / 1000 / counted.requests)
        measured.rate.values.append(counted.requests / counted.seconds)
        return f"{measured.cost.values[-1]:.1f} µs, {measured.rate.values[-1]:.0f}/s"

    def _pace(self, case: Case, measured: Measured) -> str:
        self._pins(2)  # one for the programs, one for the load, which is this process
        with Ground(self.tools, self._pins(1)) as ground:
            way = case.build(ground)
            load.check(way.address, case.shape)
            latency.measure(way.address, self.options.rate, WARM_UP_SECONDS)
            seen = latency.measure(way.address, self.options.rate, self.options.seconds)
        if seen.errors:
            raise BenchError(seen.errors)
        for name in ("p50", "p99", "p999", "late"):
            measured.latency.setdefault(name, Series()).values.append(getattr(seen, name))
        return f"p50 {seen.p50:.0f} µs, p99 {seen.p99:.0f} µs, p99.9 {seen.p999:.0f} µs"

    def _carry(self, carrier: losses.Carrier, measured: Measured) -> str:
        seen = losses.measure(self.tools, self._pins(1), carrier, self.options.seconds)
        measured.rate.values.append(seen.requests)
        measured.bulk.values.append(seen.mib)
        return f"{seen.requests:.0f}/s, {seen.mib:.2f} MiB/s"

    def _carry_all(self, number: int) -> None:
        """Every carrier, and QUIC over WebSocket; in every other round, because a bad link takes its time."""
        if number % 2 == 0:
            return
        for carrier, measured in self.carried.items():
            name = f"round {number}: {carrier.name}"
            self._attempt(measured, name, partial(self._carry, carrier, measured))
        rates = {(each.transport, each.congestion): seen.rate for each, seen in self.carried.items()}
        for control, name in LOSSY.items():
            ours, theirs = rates["quic", control], rates["websocket", control]
            if ours.values and len(ours.values) == len(theirs.values):
                self.idle[name] = ours.over(theirs)

    def _count(self, number: int) -> None:
        pins = self._pins(1)
        told = quic.at_once(self.tools, pins)
        for name, value in zip((SENT_AT_ONCE, RECEIVED_AT_ONCE), told, strict=True):
            self.idle.setdefault(name, Series()).values.append(value)
        print(f"round {number}: datagrams a call: {told[0]:.1f} out, {told[1]:.1f} in", file=sys.stderr, flush=True)
        if number > 1:
            return
        self.idle[IDLE_QUIC] = Series([memory.idle_quic_kib(self.tools, pins, self.options.tunnels)])
        self._attempt(self.back, "an idle tunnel of QUIC, and the way back to it", self._come_back)

    def _come_back(self) -> str:
        took, lost = returning.seconds_and_lost(self.tools, self._pins(1))
        self.idle[BACK], self.idle[LOST] = Series([took]), Series([float(lost)])
        return f"{self.idle[IDLE_QUIC].median:.1f} KiB, {took:.1f} s, {lost} requests lost"

    def _change(self, number: int) -> None:
        pins = self._pins(1)
        with Ground(self.tools, pins) as ground:
            applied = changes.apply_ms(ground.folder)
        saved = changes.saved_seconds(self.tools, pins)
        changing = changes.p99_ratio(self.tools, pins, self.options.rate, self.options.seconds)
        for name, value in ((APPLY, applied), (SAVED, saved), (CHANGING, changing)):
            self.idle.setdefault(name, Series()).values.append(value)
        said = f"applied in {applied:.0f} ms, in force {saved:.2f} s after saving, p99 {changing:.2f} times"
        print(f"round {number}: changes: {said}", file=sys.stderr, flush=True)

    def _show_tokens(self, number: int) -> None:
        pins = self._pins(1)
        new = tokens.new_p99_ms(self.tools, pins, self.options.seconds)
        flooded = tokens.flood_ratio(self.tools, pins, self.options.rate, self.options.seconds)
        for name, value in ((NEW_TOKEN, new), (FLOOD, flooded)):
            self.idle.setdefault(name, Series()).values.append(value)
        print(f"round {number}: new tokens: p99 {new:.1f} ms; flood: {flooded:.2f} times", file=sys.stderr, flush=True)

    def _rest(self, number: int) -> None:
        pins = self._pins(1)
        tunnels = self.idle.setdefault(IDLE_TUNNEL, Series()).values
        tunnels.append(memory.idle_tunnel_kib(self.tools, pins, self.options.tunnels))
        agents = self.idle.setdefault(IDLE_AGENT, Series()).values
        agents.append(memory.idle_agent_mib(self.tools, pins))
        if number == 1:
            self.idle[HELP] = Series([memory.help_ms(self.tools, pins) for _ in range(HELP_RUNS)])
        said = f"{tunnels[-1]:.1f} KiB a tunnel, {agents[-1]:.1f} MiB an agent"
        print(f"round {number}: idle: {said}", file=sys.stderr, flush=True)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="bench/run.py", description="Measures tidegate against peers and bars.")
    tools = default_tools()
    parser.add_argument("--rounds", type=int, default=5, help="how often each case is measured (5)")
    parser.add_argument("--seconds", type=int, default=5, help="length of each measurement (5)")
    parser.add_argument("--rate", type=int, default=1000, help="requests/s of the open loop (1000)")
    parser.add_argument("--tunnels", type=int, default=2000, help="idle tunnels (2000)")
    parser.add_argument("--only", action="append", choices=CHOICES, help="measure only this; may be repeated")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    parser.add_argument("--tidegate", default=tools.tidegate, help="the tidegate to measure")
    parser.add_argument("--peers", type=Path, default=tools.peers, help="folder of what `make bench-peers` builds")
    options = parser.parse_args(arguments)
    if options.write and options.only:
        parser.error("--write needs all groups: leave --only out")
    if options.rounds < 1 or options.seconds < 1:
        parser.error("--rounds and --seconds are 1 or more")
    options.only = options.only or list(CHOICES)
    return options


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0 where every case has a result, 1 where one has errors, 2 where something is missing."""
    options = parse(arguments)
    tools = Tools(options.tidegate, options.peers.resolve())
    if missing := tools.missing("taskset", "wrk", "h2load", "openssl", "nginx", "haproxy"):
        print(f"missing: {', '.join(missing)} (`make bench-peers` installs and builds them)", file=sys.stderr)
        return 2
    # The last CPU is measured, because the first takes most interrupts; we ourselves stay off it where we can.
    cpus = sorted(os.sched_getaffinity(0), reverse=True)
    os.sched_setaffinity(0, cpus[1:] or cpus)
    end_on_sigterm()
    bench = Bench(options, tools, cpus)
    try:
        bench.run()
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(bench.report())
    if bench.broken:
        return 1
    if options.write:
        table.write(bench.report(), PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
