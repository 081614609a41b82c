"""
Turns kiagateway's `servers.toml` into our configuration: server names passed through, hosts routed.

Pure: text in, our configuration and notes out. The ports are kiagateway's; opening them is `cli.kiagateway`.
"""

import re
import tomllib
from collections.abc import Iterator
from typing import Any

from tidegate.config.names import address, host_pattern, server_name
from tidegate.config.tree import Tree
from tidegate.errors import ConfigError
from tidegate.importers.translation import Note, Translation, free_name, place

__all__ = ["HTTP", "HTTPS", "gateway"]

HTTP, HTTPS = "http", "https"
"""Our names of the two listeners."""

_TABLES = {"https_backends": (HTTPS, "sni"), "http_backends": (HTTP, "host")}

_IDLE = "a connection ends after 5 minutes without a byte; kiagateway cut it 5 minutes after its begin"
# A key of forty parts and more: to read one takes time by the square of them.
_LONG_KEY = re.compile(r"(?:(?<![^\s=,{\[.])[^\s=,{}\[\].#]+[ \t]*\.[ \t]*){40}")
_DEEP = 'nested too deeply (write tables of "NAME" = "HOST:PORT")'

_EACH = "each request is routed by its own Host, and upstreams see X-Forwarded-For, -Host and -Proto"


def gateway(text: str, name: str) -> Translation:
    """A gateway that does what kiagateway does with this file. Raises `ConfigError` with every mistake."""
    tree = _read(text, name)
    mistakes = [*_missing(tree)]
    notes = [Note(place(tree, key), f"`{key}` left out: kiagateway does not read it")
             for key in tree.data if key not in _TABLES]  # fmt: skip
    ours = Tree(
        data={
            "listeners": {
                HTTP: {"bind": ":80", "dynamic_endpoints": False},
                HTTPS: {"bind": ":443", "dynamic_endpoints": False, "tls": {}},
            },
            "no_route_status": 502,
            "routes": [],
            "timeouts": {
                "connect": 3, "handshake": 5, "head": 5, "response": 300, "idle": 300, "keep_alive": 300,
            },
            "limits": {"head_bytes": 32768},
        },
        name=name,
    )  # fmt: skip
    for table in _TABLES:
        if isinstance(tree.data.get(table), dict):
            _table(table, tree, ours, notes, mistakes)
    if mistakes:
        raise ConfigError(mistakes)
    notes.append(Note(name, _IDLE))
    if tree.data["http_backends"]:
        notes.append(Note(place(tree, "http_backends"), _EACH))
    return Translation(ours, tuple(notes))


def _missing(tree: Tree) -> Iterator[str]:
    split = " (before version 0.1.1 there was one table `backends`)" if "backends" in tree.data else ""
    for table in _TABLES:
        if table not in tree.data:
            yield f"{tree.name}: the table `{table}` is missing; kiagateway needs both, even if one is empty{split}"
        elif not isinstance(tree.data[table], dict):
            yield f'{place(tree, table)}: {table}: expected a table of "NAME" = "HOST:PORT"'


def _table(table: str, tree: Tree, ours: Tree, notes: list[Note], mistakes: list[str]) -> None:
    listener, key = _TABLES[table]
    entries = tree.data[table]
    taken = set[str]()
    for name, backend in entries.items():
        where = place(tree, table, name)
        shown = f'{table}."{name}"'
        try:
            normal = server_name(name) if key == "sni" else host_pattern(name)
        except ValueError as error:
            notes.append(Note(where, f"{shown} left out, it can never match: {error}"))
            continue
        if normal != name and normal in entries:
            notes.append(Note(where, f'{shown} left out: it means the same as "{normal}"'))
            continue
        if normal.startswith("*."):
            notes.append(Note(where, f"{shown} is a wildcard here; kiagateway took it word for word"))
        if not name.isascii():
            notes.append(Note(where, f'{shown} is "{normal}" here, as it is sent; kiagateway took it word for word'))
        try:
            found = _address(backend)
        except ValueError as error:
            mistakes.append(f"{where}: {shown}: {error}")
            continue
        routes = ours.data["routes"]
        called = free_name(f"{listener}-{normal.strip('[]')}", taken)
        taken.add(called)
        ours.where["routes", len(routes)] = where
        routes.append({"name": called, "listeners": [listener], key: normal, "to": {"addresses": [found]}})


def _address(value: object) -> str:
    try:
        if not isinstance(value, str) or "://" in value:
            raise ValueError
        return str(address(value)).removeprefix("http://")
    except ValueError:
        raise ValueError(f"{value!r} is no backend (write HOST:PORT)") from None


def _read(text: str, name: str) -> Tree:
    """The file, with the line of each key as far as it stands on a line of its own."""
    long = _LONG_KEY.search(text)
    if long is not None:
        raise ConfigError(f"{name}:{text.count(chr(10), 0, long.start()) + 1}: {_DEEP}")
    try:
        data: dict[str, Any] = tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{name}: {_DEEP}") from None
    except tomllib.TOMLDecodeError as error:
        found = re.fullmatch(r"(.*) \(at line (\d+), column \d+\)", str(error))
        problem = found[1] if found else str(error)
        at = found[2] if found else str(len(text.splitlines()) or 1)
        raise ConfigError(f"{name}:{at}: {problem[:1].lower()}{problem[1:]}") from None
    tree = Tree(data=data, name=name)
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            written = tomllib.loads(line)
        except (tomllib.TOMLDecodeError, RecursionError):
            continue
        paths = list(_paths(written))
        if line.lstrip().startswith("["):
            table = paths[-1] if paths else ()
            tree.where.setdefault(table, f"{name}:{number}")
            continue
        for path in paths:
            tree.where.setdefault((*table, *path), f"{name}:{number}")
    return tree


def _paths(written: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for key, value in written.items():
        yield (key,)
        if isinstance(value, dict):
            for below in _paths(value):
                yield (key, *below)
