"""Where secrets are read from, and that nobody sees them on the way."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tidegate.auth.secrets import LARGEST, of_command, of_environment, of_file, read
from tidegate.config.auth import SecretSource
from tidegate.errors import ConfigError

HIDDEN = "hunter2-hunter2"


def source(**written: Any) -> SecretSource:
    return SecretSource.model_validate(written, context={})


def test_a_file_is_read_without_the_end_of_its_last_line(tmp_path: Path) -> None:
    file = tmp_path / "key"
    for text, value in {"a\n": b"a", "a\r\n": b"a", "a": b"a", " a \n\n": b" a \n", "a\nb\n": b"a\nb"}.items():
        file.write_bytes(text.encode())
        assert read(source(file=str(file)), "x").value == value


def test_the_environment_and_commands_are_read_in_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_KEY", f"{HIDDEN}\n")
    assert read(source(env="TOKEN_KEY"), "x").value == HIDDEN.encode()
    assert read(source(command=["printf", f"{HIDDEN}\\n"]), "x").value == HIDDEN.encode()


def test_a_file_that_everybody_can_read_is_told(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(HIDDEN)
    file.chmod(0o604)
    assert of_file(str(file), "x").warning == f"x: everybody on this machine can read {file} (`chmod 600 {file}`)"
    file.chmod(0o640)
    assert of_file(str(file), "x").warning is None


def test_what_is_missing_or_empty_is_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("\n")
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: of_file(str(empty), "x.secret"), rf"x\.secret: {empty} is empty"),
        (lambda: of_file(str(tmp_path / "none"), "x.secret"), "none: cannot read it: no such file or directory"),
        (lambda: of_file(str(tmp_path), "x.secret"), "cannot read it: is a directory"),
        (lambda: of_environment("A_KEY", "x.secret", {}), r"x\.secret: the environment variable A_KEY is not set"),
        (lambda: of_environment("A_KEY", "x.secret", {"A_KEY": ""}), "A_KEY is empty"),
        (lambda: of_command(["true"], "x.secret"), "the output of its command is empty"),
        (lambda: of_command(["/no/such/program", HIDDEN], "x.secret"), "cannot be started: no such file"),
        (lambda: read(SimpleNamespace(file=None, env=None, command=None, inline=None), "x"), "is empty"),
    ]
    for call, message in wrong:
        with pytest.raises(ConfigError, match=message):
            call()


def test_a_command_that_fails_is_told_without_what_it_said() -> None:
    with pytest.raises(ConfigError, match="exit code 3") as error:
        of_command(["sh", "-c", f"echo {HIDDEN}; echo {HIDDEN} >&2; exit 3"], "x.secret")
    assert HIDDEN not in str(error.value)


def test_a_command_has_its_time_and_leaves_nothing_behind(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    began = time.monotonic()
    with pytest.raises(ConfigError, match="takes too long"):
        of_command(["sh", "-c", f"sleep 60 & echo $! > {pid}; wait"], "x.secret", 0.3)
    assert time.monotonic() - began < 10
    with pytest.raises(ConfigError, match="takes too long"):
        of_command(["sh", "-c", "exec >&-; sleep 60"], "x.secret", 0.3)

    def gone() -> bool:
        stat = Path(f"/proc/{pid.read_text().strip()}/stat")
        try:
            return stat.read_text().rpartition(") ")[2].startswith("Z")
        except (FileNotFoundError, ProcessLookupError):
            return True

    end = time.monotonic() + 10
    while not gone():
        assert time.monotonic() < end
        os.sched_yield()


def test_what_is_too_large_is_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(b"x" * (LARGEST + 1))
    with pytest.raises(ConfigError, match="no secret"):
        of_file(str(file), "x")
    with pytest.raises(ConfigError, match="no secret"):
        of_command(["yes"], "x")


def test_a_secret_is_in_no_repr(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(HIDDEN)
    assert HIDDEN not in repr(of_file(str(file), "x"))
