"""
Collects what is wrong while a snapshot is made, so that all of it is told, and reads the files that it names.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tidegate.config.binds import collisions, is_every_address
from tidegate.config.load import line_of
from tidegate.config.tree import Places
from tidegate.errors import ConfigError

__all__ = ["Checked", "Where", "read"]

Where = Places
"""The place of a key, such as `tidegate.yaml:7`; empty where nobody wrote it."""


class Checked:
    """Collects mistakes, so that all of them are told."""

    def __init__(self, where: Where | None = None) -> None:
        self._mistakes: list[tuple[int, str]] = []
        self._where = where

    @property
    def mistakes(self) -> list[str]:
        """All of them, in the order of lines; what stands in no file comes last."""
        return [told for _, told in sorted(self._mistakes, key=lambda each: each[0])]

    def mistake(self, key: str, message: str) -> None:
        """Something is wrong with what stands under this key."""
        place = self._place(key)
        message = self._where.hidden(key, message) if self._where is not None else message
        self._mistakes.append((line_of(place), f"{place}: {key}: {message}" if place else f"{key}: {message}"))

    def call(self, key: str, function: Callable[..., Any], *given: Any) -> Any:
        """What a function returns; where it refuses, that is told under this key."""
        try:
            return function(*given)
        except ValueError as error:
            self.mistake(key, str(error))
            return None

    def file(self, key: str, name: str | None) -> str | None:
        """The text of a file."""
        return None if name is None else self.call(key, read, name)

    def readable(self, key: str, name: str | None) -> None:
        """Refuses a file that cannot be read; what it holds is somebody else's."""
        if name is not None:
            self.call(key, _try_to_read, name)

    def pem(self, key: str, name: str | None, what: str) -> str | None:
        """The text of a file that has to hold a block of PEM."""
        return None if name is None else self.call(key, _pem, name, what)

    def differ(self, places: Iterable[tuple[str, list[str] | None]]) -> None:
        """Refuses two keys that stand for addresses of which only one can be bound."""
        for key, address, other, theirs in collisions(places):
            place = self._place(other)
            holder = f"{other} ({place})" if place else other
            if address == theirs:
                self.mistake(key, f"{holder} binds {address} already")
            elif is_every_address(theirs):
                self.mistake(key, f"{holder} binds {theirs}, which is every address, {address} too (take another port)")
            else:
                self.mistake(
                    key, f"{address} is every address, and {holder} binds {theirs} already (take another port)"
                )

    def done(self, snapshot: dict[str, Any]) -> bytes:
        """The snapshot, or every mistake."""
        if self._mistakes:
            raise ConfigError(self.mistakes)
        return json.dumps(snapshot).encode()

    def _place(self, key: str) -> str:
        return self._where(key) if self._where is not None else ""


def read(name: str) -> str:
    """The text of a file, or a `ValueError` that names it."""
    try:
        return Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot read {name}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{name} is not text") from None


def _try_to_read(name: str) -> None:
    try:
        with Path(name).open("rb") as file:
            file.read(1)
    except OSError as error:
        raise ValueError(f"cannot read {name}: {(error.strerror or str(error)).lower()}") from None


def _pem(name: str, what: str) -> str:
    text = read(name)
    if f"{what}-----" not in text:
        raise ValueError(f"{name} holds no PEM {what.lower()} (a block that begins with -----BEGIN)")
    return text
