"""
Mistakes in files, and what `config check` says of them: pairs in `config/*.txt`.

A pair is a file; below `----------` is what is said of it. `TIDEGATE_ACCEPT=1` writes an output that is missing.
"""

import os
from pathlib import Path

import pytest

from tidegate.cli import main

RULE = "----------\n"
PAIRS = sorted((Path(__file__).parent / "config").glob("*.txt"))


def test_there_are_pairs() -> None:
    assert PAIRS


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.stem)
def test_every_mistake_of_a_file_is_told_at_once(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given, _, expected = pair.read_text(encoding="utf-8").partition(RULE)
    monkeypatch.chdir(tmp_path)
    Path("tidegate.yaml").write_text(given, encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main.main(["config", "check", "tidegate.yaml"])
    captured = capsys.readouterr()
    output = (captured.out + captured.err + f"exit {ended.value.code}\n").replace(f"{tmp_path}/", "")

    if not expected and os.environ.get("TIDEGATE_ACCEPT") == "1":
        pair.write_text(f"{given}{RULE}{output}", encoding="utf-8")
        return
    assert output == expected
