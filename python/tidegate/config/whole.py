"""
A configuration from what was written, or every mistake of it at once.

What is wrong in itself and between parts is told by `load` and `checks`, and what stands outside, files and addresses,
when a snapshot is made. Where there will be no snapshot, because something else is wrong, it is looked at here.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from tidegate.config.auth import Jwks, SecretSource
from tidegate.config.binds import resolve_bind
from tidegate.config.connect import connect
from tidegate.config.credentials import readable
from tidegate.config.files import Checked
from tidegate.config.knobs import FileName, Model, child_model, plain_type
from tidegate.config.load import validate
from tidegate.config.looks import Looks
from tidegate.config.model import Connect, ForwardPort, Gateway, Offer
from tidegate.config.snapshot import offer
from tidegate.config.tls import Certificate, ClientTls, ServerTls
from tidegate.config.traffic import certificate, client_tls, server_tls, upstream
from tidegate.config.tree import Path_, Tree, dotted
from tidegate.config.upstreams import Addresses
from tidegate.config.values import bind_parts

__all__ = ["whole"]

M = TypeVar("M", bound=Model)

_NAMES_FILES = (Connect, Offer, Addresses, ServerTls, Certificate, ClientTls, SecretSource, Jwks)
_FILE: TypeAdapter[str] = TypeAdapter(FileName)


def whole(model: type[M], tree: Tree, files: Looks | None = None) -> M:
    """The model, or a `ConfigError` with every mistake, each with its place. `files` gets those that are named."""
    return validate(model, tree, files, _outside)


def _outside(model: type[Model], tree: Tree) -> list[str]:
    """What is wrong with the files and addresses that are named by whatever is right in itself."""
    checked = Checked(tree.places())
    look = _Look(checked, {"base": tree.base})
    look.at(model, tree.data, ())
    if model is Gateway:
        look.error_pages(tree.data.get("error_pages"))
    # What stands outside of lists and names, the admin listener, is first, as in a snapshot.
    checked.differ(sorted(look.binds, key=lambda each: each[0] != "admin.bind"))
    checked.differ(look.datagrams)
    return checked.mistakes


class _Look:
    """Walks what was written beside its model, and looks at each part that is right in itself."""

    def __init__(self, checked: Checked, context: dict[str, Any]) -> None:
        self.checked = checked
        self.context = context
        self.binds: list[tuple[str, list[str] | None]] = []
        # Ports for datagrams have numbers of their own.
        self.datagrams: list[tuple[str, list[str] | None]] = []

    def at(self, model: type[BaseModel], written: Any, path: Path_) -> None:
        """Looks at a part, or at what is right within it."""
        if not isinstance(written, dict):
            return
        if "bind" in model.model_fields:
            self._bind(model, written, path)
        if issubclass(model, _NAMES_FILES):
            part = self._sound(model.model_validate, written)
            if part is not None:
                self._files(part, dotted(path))
                return
        for key, child, item in _within(model, written):
            self.at(child, item, (*path, *key))

    def error_pages(self, written: Any) -> None:
        """Looks at the pages of a gateway."""
        for kind in ("html", "json"):
            name = written.get(kind) if isinstance(written, dict) else None
            self.checked.file(f"error_pages.{kind}", self._sound(_FILE.validate_python, name))

    def _bind(self, model: type[BaseModel], written: dict[str, Any], path: Path_) -> None:
        address = written.get("bind", model.model_fields["bind"].default)
        if model is ForwardPort and str(address).isdigit():
            address = f"localhost:{address}"
        try:
            bind_parts(address)
        except ValueError:
            return  # missing, or wrong in itself
        key = dotted((*path, "bind"))
        binds = self.datagrams if written.get("kind") == "udp" else self.binds
        binds.append((key, self.checked.call(key, resolve_bind, address)))

    def _files(self, part: Any, key: str) -> None:
        match part:
            case Connect():
                connect(part, self.checked, os.environ)
            case Offer():
                offer(part, key, self.checked)
            case Addresses():
                upstream("", part, key, self.checked)
            case ServerTls():
                server_tls(part, key, self.checked)
            case Certificate():
                certificate(part, key, self.checked)
            case ClientTls():
                client_tls(part, key, self.checked)
            case SecretSource() | Jwks():
                readable(part, key, self.checked)

    def _sound(self, validated: Callable[..., Any], written: Any) -> Any:
        try:
            return validated(written, context=self.context)
        except ValidationError:
            return None


def _within(model: type[BaseModel], written: dict[str, Any]) -> Iterator[tuple[Path_, type[BaseModel], Any]]:
    """The parts of a part: where each stands, its model and what was written."""
    for name, field in model.model_fields.items():
        child, item = child_model(field), written.get(name)
        if child is None:
            continue
        many = get_origin(plain_type(field))
        if many is dict:
            yield from (((name, each), child, value) for each, value in item.items()) if isinstance(item, dict) else ()
        elif many is tuple:
            listed = item if isinstance(item, list) else []
            yield from (((name, position), child, value) for position, value in enumerate(listed))
        else:
            # A section that nobody wrote has its defaults.
            yield (name,), child, item if item is not None or field.default is None else {}
