"""
Mistakes in files, and what `config check` says of them: pairs in `config/*.txt`.

A pair is a file; below `----------` is what is said of it. `TIDEGATE_ACCEPT=1` writes an output that is missing.
"""

from pathlib import Path

import pytest

from tests.golden.pairs import ends_with, halves, said

PAIRS = sorted((Path(__file__).parent / "config").glob("*.txt"))


def test_there_are_pairs() -> None:
    assert PAIRS


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.stem)
def test_every_mistake_of_a_file_is_told_at_once(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tidegate.yaml").write_text(halves(pair)[0], encoding="utf-8")
    ends_with(pair, said(["config", "check", "tidegate.yaml"], capsys, tmp_path))
