"""
What every importer gives back: our configuration as it would be written, and what it does not say.

Pure, like the importers: reading files is `source`, telling people is the command line's.
"""

import re
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from tidegate.config.tree import Tree

__all__ = ["Note", "Translation", "free_name", "place", "put"]


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


def free_name(text: str, taken: Container[str]) -> str:
    """A name in the characters that ours are made of, and like no other."""
    base = name = re.sub(r"[^A-Za-z0-9._-]", "-", text.replace("*", "any"))[:120] or "unnamed"
    number = 2
    while name in taken:
        name, number = f"{base}-{number}", number + 1
    return name
