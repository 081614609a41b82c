"""
Writes events: a line for a person on a terminal, one JSON object otherwise.

What comes from peers is escaped and secrets are masked here, once for all. What an event means to a person is
`control.wording`; requests are logged by the engine itself.
"""

import json
import logging
import math
import re
import select
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from tidegate.control.state import LogOptions

__all__ = ["Log", "escape", "mask"]

LEVELS = {"trace": 0, "debug": 1, "info": 2, "warn": 3, "error": 4}
# What libraries log again and again is written once in so long, with the number of times that it was left out.
REPEAT_SECONDS = 10.0
MOST_REPEATED = 256

_COLOURS = {"warn": "\x1b[33m", "error": "\x1b[31m", "debug": "\x1b[2m", "trace": "\x1b[2m"}
_LABELS = {"warn": "warning: ", "error": "error: "}

# A reader that takes nothing for so long is stuck, and must not hold up signals and the admin listener.
READER_MILLISECONDS = 1000

_SECRET_FIELD = re.compile(r"token|password|secret|authorization|cookie|private_key", re.IGNORECASE)
_USERINFO = re.compile(r"(://)[^/@\s\"']+@")
_BEARER = re.compile(r"\b(bearer|basic)\s+[^\s\"']+", re.IGNORECASE)


class Log:
    """Where the events of one process go. Any thread may write."""

    def __init__(self, options: LogOptions, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        terminal = self._stream.isatty()
        self.text = options.format in ("text", "human") or (options.format != "json" and terminal)
        self._colours = self.text and terminal
        self._least = LEVELS.get(options.level, LEVELS["info"])
        self._room = _poll(self._stream)
        self._dropped = 0
        self._lock = threading.Lock()  # waiting for the reader is for one thread at a time

    def set_level(self, level: str) -> None:
        """The least important events that are written from now on."""
        self._least = LEVELS.get(level, LEVELS["info"])

    def event(self, event: Mapping[str, Any], sentence: str | None = None) -> None:
        """Writes one event; `sentence` is what a person reads instead of its name and fields, an empty one nothing."""
        level = str(event.get("level", "info"))
        if LEVELS.get(level, LEVELS["info"]) < self._least:
            return
        if self.text and sentence == "":
            return
        line = self._for_a_person(event, level, sentence) if self.text else as_json(event, level)
        with self._lock:
            if not self._reader_is_there():
                self._dropped += 1
                return
            if self._dropped:
                lost = {"event": "events dropped", "time": time.time(), "count": self._dropped}
                self._dropped = 0
                self._write(self._for_a_person(lost, "warn", None) if self.text else as_json(lost, "warn"))
            self._write(line)

    def say(self, level: str, name: str, sentence: str | None = None, **fields: Any) -> None:
        """Writes an event of our own, of now."""
        self.event({"event": name, "level": level, "time": time.time(), **fields}, sentence)

    def _reader_is_there(self) -> bool:
        # Once stuck, it is not waited for again until it has read something.
        return self._room is None or bool(self._room(0 if self._dropped else READER_MILLISECONDS))

    def _write(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            # Nobody reads us any more: no reason to stop serving.
            return

    def _for_a_person(self, event: Mapping[str, Any], level: str, sentence: str | None) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(_seconds(event)))
        body = escape(mask(sentence)) if sentence is not None else as_text(event)
        body = f"{_LABELS.get(level, '')}{body}"
        if self._colours and level in _COLOURS:
            body = f"{_COLOURS[level]}{body}\x1b[0m"
        return f"{clock} {body}"


class Bridge(logging.Handler):
    """Carries what Python's libraries log into our events, the same thing once in `REPEAT_SECONDS`."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._repeated: dict[tuple[str, str], tuple[float, int]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record as an event."""
        message = record.getMessage()
        left_out = self._left_out((record.name, message))
        if left_out is None:
            return
        more: dict[str, Any] = {"left_out": left_out} if left_out else {}
        error = record.exc_info[1] if record.exc_info else None
        if record.name == "asyncio" and message.startswith("socket.accept() out of system resource"):
            # Only the admin listener accepts connections in Python.
            reason = (getattr(error, "strerror", None) or "nothing is left for another connection").lower()
            sentence = f"the admin listener cannot accept: {reason}"
            self._log.say("warn", "accepting rests", sentence, listener="admin", error=reason, **more)
            return
        level = "error" if record.levelno >= logging.ERROR else "warn"
        if error is not None:
            more["error"] = repr(error)
        self._log.say(level, message, logger=record.name, **more)

    def _left_out(self, what: tuple[str, str]) -> int | None:
        """How often this was left out since it was written last, where it is to be written now; else nothing."""
        now = time.monotonic()
        since, count = self._repeated.get(what, (-math.inf, 0))
        if now - since < REPEAT_SECONDS:
            self._repeated[what] = (since, count + 1)
            return None
        if len(self._repeated) >= MOST_REPEATED:
            self._repeated.clear()
        self._repeated[what] = (now, 0)
        return count


def _poll(stream: TextIO) -> Callable[[int], list[Any]] | None:
    """What tells whether a stream takes a line without waiting; nothing where it is no file."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return None
    room = select.poll()
    room.register(descriptor, select.POLLOUT)
    return room.poll


def as_text(event: Mapping[str, Any]) -> str:
    """The name and the fields of an event that say something, in one line without control characters."""
    words = [escape(str(event.get("event", "event")))]
    words += [f"{escape(name)}={_value(value)}" for name, value in _fields(event).items() if value not in ("", None)]
    return " ".join(words)


def as_json(event: Mapping[str, Any], level: str) -> str:
    """An event as one JSON object in one line, ASCII only."""
    moment = datetime.fromtimestamp(_seconds(event), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    whole = {"time": moment, "level": level, "event": str(event.get("event", "event")), **_fields(event)}
    return json.dumps(whole, default=str).replace("\x7f", "\\u007f")


def escape(text: str) -> str:
    """Replaces what is not printable (control characters, ANSI sequences, direction marks) by its code."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def mask(text: str) -> str:
    """Hides passwords in URLs and credentials in header values."""
    return _BEARER.sub(r"\1 ***", _USERINFO.sub(r"\1***@", text))


def _fields(event: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: "***" if _SECRET_FIELD.search(name) else _masked(value)
        for name, value in event.items()
        if name not in ("event", "level", "time")
    }


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, Mapping):
        return {str(name): "***" if _SECRET_FIELD.search(str(name)) else _masked(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(item) for item in value]
    return value


def _value(value: Any) -> str:
    if isinstance(value, str):
        plain = value and not any(c.isspace() or c in "\"'=" for c in value)
        return escape(value) if plain else escape(json.dumps(value, ensure_ascii=False))
    if isinstance(value, float):
        return f"{round(value, 3):g}"
    return escape(json.dumps(value, default=str, ensure_ascii=False))


def _seconds(event: Mapping[str, Any]) -> float:
    moment = event.get("time")
    return float(moment) if isinstance(moment, int | float) else time.time()
