"""
Starts programs and waits for what they say.

A program prints events, one JSON object a line, on either stream; whatever it prints is kept, and shown when a test
fails. What the programs mean is left to others: `tidegate.py`, and the Go programs in `tests/interop/programs.py`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

DEADLINE = 20.0
"""Seconds a condition may take: long for a busy machine, for nothing that works comes near it."""

Event = dict[str, Any]
T = TypeVar("T")

started: list[Program] = []
"""Every program of the running test; `tests/conftest.py` prints their logs when it fails, and empties the list."""


def until(condition: Callable[[], T], what: str, deadline: float = DEADLINE) -> T:
    """Returns the first true value of the condition; fails with `what` when there is none in time."""
    end = time.monotonic() + deadline
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline:g} s: {what}")
        time.sleep(0.01)
    return value


class Program:
    """A running program; as a context manager it is gone when the block ends."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        name: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.command = [str(part) for part in command]
        self.name = name or Path(self.command[0]).name
        self.events: list[Event] = []
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            cwd=cwd,
        )
        self._readers = [
            threading.Thread(target=self._read, args=(stream,), daemon=True)
            for stream in (self._process.stdout, self._process.stderr)
        ]
        for reader in self._readers:
            reader.start()
        started.append(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # How a program stops is a test of its own; here it must only be gone.
        self.kill()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    @property
    def log(self) -> str:
        """Everything printed so far, both streams in the order of arrival."""
        with self._changed:
            return "\n".join(self._lines)

    def seen(self, event: str, **fields: object) -> list[Event]:
        """The events so far of this name with these fields."""
        with self._changed:
            return [entry for entry in self.events if _matches(entry, event, fields)]

    def event(self, event: str, *, nth: int = 1, deadline: float = DEADLINE, **fields: object) -> Event:
        """Waits for the nth event of this name with these fields."""
        end = time.monotonic() + deadline
        with self._changed:
            while len(found := [e for e in self.events if _matches(e, event, fields)]) < nth:
                left = end - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"{self.name}: no event {event!r} {fields or ''} (number {nth})")
                if not self.running and not any(reader.is_alive() for reader in self._readers):
                    raise AssertionError(f"{self.name}: ended with {self._process.returncode} before {event!r}")
                self._changed.wait(min(left, 0.1))
        return found[nth - 1]

    def ready(self, event: str, *, nth: int = 1, **fields: object) -> Event:
        """The same for constructors: a program that does not get so far is ended."""
        try:
            return self.event(event, nth=nth, deadline=DEADLINE, **fields)
        except AssertionError:
            self.kill()
            raise

    def says(self, text: str, *, deadline: float = DEADLINE) -> None:
        """Waits until the text stands in the log."""
        until(lambda: text in self.log, f"{self.name} says {text!r}", deadline)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self._process.send_signal(number)

    def stop(self, deadline: float = DEADLINE) -> int:
        """Asks the program to stop and returns its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(deadline)

    def wait(self, deadline: float = DEADLINE) -> int:
        """Waits for the end and returns the exit code, negative for a signal; all output has been read then."""
        try:
            code = self._process.wait(deadline)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name}: still running after {deadline:g} s") from None
        for reader in self._readers:
            reader.join(5)
        return code

    def kill(self) -> None:
        """Ends the program at once; nothing happens where it has ended."""
        self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join(5)

    def peak_memory(self) -> int:
        """The most bytes the process has had in memory."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"{self.name}: no memory figure, the process has ended")

    def _read(self, stream: IO[bytes]) -> None:
        for raw in stream:
            line = raw.decode(errors="replace").rstrip("\n")
            event = _parse(line)
            with self._changed:
                self._lines.append(line)
                if event is not None:
                    self.events.append(event)
                self._changed.notify_all()
        stream.close()


def _parse(line: str) -> Event | None:
    if not line.startswith("{"):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and "event" in value else None


def _matches(entry: Event, event: str, fields: Mapping[str, object]) -> bool:
    return entry["event"] == event and all(entry.get(key) == value for key, value in fields.items())
