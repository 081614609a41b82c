"""
Where a configuration comes from, and which source wins: option, then environment, then file, then default.

A `Source` can be read again, which is what a reload does. No file is searched for, except an agent's own.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from tidegate.config.knobs import Knob, Model, knobs
from tidegate.config.load import parse, read_text
from tidegate.config.looks import Looks, look
from tidegate.config.model import SHORTCUTS, Agent, Gateway, default_listeners
from tidegate.config.tree import Tree, Variables
from tidegate.config.whole import whole
from tidegate.errors import ConfigError

__all__ = ["AGENT_FILE", "Source", "find_file", "options"]

M = TypeVar("M", bound=Model)

_RIVALS = ("token", "token_file", "token_command")
"""Ways to say the same; the strongest source says which."""

AGENT_FILE = Path("~/.config/tidegate/agent.yaml")


def options(model: type[Model]) -> Iterator[Knob]:
    """Every knob of a role that has an option."""
    if model is Gateway:
        yield from SHORTCUTS
    yield from knobs(model)


def find_file(model: type[Model], given: str | None, env: Mapping[str, str]) -> Path | None:
    """The file in force: `--config`, `TIDEGATE_CONFIG`, and for an agent its own file where there is one."""
    if given or env.get("TIDEGATE_CONFIG"):
        return Path(given or env["TIDEGATE_CONFIG"])
    if issubclass(model, Agent):
        own = AGENT_FILE.expanduser()
        return own if own.is_file() else None
    return None


@dataclass(frozen=True)
class Source(Generic[M]):
    """One configuration, from everything that has a say in it."""

    model: type[M]
    """Whose configuration it is."""
    file: Path | None = None
    """The file, where there is one."""
    flags: Mapping[str, Any] = field(default_factory=dict)
    """Options that were given, by their flag; a list where one was repeated."""
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    """The environment."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """What stood on the command line besides options; it takes the place of whole sections."""

    def read(self, files: Looks | None = None) -> M:
        """Reads everything. Raises `ConfigError` with every mistake. `files` gets every file that has a say in it."""
        return whole(self.model, self.tree(files), files)

    def again(self, files: Looks) -> M:
        """Reads everything while it is in force: a file that has been emptied is a mistake, and not a wish."""
        if self.file is not None and self.file.exists() and not self.file.is_file():
            raise ConfigError(f"{self.file}: is no file that can be read again")
        return whole(self.model, self.tree(files, may_be_empty=False), files)

    def tree(self, files: Looks | None = None, *, may_be_empty: bool = True) -> Tree:
        """What was written, all sources together, before it is checked."""
        tree = self.written(files, may_be_empty=may_be_empty)
        for known, value, where in self._overrides():
            absolute = _absolute(known, value)
            if known in SHORTCUTS:
                _set_listener(tree, known, absolute, where)
                continue
            tree.set(known.path, absolute, where)
            if known.path[-1] in _RIVALS:
                _replace_rivals(tree, known)
        for section, content in self.fixed.items():
            tree.set((section,), content, "command line")
        return tree

    def written(self, files: Looks | None = None, *, may_be_empty: bool = True) -> Tree:
        """What the file says, without the sources that are stronger."""
        if self.file is None:
            return Tree(base=os.getcwd())
        if files is not None:
            files[str(self.file.absolute())] = look(str(self.file))
        variables = Variables()
        tree = parse(read_text(self.file), str(self.file), variables)
        tree.variables = variables.found
        if not tree.where and not may_be_empty:
            raise ConfigError(f"{self.file}: is empty (write {{}} where every default is meant)")
        tree.base = str(self.file.absolute().parent)
        return tree

    def known(self) -> Iterator[Knob]:
        """What options and the environment may say."""
        return options(self.model)

    def __str__(self) -> str:
        """Which sources are in force, for the start line."""
        parts = [str(self.file)] if self.file else []
        parts += sorted({where for _, _, where in self._overrides()})
        return ", ".join(parts) or "defaults"

    def _overrides(self) -> Iterator[tuple[Knob, Any, str]]:
        for known in self.known():
            if self.flags.get(known.flag) is not None:
                yield known, self.flags[known.flag], known.flag
            elif self.env.get(known.env):
                rivals = _RIVALS if known.path[-1] in _RIVALS else ()
                if all(self.flags.get(f"--{rival.replace('_', '-')}") is None for rival in rivals):
                    yield known, self.env[known.env], known.env


def _absolute(known: Knob, value: Any) -> Any:
    """File names in options start from the current folder, not from that of the file."""
    if "FILE" not in known.label or value in ("stdout", "off", ""):
        return value
    return os.path.abspath(os.path.expanduser(str(value)))


def _replace_rivals(tree: Tree, known: Knob) -> None:
    """A token of a stronger source takes the place of a weaker one's; two of the same source stay a mistake."""
    for rival in _RIVALS:
        place = (*known.path[:-1], rival)
        if rival != known.path[-1] and not tree.where.get(place, "").startswith(("--", "TIDEGATE_")):
            tree.data[known.path[0]].pop(rival, None)


def _set_listener(tree: Tree, known: Knob, address: Any, where: str) -> None:
    """`--proxy` and `--agents` name a listener by what it is for."""
    _, name, kind = known.path
    if "listeners" not in tree.data:
        tree.data["listeners"] = {
            each: {"bind": listener.bind, "kind": listener.kind} for each, listener in default_listeners().items()
        }
    listeners = tree.data["listeners"]
    if not isinstance(listeners, dict):
        return  # told as a mistake when it is checked
    if name not in listeners:
        fitting = [
            each for each, value in listeners.items() if isinstance(value, dict) and value.get("kind", "http") == kind
        ]
        if len(fitting) > 1:
            raise ConfigError(
                f"{where}: which listener is meant? {', '.join(fitting)} are of kind {kind}; name one `{name}`"
            )
        if fitting:
            name = fitting[0]
        else:
            listeners[name] = {"kind": kind}
    tree.set(("listeners", name, "bind"), address, where)
