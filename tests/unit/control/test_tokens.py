"""A token that is read again when its file changes, or before it expires."""

import asyncio
import io
import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import jwt
import pytest

from tidegate.auth import secrets
from tidegate.config.connect import read_token
from tidegate.config.load import parse, validate
from tidegate.config.model import Agent, AgentConnect
from tidegate.control import tokens
from tidegate.control.logs import Log
from tidegate.control.state import LogOptions
from tidegate.control.tokens import Renewal, TokenSource, due_in
from tidegate.errors import ConfigError

KEY = "k" * 32


def token(seconds: float | None, name: str = "a") -> str:
    claims: dict[str, object] = {"sub": name}
    if seconds is not None:
        claims["exp"] = int(time.time() + seconds)
    return jwt.encode(claims, KEY, "HS256")


class Watched:
    """A renewal that runs, what it set and what it said."""

    def __init__(self, source: TokenSource, first: str) -> None:
        self.set: list[str] = []
        self._stream = io.StringIO()
        log = Log(LogOptions(format="json"), self._stream)
        self._renewal = Renewal(source, first, self.set.append, log, interval=0.01)

    def said(self) -> list[str]:
        return [json.loads(line)["event"] for line in self._stream.getvalue().splitlines()]

    def text(self) -> str:
        return self._stream.getvalue()

    async def __aenter__(self) -> "Watched":
        self._task = asyncio.create_task(self._renewal.watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    def threads(self) -> int:
        """Threads that may still read for it."""
        return sum(thread.name.startswith("token_") for thread in threading.enumerate())

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                assert not self._task.done(), self._task
                await asyncio.sleep(0.005)


async def _its_thread_ends(file: Path) -> None:
    first = token(600)
    put(file, first)
    async with Watched(TokenSource(str(file), None), first) as watched:
        await watched.until(lambda: watched.threads() > 0)
    async with asyncio.timeout(20):
        while watched.threads():  # noqa: ASYNC110  threads tell nobody of their end
            await asyncio.sleep(0.005)


def test_the_thread_that_reads_ends_with_the_role(tmp_path: Path) -> None:
    asyncio.run(_its_thread_ends(tmp_path / "token"))


def put(file: Path, text: str) -> None:
    file.write_text(text)


def remove(file: Path) -> None:
    file.unlink()


async def _a_file_is_followed(file: Path) -> None:
    first, second, third = (token(600, name) for name in "abc")
    put(file, first)
    async with Watched(TokenSource(str(file), None), first) as watched:
        put(file, f"{second}\n")
        await watched.until(lambda: watched.set == [second])
        put(file, "")
        await watched.until(lambda: watched.said() == ["token renewed", "token not renewed"])
        remove(file)
        await watched.until(lambda: len(watched.said()) == 3)
        put(file, f"Bearer {third}")
        await watched.until(lambda: watched.set == [second, third])
        assert watched.said()[-1] == "token renewed"
        assert not any(each in watched.text() for each in (first, second, third))


def test_a_token_file_is_read_again_when_it_changes_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    asyncio.run(_a_file_is_followed(tmp_path / "token"))


async def _a_file_is_tried_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (token(600, name) for name in "ab")
    put(file, second)
    failures = [OSError("nothing is left")] * 2

    def read(name: str) -> str:
        if failures:
            raise ConfigError(str(failures.pop()))
        return read_token(name)

    monkeypatch.setattr(tokens, "read_token", read)
    async with Watched(TokenSource(str(file), None), first) as watched:
        await watched.until(lambda: watched.set == [second])
        assert watched.said() == ["token not renewed", "token renewed"]


def test_a_token_file_that_could_not_be_read_is_tried_again_though_it_looks_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(_a_file_is_tried_again(tmp_path / "token", monkeypatch))


async def _a_command_is_run_again(script: Path, new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "SHORTEST", 0.02)
    first, second = token(0.02), token(600, "b")
    source = TokenSource(None, ("/bin/sh", str(script)))
    async with Watched(source, first) as watched:
        await watched.until(lambda: watched.said() == ["token not renewed"])
        put(new, second)
        await watched.until(lambda: watched.set == [second])
        assert second not in watched.text()


def test_a_command_is_run_again_before_the_token_expires_and_until_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, new = tmp_path / "print-token", tmp_path / "new"
    script.write_text(f'[ -f "{new}" ] && cat "{new}"\n')
    asyncio.run(_a_command_is_run_again(script, new, monkeypatch))


async def _pauses(source: TokenSource, first: str, many: int, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it waited before each of so many runs."""
    pauses: list[float] = []
    enough = asyncio.Event()
    sleep = asyncio.sleep

    async def slept(seconds: float) -> None:
        pauses.append(round(seconds, 1))
        if len(pauses) == many:
            enough.set()
            await asyncio.Event().wait()
        await sleep(0)

    renewal = Renewal(source, first, lambda _: None, Log(LogOptions(format="json"), io.StringIO()))
    monkeypatch.setattr(asyncio, "sleep", slept)
    task = asyncio.create_task(renewal.watch())
    async with asyncio.timeout(20):
        await enough.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return pauses


def test_a_command_that_fails_is_run_again_soon_at_first_and_a_good_run_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed: list[str] = ["", "", "", "", "", token(None), "", "", token(None)]

    def of_command(*_: object) -> secrets.Secret:
        return secrets.Secret(printed.pop(0).encode(), None)

    monkeypatch.setattr(secrets, "of_command", of_command)
    pauses = asyncio.run(_pauses(TokenSource(None, ("x",)), token(None), 10, monkeypatch))
    assert pauses == [60, 1, 2, 4, 5, 5, 60, 1, 2, 60]


def test_a_command_that_prints_what_has_expired_is_not_run_every_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "of_command", lambda *_: secrets.Secret(token(-100).encode(), None))
    assert asyncio.run(_pauses(TokenSource(None, ("x",)), token(-100), 6, monkeypatch)) == [1, 1, 2, 4, 5, 5]


@pytest.mark.parametrize(
    ("seconds", "least", "most"),
    [(100, 75, 81), (5, 2.4, 4), (1, 1, 1), (-100, 1, 1), (10**6, 3600, 3600), (None, 60, 60)],
)
def test_when_a_command_is_due(seconds: float | None, least: float, most: float) -> None:
    assert least <= due_in(token(seconds), time.time()) <= most
    assert due_in("no token of this kind", time.time()) == 60


def test_what_is_no_token_is_not_shown(tmp_path: Path) -> None:
    assert TokenSource.of(AgentConnect()) is None
    for printed in ("two words", "", "\\377"):
        source = TokenSource(None, ("printf", printed))
        with pytest.raises(ConfigError) as told:
            source.read()
        assert "connect.token_command" in str(told.value)
        assert "two words" not in str(told.value)
    config = validate(Agent, parse("connect: {token_command: printf abc}", "f"))
    source_of = TokenSource.of(config.connect)
    assert source_of is not None
    assert source_of.read() == "abc"
