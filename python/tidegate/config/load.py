"""
Reads a YAML file into a tree that remembers its lines, and a tree into a model, telling every mistake at once.

The tree is `tree`; what a key means is `model`; which source wins is `sources`.
"""

import contextlib
import difflib
import gc
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, get_origin

import yaml
from pydantic import BaseModel, SecretStr, ValidationError

from tidegate.config.knobs import Model, Parts, child_model, plain_type
from tidegate.config.looks import Looks
from tidegate.config.tree import UNREAD, Expand, Path_, Tree, dotted, expand
from tidegate.errors import ConfigError

__all__ = ["dump", "line_of", "parse", "read_text", "uncollected", "validate"]

M = TypeVar("M", bound=Model)

_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_CONTROL: re.Pattern[str] = yaml.reader.Reader.NON_PRINTABLE
_TEXT_TAG = "tag:yaml.org,2002:str"
_DEEPEST = 40
# So deep the libraries of YAML go without a look: they recurse, and the process ends where its stack does.
_HARMLESS = 1_000
_MOST_REPEATED = 10_000
_MOST_TAKEN = 1_000_000


# libyaml is several times as fast, and not in every build of PyYAML.
_FastLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_FastLoader):  # type: ignore[misc]
    """Composes nodes only; what a word stands for is decided here, not by YAML's many rules."""

    def resolve(self, *_: object) -> str:
        return ""

    def descend_resolver(self, *_: object) -> None: ...

    def ascend_resolver(self) -> None: ...


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """
    Leaves out the search for garbage in cycles.

    Ten thousand routes are half a million objects and no garbage; to look for it takes twice as long as to read them.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def read_text(path: Path) -> str:
    """The text of a configuration file."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read it: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None


@uncollected()
def parse(text: str, name: str, expanded: Expand | None = expand) -> Tree:
    """A tree from YAML. `expanded` is applied to values, never to keys or structure."""
    _refuse_control_characters(text, name)
    try:
        _refuse_depth(text, name)
        root = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "is no YAML"
        if mark and "${" in text.splitlines()[min(mark.line, len(text.splitlines()) - 1)]:
            problem += " (between braces or brackets, ${...} needs quotes)"
        raise ConfigError(f"{name}:{mark.line + 1}: {problem}" if mark else f"{name}: {problem}") from None
    tree = Tree(name=name)
    if root is None:
        return tree
    reader = _Reader(tree, expanded)
    data = reader.value(root, ())
    if not isinstance(data, dict):
        raise ConfigError(tree.mistakes or f"{name}: expected keys and values, such as `log: {{level: info}}`")
    tree.data = data
    return tree


def _refuse_control_characters(text: str, name: str) -> None:
    """YAML holds none, and its libraries do not say where one stands."""
    found = _CONTROL.search(text)
    if found is not None:
        line = text.count("\n", 0, found.start()) + 1
        what = f"the control character U+{ord(found[0]):04X}"
        raise ConfigError(f"{name}:{line}: holds {what} (it may be a binary file)")


def _refuse_depth(text: str, name: str) -> None:
    """Refuses what is nested too deeply to be composed."""
    if sum(map(text.count, "[{-?")) <= _HARMLESS:
        return  # whatever is opened, is opened by one of these, or by a longer indentation
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _HARMLESS:
                line = event.start_mark.line + 1 if event.start_mark else 0
                raise ConfigError(f"{name}:{line}: nested too deeply")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Reader:
    """Walks the nodes of a file. Words stay text, except true, false, null and numbers written without quotes."""

    def __init__(self, tree: Tree, expanded: Expand | None) -> None:
        self.tree = tree
        self.expanded = expanded
        self._seen: set[int] = set()
        self._repeated = 0
        self._mappings: dict[int, tuple[Any, Path_]] = {}
        """What was read of mappings, and where, for those that take over their keys."""
        self._open: set[int] = set()
        self._taken = 0

    def value(self, node: yaml.Node, path: Path_) -> Any:
        line = node.start_mark.line + 1
        self.tree.where.setdefault(path, f"{self.tree.name}:{line}")
        if len(path) > _DEEPEST:
            raise ConfigError([*self.tree.mistakes, f"{self.tree.name}:{line}: nested too deeply"])
        # Aliases of aliases grow without end in a few lines.
        self._repeated += id(node) in self._seen
        self._seen.add(id(node))
        if node.tag and node.tag != _TEXT_TAG:
            short = node.tag.replace("tag:yaml.org,2002:", "!!")
            return self._unread(path, line, f"the tag {short} is not known here (write the value without it)")
        if self._repeated > _MOST_REPEATED:
            raise ConfigError(f"{self.tree.name}:{line}: aliases repeat more than {_MOST_REPEATED:,} values")
        if isinstance(node, yaml.MappingNode):
            found = self._mapping(node, path)
            self._mappings[id(node)] = found, path
            return found
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*path, index)) for index, child in enumerate(node.value)]
        return self._scalar(node, path, line)

    def _unread(self, path: Path_, line: int, message: str) -> Any:
        """Notes a mistake in the place of a value."""
        self.tree.mistakes.append(f"{self.tree.name}:{line}: {dotted(path)}{': ' if path else ''}{message}")
        self.tree.unread.add(path)
        return UNREAD

    def _mapping(self, node: yaml.MappingNode, path: Path_) -> Any:
        own: dict[str, tuple[str, yaml.Node]] = {}
        taken: list[tuple[int, yaml.Node]] = []
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.tree.mistakes.append(f"{self.tree.name}:{line}: a key must be a word")
                continue
            key = str(key_node.value)
            if key == "<<" and not key_node.style:
                several = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                taken += [(line, each) for each in several]
            elif key in own:
                self.tree.mistakes.append(f"{self.tree.name}:{line}: {dotted((*path, key))} is written twice")
            else:
                own[key] = f"{self.tree.name}:{line}", value_node
        found: dict[str, Any] = {}
        self._open.add(id(node))
        # The last first: what is read later wins, and the place of a key with it.
        for line, other in reversed(taken):
            keys = self._take_over(other, path, line)
            if keys is UNREAD:
                self.tree.unread.add(path)
                return UNREAD
            found.update(keys)
        for key, (place, value_node) in own.items():
            self.tree.where[(*path, key)] = place
            found[key] = self.value(value_node, (*path, key))
        self._open.discard(id(node))
        return found

    def _take_over(self, node: yaml.Node, path: Path_, line: int) -> Any:
        """What `<<` takes over from another mapping, which is read once however often that happens."""
        if not isinstance(node, yaml.MappingNode):
            return self._unread(path, line, "`<<` takes over the keys of mappings (`<<: *name`, `<<: [*one, *two]`)")
        if id(node) in self._open:
            return self._unread(path, line, "`<<` takes over the keys of a mapping that it stands in itself")
        if id(node) not in self._mappings:
            self.value(node, path)
        keys, source = self._mappings[id(node)]
        if keys is UNREAD:
            return UNREAD
        self._taken += len(keys)
        if self._taken > _MOST_TAKEN:
            many = f"merge keys take over more than {_MOST_TAKEN:,} keys"
            raise ConfigError([*self.tree.mistakes, f"{self.tree.name}:{line}: {many}"])
        for key in keys:
            self.tree.where[(*path, key)] = self.tree.where[(*source, key)]
        return keys

    def _scalar(self, node: yaml.Node, path: Path_, line: int) -> Any:
        text = str(node.value)
        if self.expanded is not None:
            try:
                text = self.expanded(text)
            except ValueError as error:
                return self._unread(path, line, str(error))
        if getattr(node, "style", None) or node.tag:  # quoted, a block of text, or said to be text
            return text
        if text in ("", "~", "null"):
            return None
        if text in ("true", "false"):
            return text == "true"
        if _INT.fullmatch(text):
            return int(text) if len(text) < 19 else text
        return float(text) if _FLOAT.fullmatch(text) else text


@uncollected()
def validate(
    model: type[M],
    tree: Tree,
    files: Looks | None = None,
    outside: Callable[[type[M], Tree], Iterable[str]] = lambda *_: (),
) -> M:
    """
    The model, or a `ConfigError` with every mistake, each with its place.

    `files` gets those that are named. Where something is wrong, `outside` tells what else is, beyond what is written.
    """
    context = {"base": tree.base, "files": files}
    told = list(tree.mistakes)
    config: M | None = None
    broken: set[Path_] = set()
    try:
        config = model.model_validate(tree.data, context=context)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            if not _told_already(tree, dict(item)):
                told.append(_mistake(model, tree, dict(item)))
            broken.update(tuple(item["loc"])[:length] for length in (0, 1, 2))

    def value(key: str) -> Any:
        if config is not None:
            return _by_place(getattr(config, key))
        return _sound(model, key, tree.data, broken, context)

    parts = Parts(value=value, where=lambda path: _place(tree, path))
    told += [_told(tree, path, message) for path, message in model.between(parts)]
    if config is None or told:
        told += outside(model, tree)
        raise ConfigError(sorted(told, key=lambda mistake: _line(mistake, tree.name)))
    return config


def _written(item: dict[str, Any]) -> Path_:
    """Where a mistake was written; the rules of a listener stand below `to` without a key."""
    path: Path_ = tuple(item["loc"])
    return (*path[:3], *path[4:]) if path[2:4] == ("to", "rules") and path[0] == "listeners" else path


def _told_already(tree: Tree, item: dict[str, Any]) -> bool:
    path = _written(item)
    return item["type"] != "extra_forbidden" and any(path[:length] in tree.unread for length in range(len(path) + 1))


def _line(mistake: str, name: str) -> int:
    """The line that a mistake begins with; what stands in no file comes last."""
    return line_of(name + ":" + mistake.removeprefix(f"{name}:").partition(":")[0])


def line_of(place: str) -> int:
    """The line of a place such as `tidegate.yaml:7`; what stands in no file comes last."""
    number = place.rpartition(":")[2]
    return int(number) if number.isdigit() else sys.maxsize


def _by_place(value: Any) -> Any:
    return dict(enumerate(value)) if isinstance(value, tuple) else value


def _sound(model: type[BaseModel], key: str, data: dict[str, Any], broken: set[Path_], context: dict[str, Any]) -> Any:
    """One value of a configuration that is wrong somewhere; what is wrong in itself is None."""
    field = model.model_fields[key]
    if data.get(key) is None:
        return _by_place(field.get_default(call_default_factory=True))
    written, child = data[key], child_model(field)
    if child is None:
        return None if (key,) in broken else written
    many = get_origin(plain_type(field))
    if many not in (dict, tuple):
        return None if (key,) in broken else child.model_validate(written, context=context)
    if not isinstance(written, dict if many is dict else list):
        return None
    items = written.items() if isinstance(written, dict) else enumerate(written)
    return {
        place: None if (key, place) in broken else child.model_validate(item, context=context) for place, item in items
    }


def _mistake(model: type[BaseModel], tree: Tree, item: dict[str, Any]) -> str:
    path = _written(item)
    kind = item["type"]
    if kind == "extra_forbidden":
        message = _unknown(_model_at(model, item["loc"][:-1]), str(path[-1]))
        path_told = path[:-1]
    else:
        path_told = path
        message = "is missing" if kind == "missing" else _words(item)
    return _told(tree, path, message, path_told)


def _told(tree: Tree, path: Path_, message: str, shown: Path_ | None = None) -> str:
    place = _place(tree, path)
    message = tree.hidden(path, message)
    shown = path if shown is None else shown
    if not place.startswith(("--", "TIDEGATE_")) and shown:
        return f"{place}: {dotted(shown)}: {message}"
    return f"{place}: {message}"


def _place(tree: Tree, path: Path_) -> str:
    return next((tree.where[path[:n]] for n in range(len(path), -1, -1) if path[:n] in tree.where), tree.name)


def _words(item: dict[str, Any]) -> str:
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    if item["type"] in _KINDS:
        return _KINDS[item["type"]]
    message = str(item["msg"])
    return message[:1].lower() + message[1:]


# Where the library says what Python would call it.
_KINDS = {
    "model_type": "expected keys and values, such as {key: value}",
    "dict_type": "expected names and values, such as {name: value}",
    "tuple_type": "expected a list, such as [one, two]",
}


def _unknown(model: type[BaseModel] | None, key: str) -> str:
    later: dict[str, str] = getattr(model, "later", {})
    if key in later:
        return f"`{key}` {later[key]}"
    known = [field.alias or name for name, field in model.model_fields.items()] if model else []
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known)}"
    return f"unknown key `{key}` ({hint})"


def _model_at(model: type[BaseModel], path: Path_) -> type[BaseModel] | None:
    """The model whose keys stand at this path; names and list positions are passed over."""
    current: type[BaseModel] | None = model
    for part in path:
        known = current.model_fields.get(str(part)) if current is not None else None
        if known is not None:
            current = child_model(known)
    return current


def dump(config: BaseModel) -> str:
    """The YAML of what was set. It holds tokens in the clear: it is for the one who wrote them."""
    data = _plain(config.model_dump(exclude_unset=True, by_alias=True))
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120) if data else "{}\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.get_secret_value() if isinstance(value, SecretStr) else value
