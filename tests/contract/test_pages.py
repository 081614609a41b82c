"""What pages say about the code is there: links, tests, modules, dependencies."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The names under which a page's headings can be linked to."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prose_is_120_columns_wide_at_most(page: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert [line for line in prose.splitlines() if len(line) > 120 and not line.startswith("|")] == []


def test_invariants_name_tests_that_exist() -> None:
    table = ARCHITECTURE.split("## What must not be there")[1].split("\n## ")[0]
    rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ")][1:]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    files = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "crates").rglob("*.rs")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    assert named
    assert {name for name in named if not re.search(rf"\b(def|fn) {name}\b", text)} == set()


def test_the_code_map_has_every_module_in_order() -> None:
    lib = (ROOT / "crates/engine/src/lib.rs").read_text(encoding="utf-8")
    table = ARCHITECTURE.split("## Code map")[1].split("`crates/binding`")[0]
    assert re.findall(r"^\| \w* ?\| `(\w+)`", table, re.MULTILINE) == re.findall(r"^pub mod (\w+);", lib, re.MULTILINE)


def test_the_code_map_has_every_package() -> None:
    package = ROOT / "python/tidegate"
    table = ARCHITECTURE.split("Python, `python/tidegate`")[1].split("\n\n")[1]
    named = set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))
    there = {path.parent.name for path in package.glob("*/__init__.py")} | {path.stem for path in package.glob("*.py")}
    assert named == {name for name in there if not name.startswith("_")}


def test_every_dependency_is_named_with_what_it_is_for() -> None:
    wanted: set[str] = set()
    for manifest in ROOT.glob("crates/*/Cargo.toml"):
        crate = tomllib.loads(manifest.read_text(encoding="utf-8"))
        wanted |= {*crate.get("dependencies", {}), *crate.get("dev-dependencies", {})}
    for listing in ROOT.glob("requirements/*.in"):
        wanted |= set(re.findall(r"^([A-Za-z][\w.-]*)", listing.read_text(encoding="utf-8"), re.MULTILINE))
    section = ARCHITECTURE.split("## Dependencies")[1].split("\n## ")[0]
    named = set(re.findall(r"`([\w.-]+)`", section))
    assert named == {name for name in wanted if not name.startswith("tidegate")}
