"""
Turns NanoProxy's configuration file and environment into ours: upstreams, and rules in the order of the file.

Pure: text and settings in, our configuration and notes out. Reading the file is `source`, the command `cli.nanoproxy`.
"""

import base64
import binascii
import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

import yaml
from pydantic import BaseModel, BeforeValidator, Field, model_validator

from tidegate.config.knobs import Model
from tidegate.config.load import parse, validate
from tidegate.config.names import address, host_pattern
from tidegate.config.tree import Tree
from tidegate.config.values import port_number
from tidegate.errors import ConfigError
from tidegate.importers.translation import Note, Translation, free_name, place

__all__ = ["NO_RULE", "Settings", "gateway"]

NO_RULE = "No matching rule for host & path"
"""What NanoProxy says where no rule matches."""

_PLAIN = {"content-type": "text/plain; charset=utf-8"}
_ROUTES = "/.nanoproxy"

Text = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int | float) else value)]


class Upstream(Model):
    """A server."""

    name: Text
    host: Text = Field(min_length=1)
    port: int = Field(default=0, ge=0, le=65535)
    scheme: Literal["http", "https", ""] = ""
    noHostRewrite: bool = False  # noqa: N815  the words are NanoProxy's

    @model_validator(mode="after")
    def _is_an_address(self) -> Self:
        address(self.address)
        return self

    @property
    def address(self) -> str:
        """As our file writes it."""
        scheme = self.scheme or "http"
        host = f"[{self.host}]" if ":" in self.host and not self.host.startswith("[") else self.host
        return f"{scheme}://{host}:{self.port or (443 if scheme == 'https' else 80)}"


class Rule(Model):
    """What a request must be, and the upstream it goes to."""

    path: Text = ""
    upstream: Text
    matchMode: Text = ""  # noqa: N815
    host: Text = ""
    stripPath: bool = False  # noqa: N815


class File(Model):
    """The whole file."""

    upstreams: tuple[Upstream, ...] = ()
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class Settings:
    """What NanoProxy takes from its environment."""

    port: int = 8080
    """PORT."""
    timeout: int = 5
    """TIMEOUT, in seconds."""
    debug: bool = False
    """DEBUG holds anything."""
    cert_path: str = ""
    """CERT_PATH: a folder with `cert.pem` and `key.pem`."""
    skip_verify: bool = False
    """TLS_SKIP_VERIFY holds anything."""
    content: bytes | None = None
    """CONFIG_B64, decoded: it takes the place of the file."""

    @classmethod
    def of(cls, env: Mapping[str, str]) -> "Settings":
        """The settings of an environment. Raises `ConfigError` with every mistake."""
        mistakes = []
        port, timeout, content = cls.port, cls.timeout, None
        try:
            port = port_number(env.get("PORT") or str(cls.port))
        except ValueError as error:
            mistakes.append(f"PORT: {error}")
        try:
            timeout = int(env.get("TIMEOUT") or cls.timeout)
            if timeout < 1:
                raise ValueError
        except ValueError:
            mistakes.append(f"TIMEOUT: {env['TIMEOUT']!r} is no number of seconds, 1 or more")
        try:
            content = base64.b64decode(env["CONFIG_B64"], validate=True) if env.get("CONFIG_B64") else None
        except binascii.Error:
            mistakes.append("CONFIG_B64: is no Base64")
        if mistakes:
            raise ConfigError(mistakes)
        return cls(
            port=port,
            timeout=timeout,
            debug=bool(env.get("DEBUG")),
            cert_path=env.get("CERT_PATH", ""),
            skip_verify=bool(env.get("TLS_SKIP_VERIFY")),
            content=content,
        )


def gateway(text: str, name: str, settings: Settings, instance: str) -> Translation:
    """A gateway that does what NanoProxy does; `instance` is this machine's name, for `X-Proxy-Instance`."""
    tree = parse(text, name, expanded=None)
    notes: list[Note] = []
    if not tree.where:
        notes.append(Note(name, "is empty or not there: every request gets 404 until it is written"))
    notes += [*_unknown(tree, (), tree.data, File)]
    for key, model in (("upstreams", Upstream), ("rules", Rule)):
        entries = tree.data.get(key)
        for position, entry in enumerate(entries if isinstance(entries, list) else []):
            if isinstance(entry, dict):
                notes += _unknown(tree, (key, position), entry, model)
    file = validate(File, tree)

    ours = Tree(data={"routing": "first", "listeners": {"proxy": _listener(settings)}}, name=name)
    names = _upstreams(file, tree, ours, notes, settings)
    upstreams = {each.name: each for each in file.upstreams}
    ours.data["routes"] = _own_routes(file, settings)
    for position, rule in enumerate(file.rules):
        route = _route(rule, position, tree, names, notes)
        if route is not None:
            if upstreams[rule.upstream].noHostRewrite:
                route["host_header"] = "rewrite"
            route["response_headers"] = {"set": {"x-proxy": "tidegate", "x-proxy-instance": instance}}
            ours.where["routes", len(ours.data["routes"])] = place(tree, "rules", position)
            ours.data["routes"].append({**route, "to": {"upstream": names[rule.upstream]}})
    ours.data["routes"].append(_respond("no-rule", None, 404, NO_RULE))
    ours.data["timeouts"] = dict.fromkeys(("connect", "handshake", "head", "response"), settings.timeout)
    if settings.debug:
        ours.data["log"] = {"level": "debug"}
    notes.append(
        Note(
            "TIMEOUT",
            f"{settings.timeout} s to connect and to wait for a head; no longer for a whole request or answer",
        )
    )
    return Translation(ours, tuple(notes))


def _listener(settings: Settings) -> dict[str, Any]:
    listener: dict[str, Any] = {"bind": f":{settings.port}"}
    if settings.cert_path:
        folder = os.path.abspath(settings.cert_path)
        listener["tls"] = {"certificates": [{"cert": f"{folder}/cert.pem", "key": f"{folder}/key.pem"}]}
    return listener


def _upstreams(file: File, tree: Tree, ours: Tree, notes: list[Note], settings: Settings) -> dict[str, str]:
    """Writes the upstreams; their names here by their names there."""
    names: dict[str, str] = {}
    written: dict[str, Any] = {}
    last = {upstream.name: position for position, upstream in enumerate(file.upstreams)}
    for position, upstream in enumerate(file.upstreams):
        where = place(tree, "upstreams", position)
        if last[upstream.name] != position:
            notes.append(Note(where, f"upstream {upstream.name!r} left out: a later one has the same name"))
            continue
        name = free_name(upstream.name, ())
        if name != upstream.name:
            name = free_name(name, {*last, *written})
        if name != upstream.name:
            notes.append(Note(where, f"upstream {upstream.name!r} is called {name!r} here"))
        names[upstream.name] = name
        written[name] = {"addresses": [upstream.address]}
        if upstream.scheme == "https" and settings.skip_verify:
            written[name]["tls"] = {"insecure_skip_verify": True}
        ours.where["upstreams", name] = where
    if written:
        ours.data["upstreams"] = written
    return names


def _own_routes(file: File, settings: Settings) -> list[dict[str, Any]]:
    routes = [_respond("nanoproxy-health", f"{_ROUTES}/health", 200, "OK")]
    if settings.debug:
        shown = yaml.safe_dump(file.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        routes.append(_respond("nanoproxy-config", f"{_ROUTES}/config", 200, shown))
    return routes


def _respond(name: str, path: str | None, status: int, body: str) -> dict[str, Any]:
    match = {} if path is None else {"path": path, "exact": True}
    return {"name": name, **match, "respond": {"status": status, "body": body, "headers": dict(_PLAIN)}}


def _route(rule: Rule, position: int, tree: Tree, names: Mapping[str, str], notes: list[Note]) -> dict[str, Any] | None:
    """The route of a rule; none where it never leads anywhere."""
    here = ("rules", position)
    never = _never(rule, names)
    if never is not None:
        key, reason = never
        notes.append(Note(place(tree, *here, key), f"rule left out: {reason}"))
        return None
    route: dict[str, Any] = {"name": f"rule-{position + 1}"}
    if rule.host:
        route["host"] = rule.host
        if rule.host.startswith("*."):
            notes.append(
                Note(place(tree, *here, "host"), f"`{rule.host}` is a wildcard here; NanoProxy took it word for word")
            )
    path = quote(rule.path, safe="/!$&'()*+,;=:@")
    if path:
        route["path"] = path
    if rule.matchMode == "exact":
        route["exact"] = True
    elif path.strip("/"):
        notes.append(Note(place(tree, *here, "path"), _narrowed(path)))
    if rule.stripPath and path.strip("/"):
        route["strip"] = True
    return route


def _never(rule: Rule, names: Mapping[str, str]) -> tuple[str, str] | None:
    """The key and the reason why a rule never leads anywhere."""
    if rule.upstream not in names:
        return "upstream", f"there is no upstream {rule.upstream!r}"
    if rule.matchMode not in ("", "prefix", "exact"):
        return "matchMode", f"matchMode {rule.matchMode!r} is neither prefix nor exact, so it never matched"
    if rule.path and not rule.path.startswith("/"):
        return "path", f"paths begin with `/`, so `{rule.path}` never matched"
    if rule.matchMode == "exact" and not rule.path:
        return "matchMode", "it has no path, so it never matched exactly"
    try:
        if rule.host:
            host_pattern(rule.host)
    except ValueError as error:
        return "host", f"it can never match: {error}"
    return None


def _narrowed(path: str) -> str:
    if path.endswith("/"):
        return f"prefix `{path}` matches `{path.rstrip('/')}` too"
    return f"prefix `{path}` matches `{path}` and `{path}/...`, no longer `{path}...`"


def _unknown(tree: Tree, path: tuple[str | int, ...], found: dict[str, Any], model: type[BaseModel]) -> Iterator[Note]:
    """Takes out the keys that NanoProxy does not read, and tells each."""
    for key in [key for key in found if key not in model.model_fields]:
        near = difflib.get_close_matches(key, model.model_fields, n=1, cutoff=0.5)
        hint = f" (did you mean `{near[0]}`?)" if near else ""
        yield Note(place(tree, *path, key), f"unknown key `{key}` left out, as NanoProxy does{hint}")
        del found[key]
