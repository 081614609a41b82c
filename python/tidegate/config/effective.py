"""
Every value in force and where it comes from: what `config show` prints.

Pure: a configuration and what was written go in, text comes out. Secrets are masked.
"""

import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import yaml
from pydantic import BaseModel, SecretStr

from tidegate.config.auth import Auth, SecretSource
from tidegate.config.leading import ListenerTo
from tidegate.config.listeners import DynamicEndpoints, Listener
from tidegate.config.model import Agent, Forward, Gateway
from tidegate.config.tls import ServerTls
from tidegate.config.tree import Tree
from tidegate.config.upstreams import Addresses, Health, To
from tidegate.config.values import shown_url

__all__ = ["as_json", "as_yaml"]

Path = tuple[str | int, ...]
MASK = "***"

_SECRET = re.compile(r"auth|token|secret|password|cookie|key|signature", re.IGNORECASE)
_IN_URL = re.compile(r"(?<=//)[^/@]*@")
_DEFAULT = "default"
_COMMANDS = ("command", "token_command")


def as_yaml(config: Gateway | Agent | Forward, tree: Tree) -> str:
    """YAML with the origin of each value behind it."""
    return "".join(f"{line}\n" for line in _lines(_Values(config, tree).of(config, ()), 0))


def as_json(config: Gateway | Agent | Forward, tree: Tree) -> dict[str, Any]:
    """`configuration`, the values as in a file, and `origins` by key."""
    values = _Values(config, tree).of(config, ())
    return {"configuration": _plain(values), "origins": dict(_origins(values, ""))}


class _Leaf:
    """A value and its origin."""

    def __init__(self, value: Any, origin: str) -> None:
        self.value = value
        self.origin = origin


class _Values:
    """Walks a configuration beside what was written."""

    def __init__(self, root: BaseModel, tree: Tree) -> None:
        self.root = root
        self.tree = tree

    def of(self, value: Any, path: Path) -> Any:
        """Dictionaries and lists of leaves."""
        if isinstance(value, DynamicEndpoints) and not value.allow:
            return _Leaf(value.allow is None, self._origin(path))
        if isinstance(value, Auth) and value.is_none:
            return _Leaf("none", self._origin(path))
        if isinstance(value, SecretSource) and value.inline is not None:
            return _Leaf(MASK, self._origin(path))
        if isinstance(value, ListenerTo) and value.rules:
            return self.of(value.rules, path)
        if isinstance(value, Health) and not value.model_fields_set:
            return _Leaf("tcp", self._origin(path))
        if isinstance(value, BaseModel):
            return self._model(value, path)
        if isinstance(value, Mapping):
            return {key: self.of(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, tuple) and path[-1] in _COMMANDS:
            # Its words may hold a secret.
            words = [value[0], *([MASK] if len(value) > 1 else [])]
            return [_Leaf(word, self._origin(path)) for word in words]
        if isinstance(value, tuple):
            return [self.of(item, (*path, position)) for position, item in enumerate(value)]
        return _Leaf(_masked(value, path), self._origin(path))

    def _model(self, model: BaseModel, path: Path) -> Any:
        # Of one thing among many only what was written says something; the rest would hide it.
        one_of_many = any(isinstance(part, int) for part in path)
        found = {}
        for name, field in type(model).model_fields.items():
            written = name in model.model_fields_set
            value = getattr(model, name)
            if value is None:
                value = self._in_force(model, name)
            if value in (None, (), {}, "") or (not written and (one_of_many or _idle(model, name))):
                continue
            key = field.alias or name
            inner = self.of(value, (*path, key))
            if inner or isinstance(inner, _Leaf):
                found[key] = inner
        return found or (_Leaf({}, self._origin(path)) if path and self._origin(path) != _DEFAULT else {})

    def _in_force(self, model: BaseModel, name: str) -> Any:
        """What the start makes of a value that nobody gave."""
        if isinstance(model, Gateway) and name == "workers":
            return len(os.sched_getaffinity(0))
        if isinstance(model, Gateway) and name == "node":
            return socket.gethostname()
        if isinstance(model, Listener) and name == "dynamic_endpoints" and isinstance(self.root, Gateway):
            return not self.root.routes if model.kind == "http" else None
        return False if isinstance(model, Addresses) and name == "ejection" else None

    def _origin(self, path: Path) -> str:
        """Where the value was written, or the short form that stands for it."""
        node: Any = self.tree.data
        written: Path = ()
        for part in path:
            key = _key(node, part)
            if key is None:
                return _DEFAULT if isinstance(node, (dict, list)) else self._place(written)
            node, written = node[key], (*written, key)
        return self._place(written)

    def _place(self, path: Path) -> str:
        known = (self.tree.where.get(path[:length]) for length in range(len(path), 0, -1))
        return next((place for place in known if place is not None), _DEFAULT)


def _key(node: Any, part: str | int) -> str | int | None:
    """The key as it was written; names of header fields arrive in lower case."""
    if isinstance(node, list):
        return part if isinstance(part, int) and part < len(node) else None
    if not isinstance(node, dict):
        return None
    return part if part in node else next((key for key in node if key.lower() == part), None)


def _idle(model: BaseModel, name: str) -> bool:
    """True for a key that means nothing beside the others."""
    if isinstance(model, Listener):
        if name in ("idle", "sessions"):
            return model.kind != "udp"
        if name in ("transports", "quic_at"):
            return model.kind not in ("tunnel", "http")
        return name == "quic_tunnel" and model.kind != "tunnel"
    if isinstance(model, Auth):
        return True
    if isinstance(model, To):
        return not model.addresses
    return isinstance(model, ServerTls) and name == "client_certificate" and model.client_ca is None


def _masked(value: Any, path: Path) -> Any:
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, str):
        # Fields that are sent may hold anything; those of a request that must match are nearly as bad.
        if any(part in ("set", "add", "headers") for part in path[:-1]) and _SECRET.search(str(path[-1])):
            return MASK
        if path[-2:] == ("jwks", "url"):
            value = shown_url(value)
        return _IN_URL.sub(f"{MASK}@", value).replace("${", "$${")
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _lines(value: Any, indent: int) -> Iterator[str]:
    pad = "  " * indent
    for key, item in value.items():
        word = _word(key)
        if isinstance(item, _Leaf):
            yield f"{pad}{word}: {_word(item.value)}  # {item.origin}"
        elif isinstance(item, dict):
            yield f"{pad}{word}:"
            yield from _lines(item, indent + 1)
        else:
            yield f"{pad}{word}:"
            yield from _items(item, indent + 1)


def _items(values: list[Any], indent: int) -> Iterator[str]:
    pad = "  " * indent
    for item in values:
        if isinstance(item, _Leaf):
            yield f"{pad}- {_word(item.value)}  # {item.origin}"
        else:
            first, *rest = _lines(item, indent + 1)
            yield f"{pad}- {first.lstrip()}"
            yield from rest


def _word(value: Any) -> str:
    """One YAML value in one line."""
    if isinstance(value, str):
        shown = yaml.safe_dump(value, width=10**6, allow_unicode=True).splitlines()
        # A text of several lines, and one that YAML would end with `...`, is quoted.
        plain = (len(shown) == 2 and shown[1] == "...") or len(shown) == 1
        return shown[0] if plain else json.dumps(value, ensure_ascii=False)
    if isinstance(value, float):
        return f"{Decimal(repr(value)):f}"  # a file has no exponents without a dot
    return json.dumps(value)


def _plain(value: Any) -> Any:
    if isinstance(value, _Leaf):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value]


def _origins(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, _Leaf):
        yield key, value.origin
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _origins(item, f"{key}.{name}" if key else name)
    else:
        for position, item in enumerate(value):
            yield from _origins(item, f"{key}[{position}]")
