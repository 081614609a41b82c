"""
Proves that no file of the engine imports one that imports it, within a module's folder either.

A folder's `mod.rs` (or the file named like the folder) is where its words are defined for all of them and is left out;
across modules the order of `lib.rs` keeps circles away (`test_engine_layers.py`).
"""

import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "crates/engine/src"
USE = re.compile(r"\bsuper::(?:\{([^;]*)\}|(\w+))")


def siblings(folder: Path) -> dict[str, set[str]]:
    """File -> files of the same folder that it names by `super::`."""
    names = {path.stem for path in folder.glob("*.rs")} | {path.name for path in folder.iterdir() if path.is_dir()}
    found: dict[str, set[str]] = {}
    for path in folder.glob("*.rs"):
        text = re.sub(r"//[^\n]*", "", path.read_text()).split("#[cfg(test)]")[0]
        used = {name for group, one in USE.findall(text) for name in [one, *re.findall(r"(?<![:\w])\w+", group)]}
        found[path.stem] = (used & names) - {path.stem, "mod"}
    return found


FOLDERS = sorted({path.parent for path in SOURCE.rglob("*.rs")} - {SOURCE})


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(SOURCE)))
def test_no_file_imports_one_that_imports_it(folder: Path) -> None:
    try:
        TopologicalSorter(siblings(folder)).prepare()
    except CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))


def test_uses_of_siblings_are_found() -> None:
    assert {"relay", "http1", "site"} <= siblings(SOURCE / "proxy")["stream"]
