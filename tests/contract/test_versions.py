"""
No release is built from a version with a known hole: the oldest versions that may be used, against the lock files.

A package that is not in a lock file is not used, and passes. Raise a line here when an advisory appears.
"""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CRATES = {
    "quinn-proto": "0.11.15",
    "h2": "0.4.16",
    "rustls": "0.23.46",
    "rustls-webpki": "0.103.13",
    "tungstenite": "0.20.1",
    "pyo3": "0.29.0",
    "bytes": "1.11.1",
    "slab": "0.4.11",
    "lru": "0.18.2",
    "time": "0.3.47",
    "aws-lc-sys": "0.39.0",
}
PYTHON_PACKAGES = {"pyjwt": "2.15.1"}


def number(version: str) -> tuple[int, ...]:
    """The comparable part of a version: `1.2.3+build` is (1, 2, 3)."""
    return tuple(int(part) for part in re.split(r"[-+]", version, maxsplit=1)[0].split("."))


def crates(lock: Path) -> Iterator[tuple[str, str]]:
    """(name, version) of every package of a Cargo.lock."""
    for package in tomllib.loads(lock.read_text())["package"]:
        yield package["name"], package["version"]


def python_packages(lock: Path) -> Iterator[tuple[str, str]]:
    """(name, version) of every package of a requirements file."""
    yield from re.findall(r"^([\w.-]+)==([^\s;]+)", lock.read_text(), flags=re.MULTILINE)


CARGO_LOCKS = [ROOT / "Cargo.lock", *ROOT.glob("crates/*/fuzz/Cargo.lock")]
PYTHON_LOCKS = sorted(ROOT.glob("requirements/*.txt"))


@pytest.mark.parametrize("lock", CARGO_LOCKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_crates_are_new_enough(lock: Path) -> None:
    found = dict(crates(lock))
    assert found
    assert [f"{n} {v}" for n, v in crates(lock) if n in CRATES and number(v) < number(CRATES[n])] == []


@pytest.mark.parametrize("lock", PYTHON_LOCKS, ids=lambda path: path.name)
def test_python_packages_are_new_enough(lock: Path) -> None:
    found = dict(python_packages(lock))
    assert found
    old = [f"{n} {v}" for n, v in found.items() if n in PYTHON_PACKAGES and number(v) < number(PYTHON_PACKAGES[n])]
    assert old == []


@pytest.mark.parametrize("lock", PYTHON_LOCKS, ids=lambda path: path.name)
def test_every_python_package_is_pinned_with_hashes(lock: Path) -> None:
    entries = re.split(r"^(?=[\w.-]+==)", lock.read_text(), flags=re.MULTILINE)[1:]
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_the_package_asks_for_what_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements/run.in").read_text().splitlines()
    assert sorted(project["dependencies"]) == sorted(line for line in lines if line and not line.startswith("#"))


def test_python_and_engine_have_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    workspace = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]
    versions = {name: version for name, version in crates(ROOT / "Cargo.lock") if name.startswith("tidegate")}
    assert set(versions.values()) == {workspace["version"]}
    assert "version" in project.get("dynamic", []) or project["version"] == workspace["version"]
