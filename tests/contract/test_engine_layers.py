"""
Proves the engine's floors: the list in `lib.rs` goes bottom-up, and a module uses only what stands above it there.

Reads the source as text; `make lint` judges everything else about it.
"""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "crates/engine"
SOURCE = ENGINE / "src"


def without_comments(text: str) -> str:
    """Rust source without its comments, so that a link in documentation is not taken for a use."""
    return re.sub(r"/\*.*?\*/", "", re.sub(r"//[^\n]*", "", text), flags=re.DOTALL)


def floors(lib: str) -> list[str]:
    """The modules of the crate, lowest first."""
    return re.findall(r"^\s*(?:pub(?:\([a-z]+\))? )?mod (\w+);", without_comments(lib), flags=re.MULTILINE)


def split_group(group: str) -> list[str]:
    """The parts of `a, b::{c, d}, e`, commas inside braces left alone."""
    parts, depth, part = [], 0, ""
    for letter in group:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += letter
    return [part.strip() for part in [*parts, part] if part.strip()]


def closing(text: str, start: int) -> int:
    """The place of the brace that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError("a brace is not closed")


def uses(text: str) -> set[str]:
    """The first names of all `crate::NAME` paths, those in braces included."""
    text = without_comments(text)
    names = set(re.findall(r"\bcrate::(\w+)", text))
    for group in re.finditer(r"\bcrate::\{", text):
        inside = text[group.end() : closing(text, group.end() - 1)]
        names |= {re.split(r"\W", part, maxsplit=1)[0] for part in split_group(inside)}
    return names


def escapes(text: str, depth: int) -> list[str]:
    """Chains of `super::` that leave a module which stands `depth` folders below its floor."""
    chains = re.findall(r"(?:\bsuper::)+", without_comments(text).split("#[cfg(test)]")[0])
    return [chain for chain in chains if chain.count("super") > depth]


def modules() -> list[tuple[str, Path]]:
    """(floor, file) of every file of the engine except `lib.rs`."""
    files = [path for path in sorted(SOURCE.rglob("*.rs")) if path != SOURCE / "lib.rs"]
    return [(path.relative_to(SOURCE).parts[0].removesuffix(".rs"), path) for path in files]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("use crate::io::Stream;", {"io"}),
        ("use crate::{io, error::{Error, Kind}, tls};", {"io", "error", "tls"}),
        ("// use crate::gateway;\nfn f() { crate::route::find() }", {"route"}),
    ],
)
def test_uses_are_found_however_they_are_written(source: str, expected: set[str]) -> None:
    assert uses(source) == expected


def test_a_path_that_leaves_its_module_is_found() -> None:
    assert escapes("use super::super::gateway;", depth=1) == ["super::super::"]
    assert escapes("use super::frame;\n#[cfg(test)]\nmod tests { use super::super::x; }", depth=1) == []


def test_every_module_has_its_floor() -> None:
    assert {floor for floor, _ in modules()} == set(floors((SOURCE / "lib.rs").read_text()))


def test_a_module_uses_only_what_stands_above_it_in_lib() -> None:
    order = floors((SOURCE / "lib.rs").read_text())
    wrong = [
        f"{path.relative_to(ROOT)} uses crate::{name}, which stands above {floor}"
        for floor, path in modules()
        for name in sorted(uses(path.read_text()))
        if name in order and order.index(name) > order.index(floor)
    ]
    assert wrong == []


def test_names_of_the_crate_are_modules() -> None:
    """A re-export in `lib.rs` would hide from this test where a name comes from."""
    order = floors((SOURCE / "lib.rs").read_text())
    wrong = [f"{path}: crate::{name}" for _, path in modules() for name in uses(path.read_text()) - set(order)]
    assert wrong == []


def test_no_module_reaches_another_by_super() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {chain}"
        for _, path in modules()
        # `x.rs` and `x/mod.rs` are the floor itself, `x/y.rs` and `x/y/mod.rs` stand one below it.
        for chain in escapes(path.read_text(), len(path.relative_to(SOURCE).parts) - 1 - (path.name == "mod.rs"))
    ]
    assert wrong == []


def test_the_engine_cannot_name_python() -> None:
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    packages: dict[str, set[str]] = {}
    for package in lock["package"]:
        names = {dependency.split(" ")[0] for dependency in package.get("dependencies", [])}
        packages.setdefault(package["name"], set()).update(names)
    reached, waiting = set(), ["tidegate-engine"]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting.extend(packages[name])
    assert "tokio" in reached
    assert [name for name in sorted(reached) if name.startswith("pyo3")] == []
