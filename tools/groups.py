"""
Runs the named groups of checks and tests in order, and ends with a table of their times.

The groups are listed below: what is run is read here, what is installed for it in the Makefile. The first group that
fails ends the run, unless `--keep-going` is given. The last line is `N passed, N failed`, for whoever counts groups.
"""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ".venv/bin/python"
PYTEST = f"{PYTHON} -m pytest -q"
# The folders that mypy and ruff judge.
PYTHON_FOLDERS = "python tests tools bench"


def existing(*folders: str) -> str:
    """Those of the folders that this checkout has."""
    return " ".join(folder for folder in folders if (ROOT / folder).exists())


# Group -> shell commands, run in the root of the checkout. A command of several lines ends with the first that fails.
GROUPS: dict[str, list[str]] = {
    "setup": ["make --no-print-directory packages lint-requirements npm go-programs"],
    "quick": [
        "cargo fmt --all --check",
        f".venv/bin/ruff check {PYTHON_FOLDERS}",
        f".venv/bin/ruff format --check {PYTHON_FOLDERS}",
        ".venv/bin/lint-imports",
    ],
    "rust": ["cargo test --locked --quiet -p tidegate-engine"],
    "python": [f"{PYTEST} {existing('tests/unit', 'tests/golden', 'tests/contract')}"],
    "system": [f"{PYTEST} -n 2 tests/system"],
    "interop": [f"{PYTEST} -n 2 tests/interop"],
    "examples": [f"{PYTEST} -n 2 tests/examples"],
    "fuzz": [f"{PYTHON} tools/fuzz.py --seconds 15"],
    "dist": ["make --no-print-directory dist", f"{PYTEST} tests/dist"],
    "clippy": ["cargo clippy --locked --workspace --all-targets --quiet -- -D warnings"],
    "types": [f"{PYTHON} -m mypy --strict {PYTHON_FOLDERS}"],
    "licences": [".build/tools/bin/cargo-deny --locked check --hide-inclusion-graph licenses bans sources"],
    # Without mypy's configuration it would not find the package, and say that all is well.
    "stubs": [f"{PYTHON} -m mypy.stubtest --mypy-config-file pyproject.toml tidegate._engine"],
    "shell": ["for script in tools/*.sh .ci/run; do bash -n $script; done"],
    "go": ['cd tests/interop; test -z "$(gofmt -l . | tee /dev/stderr)"; go vet ./...'],
}


def run(group: str) -> bool:
    """Runs the commands of a group until one fails."""
    for command in GROUPS[group]:
        print(f"\n[{group}] {command}", flush=True)
        if subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=ROOT, check=False).returncode != 0:
            print(f"[{group}] failed: {command}", flush=True)
            return False
    return True


def timed(groups: Sequence[str], keep_going: bool) -> Iterator[tuple[str, str, float]]:
    """Runs the groups; gives (group, result, seconds) of each, also of those that were not run."""
    failed = False
    for group in groups:
        if failed and not keep_going:
            yield group, "not run", 0.0
            continue
        start = time.monotonic()
        passed = run(group)
        failed = failed or not passed
        yield group, "passed" if passed else "FAILED", time.monotonic() - start


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0 where every group passed, 1 where one failed, 2 for a group that does not exist."""
    keep_going = "--keep-going" in arguments
    groups = [argument for argument in arguments if argument != "--keep-going"]
    unknown = [group for group in groups if group not in GROUPS]
    if unknown or not groups:
        print(f"unknown group: {' '.join(unknown) or 'none named'} (there are: {' '.join(GROUPS)})", file=sys.stderr)
        return 2
    rows: list[tuple[str, str, float]] = []
    try:
        rows.extend(timed(groups, keep_going))
    except KeyboardInterrupt:
        return 130
    print()
    for group, result, seconds in rows:
        print(f"  {group:<10} {result:<8} {seconds:7.1f} s")
    print(f"  {'together':<10} {'':<8} {sum(row[2] for row in rows):7.1f} s\n")
    counts = [sum(row[1] == result for row in rows) for result in ("passed", "FAILED")]
    summary = f"{counts[0]} passed, {counts[1]} failed"
    print(summary, flush=True)
    (ROOT / ".build").mkdir(exist_ok=True)
    (ROOT / ".build/summary").write_text(summary + "\n", encoding="utf-8")
    return 1 if counts[1] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
