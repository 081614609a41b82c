"""
Piko's command lines and files, and what becomes of them: pairs in `piko/*.txt`.

A pair begins with the command line after `$` (with variables before it), then the file, which FILE stands for; below
`----------` is our configuration with the notes and errors. `TIDEGATE_ACCEPT=1` writes an output that is missing.
"""

import os
import shlex
from pathlib import Path

import click
import pytest

from tidegate.cli import main, piko
from tidegate.config.load import dump
from tidegate.config.model import Agent, Forward, Gateway

RULE = "----------\n"
PAIRS = sorted((Path(__file__).parent / "piko").glob("*.txt"))


def test_there_are_pairs() -> None:
    assert PAIRS


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.stem)
def test_a_command_line_becomes_our_configuration(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given, _, expected = pair.read_text(encoding="utf-8").partition(RULE)
    command, _, file = given.partition("\n")
    monkeypatch.chdir(tmp_path)
    Path("piko.yaml").write_text(file, encoding="utf-8")
    words = shlex.split(command.removeprefix("$ "))
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        monkeypatch.setenv(name, value)

    def show(config: Gateway | Agent | Forward, source: str) -> int:
        click.echo(f"# {source}\n{dump(config)}", nl=False)
        return 0

    monkeypatch.setattr(piko, "start", show)
    with pytest.raises(SystemExit) as ended:
        main.main(words[1:])
    captured = capsys.readouterr()
    output = (captured.out + captured.err + f"exit {ended.value.code}\n").replace(f"{tmp_path}/", "")

    if not expected and os.environ.get("TIDEGATE_ACCEPT") == "1":
        pair.write_text(f"{given}{RULE}{output}", encoding="utf-8")
        return
    assert output == expected
