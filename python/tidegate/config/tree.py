"""
What was written, and where: values with the place of each, and what came from variables.

Reading a file into it is `load`'s, options and the environment `sources`'s.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["UNREAD", "Expand", "Path_", "Places", "Tree", "Variables", "dotted", "expand"]

Path_ = tuple[str | int, ...]
Expand = Callable[[str], str]

UNREAD = object()
"""Stands for a value that is told as wrong already, and fits no key."""

_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::([^}]*))?\}|\$\{[^}]*\}?")
_QUOTED = re.compile(r"""(['"])((?:\\.|(?!\1).)+)\1""")
_SHORT = 4


@dataclass
class Tree:
    """What was written, and where."""

    data: dict[str, Any] = field(default_factory=dict)
    """Plain values, as in the file."""
    where: dict[Path_, str] = field(default_factory=dict)
    """`tidegate.yaml:7`, `--admin` or `TIDEGATE_ADMIN` for each path."""
    name: str = "configuration"
    """What to call the whole where no place is known."""
    base: str = ""
    """The folder that file names start from."""
    mistakes: list[str] = field(default_factory=list)
    """What is wrong already, each with its place; it is told together with what is found later."""
    unread: set[Path_] = field(default_factory=set)
    """Where `UNREAD` stands."""
    variables: dict[str, dict[str, str]] = field(default_factory=dict)
    """Values that variables have a part in, each with what came from a variable and how that was written."""

    def hidden(self, path: Path_, message: str) -> str:
        """A message about what stands at a path, which shows variables by their names: they may hold secrets."""
        if not self.variables:
            return message
        found: Any = self.data
        for part in path:
            try:
                found = found[part]
            except (KeyError, IndexError, TypeError):
                break
        for text in _texts(found):
            for value, name in self.variables.get(text, {}).items():
                message = _hidden(message, value, name)
        return message

    def set(self, path: tuple[str, ...], value: object, where: str) -> None:
        """Sets one value, as an option does."""
        node = self.data
        for part in path[:-1]:
            child = node.get(part)
            if not isinstance(child, dict):
                child = node[part] = {}
            node = child
        node[path[-1]] = value
        for known in [known for known in self.where if known[: len(path)] == path]:
            del self.where[known]
        self.where[path] = where

    def places(self) -> "Places":
        """Finds the place of a key such as `routes[3].to`."""
        return Places(lambda: self)


class Places:
    """Finds the place of a key such as `routes[3].to`, or of what it stands in; empty where nothing was written."""

    def __init__(self, tree: Callable[[], Tree]) -> None:
        self._read = tree
        self._tree: Tree | None = None
        self._known: dict[str, Path_] = {}

    def __call__(self, key: str) -> str:
        """The place of a key."""
        found = self._path(key)
        return self._tree.where[found] if self._tree is not None and found else ""

    def hidden(self, key: str, message: str) -> str:
        """As `Tree.hidden` has it."""
        found = self._path(key)
        return self._tree.hidden(found, message) if self._tree is not None and found else message

    def _path(self, key: str) -> Path_:
        if self._tree is None:
            self._tree = self._read()
            self._known.update((dotted(path), path) for path in self._tree.where if path)
        while key and key not in self._known:
            shorter = re.sub(r"(?:^|\.)[^.\[]+$|\[\d+\]$", "", key)
            key = "" if shorter == key else shorter
        return self._known.get(key, ())


class Variables:
    """`expand`, which remembers what has come from where."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, str]] = {}
        """As `Tree.variables` has them."""

    def __call__(self, text: str) -> str:
        """The text with its variables replaced."""
        used: dict[str, str] = {}
        expanded = expand(text, used=used)
        if used:
            self.found[expanded] = used
        return expanded


def _texts(value: Any) -> Iterator[str]:
    """Every value within, as text."""
    if isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    else:
        yield str(value)


def _hidden(message: str, value: str, name: str) -> str:
    def quoted(part: re.Match[str]) -> str:
        # A message may quote a part of the value, or one that was normalized.
        if part[2].lower() in value.lower():
            return f"{part[1]}{name if part[2] in shown else '***'}{part[1]}"
        return part[0].replace(shown[0], name).replace(shown[1], name)

    shown = (repr(value)[1:-1], value)
    message = _QUOTED.sub(quoted, message)
    # What is so short is no secret, and may stand in any word.
    return message if len(value) < _SHORT else message.replace(value, name)


def expand(text: str, env: Mapping[str, str] = os.environ, used: dict[str, str] | None = None) -> str:
    """Replaces `${VAR}` and `${VAR:default}`; `$${` stands for itself. `used` gets values that the environment has."""

    def replaced(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        if match[1] is None:
            problem = "is no variable" if match[0].endswith("}") else "has no } at its end"
            raise ValueError(
                f"{match[0]!r} {problem} (write ${{NAME}} or ${{NAME:default}}; $${{ stands for ${{ itself)"
            )
        value = env.get(match[1]) or match[2]
        if value is None:
            raise ValueError(
                f"${{{match[1]}}} is not set in the environment (a default is written ${{{match[1]}:value}})"
            )
        if used is not None and env.get(match[1]):
            used[value] = f"${{{match[1]}}}"
        return value

    return _VARIABLE.sub(replaced, text)


def dotted(path: Path_) -> str:
    """A path as people write it: `routes[3].to`."""
    text = ""
    for part in path:
        if part == "[key]":  # pydantic's word for the name in front of the value
            continue
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        shown = part if part.isprintable() else repr(part)
        text += f".{shown}" if text else shown
    return text
