"""A pair of input and output in one file, with a rule between them."""

import os
from pathlib import Path

import pytest

from tidegate.cli import main

__all__ = ["ends_with", "halves", "said"]

RULE = "----------\n"


def halves(pair: Path) -> tuple[str, str]:
    """What stands before the rule, and what stands below it."""
    given, _, expected = pair.read_text(encoding="utf-8").partition(RULE)
    return given, expected


def said(words: list[str], capsys: pytest.CaptureFixture[str], folder: Path) -> str:
    """What a command prints and how it ends; files of `folder` are named as from there."""
    with pytest.raises(SystemExit) as ended:
        main.main(words)
    captured = capsys.readouterr()
    return (captured.out + captured.err + f"exit {ended.value.code}\n").replace(f"{folder}/", "")


def ends_with(pair: Path, output: str) -> None:
    """Checks that a pair ends with this output; `TIDEGATE_ACCEPT=1` writes one that is missing."""
    given, expected = halves(pair)
    if not expected and os.environ.get("TIDEGATE_ACCEPT") == "1":
        pair.write_text(f"{given}{RULE}{output}", encoding="utf-8")
        return
    assert output == expected
