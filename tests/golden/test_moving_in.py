"""
Command lines and files of the predecessors, and what becomes of them: pairs in `kiagateway`, `nanoproxy`, `piko`
and `quic-tunnel`.

A pair begins with the command line after `$` (with variables before it), then the file under the name that the command
looks for; below `----------` is our configuration with the notes and errors. `TIDEGATE_ACCEPT=1` writes an output that
is missing.
"""

import shlex
import socket
from pathlib import Path

import click
import pytest

from tests.golden.pairs import ends_with, halves, said
from tidegate.cli import moving, options, piko
from tidegate.config.load import dump
from tidegate.config.model import Agent, Forward, Gateway

FILES = {
    "kiagateway": "servers.toml",
    "nanoproxy": "config.yaml",
    "piko": "piko.yaml",
    "quic-tunnel": "old.sh",
}
PAIRS = sorted(pair for folder in FILES for pair in (Path(__file__).parent / folder).glob("*.txt"))


@pytest.mark.parametrize("folder", FILES)
def test_there_are_pairs(folder: str) -> None:
    assert [pair for pair in PAIRS if pair.parent.name == folder]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.parent.name}/{pair.stem}")
def test_a_command_line_becomes_our_configuration(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command, _, file = halves(pair)[0].partition("\n")
    monkeypatch.chdir(tmp_path)
    if file:
        Path(FILES[pair.parent.name]).write_text(file, encoding="utf-8")
    for name in ("CONF_FILE", "TIMEOUT", "PORT", "DEBUG", "CERT_PATH", "TLS_SKIP_VERIFY", "CONFIG_B64"):
        monkeypatch.delenv(name, raising=False)
    words = shlex.split(command.removeprefix("$ "))
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(socket, "gethostname", lambda: "this-machine")

    def show(config: Gateway | Agent | Forward, source: str, *_: object) -> int:
        click.echo(f"# {source}\n{dump(config)}", nl=False)
        return 0

    for module in (options, piko):
        monkeypatch.setattr(module, "start", show)
    monkeypatch.setattr(moving, "free_admin", lambda *_: "127.0.0.1:8003")
    ends_with(pair, said(words[1:], capsys, tmp_path))
