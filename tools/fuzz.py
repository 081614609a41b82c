"""
Runs every fuzz target for a short while, beginning with the kept corpus.

The folder `crates/engine/fuzz` is laid out as `cargo fuzz` wants it; this needs neither that program nor a nightly
compiler, because the engine holds no unsafe code: coverage is wanted, a sanitizer is not. What a run finds new stays
in `.build/fuzz`; what is worth keeping is copied to `crates/engine/fuzz/corpus/TARGET` by hand.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FUZZ = ROOT / "crates/engine/fuzz"
# What `cargo fuzz --sanitizer none` gives to the compiler: edges and comparisons are reported to libFuzzer.
FLAGS = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions",
    "-Ccodegen-units=1",
]


def host() -> str:
    """The triple of this machine; naming it keeps the flags away from build scripts and macros."""
    lines = subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout.splitlines()
    return next(line.removeprefix("host: ") for line in lines if line.startswith("host: "))


def build() -> dict[str, Path]:
    """Builds all targets; returns the program of each."""
    environment = os.environ | {"CARGO_ENCODED_RUSTFLAGS": "\x1f".join(FLAGS)}
    command = ["cargo", "build", "--locked", "--release", "--bins", "--target", host()]
    options = ["--manifest-path", str(FUZZ / "Cargo.toml"), "--message-format", "json-render-diagnostics"]
    built = subprocess.run([*command, *options], check=False, stdout=subprocess.PIPE, text=True, env=environment)
    if built.returncode != 0:
        sys.exit("the fuzz targets could not be built")
    messages = [json.loads(line) for line in built.stdout.splitlines()]
    return {
        message["target"]["name"]: Path(message["executable"])
        for message in messages
        if message["reason"] == "compiler-artifact" and message["executable"]
    }


def fuzz(target: str, program: Path, seconds: int) -> bool:
    """Runs one target; a failing input is left in `crates/engine/fuzz/artifacts`."""
    found, kept = ROOT / ".build/fuzz" / target, FUZZ / "corpus" / target
    artifacts = FUZZ / "artifacts" / target
    for folder in (found, kept, artifacts):
        folder.mkdir(parents=True, exist_ok=True)
    limits = [f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1"]
    print(f"{target}: {seconds} s from {len(list(kept.iterdir()))} kept inputs", flush=True)
    run = subprocess.run(
        [str(program), *limits, f"-artifact_prefix={artifacts}/", str(found), str(kept)],
        check=False,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    if run.returncode != 0:
        print(run.stderr[-8000:], file=sys.stderr)
        print(f"{target}: failed; the input is in {artifacts.relative_to(ROOT)}", file=sys.stderr)
        return False
    for line in run.stderr.splitlines():
        if line.startswith("stat::number_of_executed_units"):
            print(f"{target}: {line.rsplit(':', 1)[1].strip()} inputs tried", flush=True)
    return True


def main() -> int:
    """Runs the named targets, or all; exit 1 when one of them found something."""
    parser = argparse.ArgumentParser(description="Runs the fuzz targets of the engine for a short while.")
    parser.add_argument("--seconds", type=int, default=15, help="time for each target (default 15)")
    parser.add_argument("targets", nargs="*", help="which ones (default: all)")
    arguments = parser.parse_args()
    programs = build()
    unknown = set(arguments.targets) - set(programs)
    if unknown or not programs:
        parser.error(f"no such target: {' '.join(sorted(unknown)) or 'none at all'}")
    chosen = arguments.targets or sorted(programs)
    # As many at a time as there are cores: each is one busy thread in a process of its own.
    with ThreadPoolExecutor(os.cpu_count()) as several:
        results = list(several.map(lambda target: fuzz(target, programs[target], arguments.seconds), chosen))
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
