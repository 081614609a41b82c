"""
What every importer gives back: our configuration as it would be written, and what it does not say.

Pure, like the importers: reading files is `source`, telling people is the command line's.
"""

import re
from dataclasses import dataclass
from typing import Any

from tidegate.config.load import Tree

__all__ = ["Note", "Translation", "has_port", "place", "put"]


@dataclass(frozen=True)
class Note:
    """Something that was met and not carried as it stood."""

    where: str
    """File and line, the flag, or the name in the environment."""
    text: str
    """What was met, and what was done instead."""

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


@dataclass(frozen=True)
class Translation:
    """A foreign file in our words, not yet checked."""

    tree: Tree
    """What our file would say; its places are those of the foreign file."""
    notes: tuple[Note, ...]
    """What it does not say."""


def place(tree: Tree, *path: str | int) -> str:
    """The nearest known place of a path."""
    return next((tree.where[path[:n]] for n in range(len(path), -1, -1) if path[:n] in tree.where), tree.name)


def put(ours: dict[str, Any], section: str, **found: Any) -> None:
    """Writes what is there, and no empty sections."""
    present = {key: value for key, value in found.items() if value is not None and value != ""}
    if present:
        (ours.setdefault(section, {}) if section else ours).update(present)


def has_port(host: str) -> bool:
    """True for `name:80` and `[::1]:80`, not for `::1`."""
    return re.fullmatch(r"(\[.*\]|[^:]*):\d*", host) is not None
