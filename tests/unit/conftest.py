"""A command line that runs in the test process, up to where a role would start."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import pytest

from tidegate.cli import main
from tidegate.control.state import Configuration


@dataclass
class Ran:
    """What a command line led to."""

    code: int
    """Its exit code."""
    stdout: str
    """What it printed."""
    stderr: str
    """What it said."""
    started: dict[str, Any] | None
    """What it would have run, with `snapshot` decoded; none where it did not come so far."""


@pytest.fixture
def tidegate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any) -> Callable[..., Ran]:
    """Runs `tidegate ...` and catches the role that it would start."""
    started: list[dict[str, Any]] = []

    def run(role: str, configuration: Configuration, **rest: Any) -> int:
        whole = {each.name: getattr(configuration, each.name) for each in fields(configuration)}
        started.append({"role": role, **whole, "snapshot": json.loads(configuration.snapshot), **rest})
        return 0

    monkeypatch.setitem(sys.modules, "tidegate.cli.run", SimpleNamespace(run=run))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)

    def call(*words: str) -> Ran:
        started.clear()
        with pytest.raises(SystemExit) as ended:
            main.main(words)
        captured = capsys.readouterr()
        return Ran(int(ended.value.code or 0), captured.out, captured.err, started[0] if started else None)

    return call
