"""A file that comes by the environment."""

import base64
from pathlib import Path

import pytest

from tidegate.cli import main

GOOD = "rules: []\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"upstreams: [", "error: CONFIG_B64:2: did not find expected node content"),
        (b"a: 1\nupstreams: [{name: a}]", "error: CONFIG_B64:2: upstreams[0].host: is missing"),
        (b"upstreams: [{name: a, host: 'http://b'}]", "error: CONFIG_B64:1: upstreams[0]: "),
        (b"\xff\xfe", "error: CONFIG_B64: is not UTF-8 text"),
    ],
)
def test_a_broken_file_by_the_environment_leaves_a_good_one_as_it_is(
    content: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(GOOD)
    monkeypatch.setenv("CONFIG_B64", base64.b64encode(content).decode())
    with pytest.raises(SystemExit) as ended:
        main.main(["nanoproxy", "-c", str(file)])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert file.read_text() == GOOD
