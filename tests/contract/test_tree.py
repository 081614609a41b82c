"""
What holds for every file of the checkout: size, no trace of one machine, and the frontier to the engine.

Looks at the files that git knows or would add, so that what is built does not count.
"""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINES = 600

# Home and work folders of one machine, and the hosts of package registries: a checkout builds with whatever registry
# the machine is set up for. Written in pieces, so that this file does not contain them.
MACHINE_PATHS = re.compile("|".join("/" + path for path in ["root/", r"home/(?!user/|you/)\w+/", "work/", "Users/"]))
REGISTRIES = re.compile(
    "|".join(
        re.escape(".".join(host))
        for host in [
            ("pypi", "org/simple"),
            ("files", "pythonhosted", "org"),
            ("registry", "npmjs", "org"),
            ("registry", "yarnpkg", "com"),
            ("static", "crates", "io"),
            ("index", "crates", "io"),
            ("proxy", "golang", "org"),
            ("sum", "golang", "org"),
        ]
    )
    + "|artifac"
    + "tory"
)


def files() -> list[Path]:
    """Every file that is or would be committed."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def text(path: Path) -> str:
    """The file as text; empty for captured bytes."""
    data = path.read_bytes()
    return "" if b"\0" in data else data.decode("utf-8", errors="replace")


def lines_with(pattern: re.Pattern[str]) -> list[str]:
    """`file:line` of every line that the pattern matches."""
    return [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files()
        for number, line in enumerate(text(path).splitlines(), start=1)
        if pattern.search(line)
    ]


def test_no_source_file_is_longer_than_a_person_reads() -> None:
    sources = [path for path in files() if path.suffix in {".rs", ".py", ".go", ".sh"}]
    lengths = {str(path.relative_to(ROOT)): len(text(path).splitlines()) for path in sources}
    assert {name: length for name, length in lengths.items() if length > LINES} == {}


def test_rust_is_120_columns_wide_at_most() -> None:
    # What `cargo fmt` leaves: comments, strings and what is inside of macros.
    assert [place for place in lines_with(re.compile(".{121}")) if ".rs:" in place] == []


def test_no_file_names_a_folder_of_one_machine() -> None:
    assert lines_with(MACHINE_PATHS) == []


def test_no_file_names_a_registry() -> None:
    assert lines_with(REGISTRIES) == []


def imported(path: Path) -> set[str]:
    """Every module that a Python file imports, in full."""
    names = set()
    for node in ast.walk(ast.parse(text(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names}
    return names


def test_only_one_module_speaks_with_the_engine() -> None:
    package = ROOT / "python/tidegate"
    speaking = [
        str(path.relative_to(package))
        for path in sorted(package.rglob("*.py"))
        if any("_engine" in name.split(".") for name in imported(path))
    ]
    assert set(speaking) <= {"engine.py", "engine/__init__.py"}


@pytest.mark.parametrize("path", ["README.md", "LICENSE", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_a_newcomer_finds_the_usual_files(path: str) -> None:
    assert text(ROOT / path).strip()
