"""Every code block of README and docs is run, or checked; how is written in `blocks`."""

import configparser
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from tests.examples.blocks import FRESH, LANGUAGES, Block, blocks, commands, matches
from tests.examples.terminal import Terminal
from tidegate.cli.main import cli
from tidegate.config.load import parse, validate
from tidegate.config.model import Agent, Forward, Gateway

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
MODELS: dict[str, Any] = {"tidegate": Gateway, "agent": Agent, "forward": Forward}


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    here = Terminal(tmp_path)
    try:
        yield here
    finally:
        here.close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_a_page_works_in_the_order_of_the_page(page: Path, terminal: Terminal) -> None:
    for block in blocks(page):
        if block.language == FRESH:
            terminal.close()
            continue
        assert block.language in LANGUAGES, f"line {block.line}: {block.language or 'no language'}"
        try:
            _try(block, terminal)
        except AssertionError as problem:
            raise AssertionError(f"{page.relative_to(ROOT)}:{block.line}: {problem}") from None


def _try(block: Block, terminal: Terminal) -> None:
    if block.language == "console":
        found = commands(block)
        assert found, "a console block without a command"
        for command in found:
            terminal.type(command, last=command is found[-1])
    elif block.language == "sh":
        targets = re.findall(r"^make ([a-z]+)", block.text, re.MULTILINE)
        for target in targets:
            subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)
        script = re.sub(r"^make .*$", "", block.text, flags=re.MULTILINE)
        if script.strip():
            terminal.run(script)
    elif block.language == "text":
        assert not re.search(r"^\$ ", block.text, re.MULTILINE), "a command in a block that is not run"
    else:
        name = re.match(r"# (\S+)", block.text)
        assert name, "the first line names no file"
        path = terminal.write(name[1], block.text)
        _check_file(path, block.language)


def _check_file(path: Path, language: str) -> None:
    text = path.read_text(encoding="utf-8")
    if language == "ini":
        unit = configparser.RawConfigParser(strict=False)
        unit.read_string(text)
        _check_command(unit["Service"]["ExecStart"].split())
        return
    if language == "toml":
        assert tomllib.loads(text)
        return
    model = MODELS.get(re.split(r"[-.]", path.name)[0])
    if model is None:
        assert yaml.safe_load(text)
    else:
        validate(model, parse(text, path.name))


def _check_command(words: list[str]) -> None:
    known = CliRunner().invoke(cli, [words[1], *[word for word in words[2:3] if word.isalpha()], "--help"])
    assert known.exit_code == 0, known.output
    for option in [word.partition("=")[0] for word in words if word.startswith("--")]:
        assert option in known.output, f"{' '.join(words)}: there is no {option}"


def test_there_are_pages_with_blocks() -> None:
    assert {"README.md", "start.md", "config.md"} <= {page.name for page in PAGES}
    assert sum(len(list(blocks(page))) for page in PAGES) > 20


@pytest.mark.parametrize(
    ("expected", "line"),
    [
        ("12:00:01 listening on 127.0.0.1:8000", "09:14:59 listening on 127.0.0.1:8000"),
        ("x-tidegate-request-id: 3ea70ea5346ce247", "x-tidegate-request-id: 00000000000000ab"),
        ("web GET / 200 1.2ms 0B in 6B out", "web GET / 200 95ms 0B in 6B out"),
        ("up 3 s, 2 workers", "up 11 s,  2 workers"),
        ("in use by PID 4711 (tidegate gateway)", "in use by PID 9 (tidegate gateway)"),
        ("a ... d", "a b c d"),
    ],
)
def test_what_differs_in_each_run_is_not_compared(expected: str, line: str) -> None:
    assert matches(expected, line)


@pytest.mark.parametrize(
    ("expected", "line"),
    [("HTTP/1.1 502 Bad Gateway", "HTTP/1.1 200 OK"), ("listening", "not listening"), ("a.b", "axb"), ("2 x", "3 x")],
)
def test_everything_else_is(expected: str, line: str) -> None:
    assert not matches(expected, line)
