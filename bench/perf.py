"""
Shows where the CPU time of a way goes: `perf record` on its proxies under the load of the table, and perf's report.

Takes the ways from `paths` and the load from `load`, so that what is seen is what is measured.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import gates
import load
import paths
import quic
from programs import BenchError, Ground, Tools, default_tools, end_on_sigterm

WAYS = {
    "http": (paths.tunnel, load.SMALL),
    "tcp": (paths.tcp, load.SMALL),
    "bulk": (paths.tunnel, load.BULK),
    "address": (gates.to_address, load.SMALL),
    "passed": (gates.passed_through, load.TLS_SMALL),
    "passed-bulk": (gates.passed_through, load.TLS_BULK),
    "ended": (gates.ended, load.TLS_SMALL),
    "handshakes": (gates.ended, load.HANDSHAKES),
    "streams": (gates.ended, load.STREAMS),
    "quic": (quic.tunnel, load.SMALL),
    "quic-copied": (quic.copied, load.SMALL),
    "quic-bulk": (quic.copied, load.BULK),
}
WARM_UP_SECONDS = 1
# Prime, so that it does not beat with timers of the programs.
HERTZ = 1999
SMALLEST_PERCENT = 0.5


def record(options: argparse.Namespace, tools: Tools, cpu: str) -> None:
    """Records one way into a file."""
    build, shape = WAYS[options.way]
    with Ground(tools, cpu) as ground:
        way = build(ground)
        load.check(way.address, shape)
        load.drive(way.address, shape, WARM_UP_SECONDS, cpu)
        pids = ",".join(str(program.pid) for program in way.proxies)
        # DWARF, because our frames and those of the C library keep no frame pointer.
        graph = ["--call-graph", "dwarf,16384"] if options.graph else []
        command = ["perf", "record", "--quiet", "-F", str(HERTZ), *graph, "-p", pids, "-o", str(options.out)]
        with subprocess.Popen([*command, "--", "sleep", str(options.seconds)]) as perf:
            counted = load.drive(way.address, shape, options.seconds, cpu)
        if perf.returncode != 0:
            raise BenchError("perf record failed (try as root, or `sysctl kernel.perf_event_paranoid=1`)")
    rate = counted.requests / counted.seconds
    print(f"{options.way}: {rate:.0f} requests/s while it was recorded; {counted.errors or 'no errors'}", flush=True)


def report(file: Path, by: Sequence[str]) -> None:
    """perf's table of one recording."""
    command = ["perf", "report", "--stdio", "--no-children", "-g", "none", "-i", str(file), "--sort", ",".join(by)]
    subprocess.run([*command, "--percent-limit", str(SMALLEST_PERCENT)], stderr=subprocess.DEVNULL, check=True)


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0, 1 where it failed, 2 where something is missing."""
    tools = default_tools()
    parser = argparse.ArgumentParser(prog="bench/perf.py", description="Shows where the CPU time of a way goes.")
    parser.add_argument("way", choices=WAYS, help="what is loaded")
    parser.add_argument("--seconds", type=int, default=10, help="how long (10)")
    parser.add_argument("--graph", action="store_true", help="record callers too (slows the programs down)")
    parser.add_argument("--out", type=Path, default=Path("perf.data"), help="where the recording goes (perf.data)")
    parser.add_argument("--tidegate", default=tools.tidegate, help="the tidegate to look at")
    parser.add_argument("--peers", type=Path, default=tools.peers, help="folder of what `make bench-peers` builds")
    options = parser.parse_args(arguments)
    tools = Tools(options.tidegate, options.peers.resolve())
    if missing := tools.missing("taskset", "wrk", "perf"):
        print(f"missing: {', '.join(missing)} (`make bench-peers`; perf is in linux-perf)", file=sys.stderr)
        return 2
    end_on_sigterm()
    try:
        record(options, tools, str(max(os.sched_getaffinity(0))))
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    report(options.out, ["comm", "dso"])
    report(options.out, ["comm", "symbol"])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
