"""
Turns the files and flags of Piko's agent and forward into our configuration.

Pure: text and flags in, a configuration and notes out. What cannot be carried is a note; where it would have narrowed
access it is an error. Piko's server is not read yet.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, Field

from tidegate.config.knobs import Duration, Endpoint, FileName, Knob, Model, Texts, knob, knobs
from tidegate.config.load import parse, validate
from tidegate.config.model import Agent, Forward
from tidegate.config.tree import Tree
from tidegate.config.values import service
from tidegate.errors import ConfigError
from tidegate.importers.translation import Note, place, put

__all__ = ["Imported", "PikoAgent", "PikoForward", "agent", "expand_env", "flags_of", "forward", "read"]

C = TypeVar("C", Agent, Forward)
_NARROWS = "narrows access and cannot be carried over"
_CONNECT_URL = {"agent": "http://localhost:8001", "forward": "http://localhost:8000"}

Text = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)]


@dataclass(frozen=True)
class Imported(Generic[C]):
    """A configuration, and what it does not say."""

    config: C
    notes: tuple[Note, ...]


class PikoTls(Model):
    """How the server's certificate is checked."""

    cert: FileName | None = knob(None, "PEM file of the client certificate.")
    key: FileName | None = knob(None, "PEM file of its key.")
    root_cas: FileName | None = knob(None, "PEM file of the certificate authorities to trust.")
    insecure_skip_verify: bool | None = knob(None, "Accept any certificate.")


class PikoConnect(Model):
    """How the server is reached."""

    url: Text | None = knob(None, "URL of the server.")
    token: Text | None = knob(None, "Token to show to it.")
    timeout: Duration | None = knob(None, "Longest time to connect.")
    tls: PikoTls = PikoTls()


class PikoAgentConnect(PikoConnect):
    """How an agent reaches the server."""

    tenant_id: Text | None = knob(None, "Tenant to act for.")
    proxy_url: Text | None = knob(None, "HTTP proxy to the server.")


class PikoLog(Model):
    """Events."""

    level: Literal["debug", "info", "warn", "error"] | None = knob(None, "The least important events that are shown.")
    subsystems: Texts = knob((), "Parts whose events are always shown; not carried.")


class PikoServer(Model):
    """The agent's own HTTP server, with metrics."""

    later: ClassVar[dict[str, str]] = dict.fromkeys(("auth", "tls", "client_cas"), _NARROWS)

    enabled: bool = knob(False, "Serve metrics over HTTP.")
    bind_addr: Text = knob(":5000", "Address of that server.")


class PikoAccessLog(Model):
    """One line a request."""

    level: Text | None = None
    disable: bool = False
    request_headers: dict[str, Any] = Field(default_factory=dict)
    response_headers: dict[str, Any] = Field(default_factory=dict)


class PikoHttpClient(Model):
    """Connections to the local service."""

    keep_alive_timeout: Duration | None = None
    idle_conn_timeout: Duration | None = None
    max_idle_conns: int | None = None
    disable_compression: bool | None = None


class PikoListener(Model):
    """One endpoint and the local service behind it."""

    endpoint_id: Endpoint
    addr: Text
    protocol: Literal["http", "tcp"] = "http"
    access_log: PikoAccessLog = PikoAccessLog()
    timeout: Duration | None = None
    http_client: PikoHttpClient = PikoHttpClient()
    tls: PikoTls = PikoTls()


class PikoAgent(Model):
    """An agent's file."""

    listeners: tuple[PikoListener, ...] = ()
    connect: PikoAgentConnect = PikoAgentConnect()
    server: PikoServer = PikoServer()
    log: PikoLog = PikoLog()
    grace_period: Duration | None = knob(None, "Longest time to finish what runs when stopping.")


class PikoPort(Model):
    """A local port that leads to an endpoint."""

    addr: Text
    endpoint_id: Endpoint


class PikoForward(Model):
    """A forward's file."""

    ports: tuple[PikoPort, ...] = ()
    connect: PikoConnect = PikoConnect()
    log: PikoLog = PikoLog()


def flags_of(model: type[BaseModel]) -> Iterator[Knob]:
    """Every leaf as Piko's flag: `--connect.tls.root-cas`."""
    for known in knobs(model):
        yield replace(known, flag="--" + ".".join(known.path).replace("_", "-"), env="", default="")


def expand_env(text: str, env: Mapping[str, str]) -> str:
    """Replaces `$VAR`, `${VAR}` and `${VAR:default}` everywhere; what is not set is empty, as with Piko."""

    def replaced(match: re.Match[str]) -> str:
        name, _, default = (match[1] or match[2]).partition(":")
        return env.get(name) or default

    return re.sub(r"\$\{([^}]*)\}|\$([A-Za-z0-9_]+)", replaced, text)


def read(text: str, name: str, model: type[BaseModel], flags: Mapping[str, Any]) -> Tree:
    """File and flags together; a flag wins."""
    tree = parse(text, name, expanded=None)
    tree.base = os.getcwd()  # Piko's file names start from the current folder
    for known in flags_of(model):
        if known.flag in flags:
            tree.set(known.path, flags[known.flag], known.flag)
    return tree


def agent(tree: Tree) -> Imported[Agent]:
    """Our agent for Piko's."""
    piko = validate(PikoAgent, tree)
    notes: list[Note] = []
    ours: dict[str, Any] = {}
    timeouts = _connect(piko.connect, "agent", tree, ours, notes)
    put(ours, "connect", tenant=piko.connect.tenant_id, proxy=piko.connect.proxy_url)
    ours["endpoints"] = [_offer(tree, position, listener, notes) for position, listener in enumerate(piko.listeners)]
    if piko.server.enabled:
        put(ours, "admin", bind=piko.server.bind_addr)
    put(ours, "", grace_period=piko.grace_period)
    put(ours, "log", level=piko.log.level)
    _log(piko.log, tree, notes)

    waits = [listener.timeout for listener in piko.listeners if listener.timeout is not None]
    idle = [each.http_client.idle_conn_timeout for each in piko.listeners if each.http_client.idle_conn_timeout]
    kept = [each.http_client.max_idle_conns for each in piko.listeners if each.http_client.max_idle_conns]
    timeouts |= {key: max(found) for key, found in (("response", waits), ("upstream_keep_alive", idle)) if found}
    put(ours, "timeouts", **timeouts)
    put(ours, "limits", idle_upstreams=max(kept) if kept else None)
    for key, found in (
        ("timeout", waits),
        ("http_client.idle_conn_timeout", idle),
        ("http_client.max_idle_conns", kept),
    ):
        if len(set(found)) > 1:
            notes.append(
                Note(place(tree, "listeners"), f"`{key}` differs between listeners: the largest counts for all")
            )
    if piko.listeners and all(listener.access_log.disable for listener in piko.listeners):
        put(ours, "access_log", to="off")
    return Imported(_validated(Agent, ours, tree), tuple(notes))


def forward(tree: Tree) -> Imported[Forward]:
    """Our forward for Piko's."""
    piko = validate(PikoForward, tree)
    notes: list[Note] = []
    ours: dict[str, Any] = {}
    put(ours, "timeouts", **_connect(piko.connect, "forward", tree, ours, notes))
    ours["forwards"] = [{"bind": port.addr, "endpoint": port.endpoint_id} for port in piko.ports]
    put(ours, "log", level=piko.log.level)
    _log(piko.log, tree, notes)
    return Imported(_validated(Forward, ours, tree), tuple(notes))


def _connect(connect: PikoConnect, role: str, tree: Tree, ours: dict[str, Any], notes: list[Note]) -> dict[str, float]:
    url = connect.url or _CONNECT_URL[role]
    put(ours, "connect", urls=[connect.url] if connect.url else None, token=connect.token or None)
    if role == "agent" and url.startswith(("https:", "wss:")):
        # Piko's agents send no datagrams.
        put(ours, "connect", transport="websocket")
    tls = _tls(connect.tls)
    if tls and not url.startswith(("https:", "wss:")):
        notes.append(Note(place(tree, "connect", "tls"), f"`connect.tls` left out: {url} does not use TLS"))
    else:
        put(ours, "connect", **tls)
    return {"connect": connect.timeout} if connect.timeout is not None else {}


def _offer(tree: Tree, position: int, listener: PikoListener, notes: list[Note]) -> dict[str, Any]:
    here = ("listeners", position)
    try:
        to = service(listener.addr, listener.protocol)
    except ValueError as error:
        raise ConfigError(f"{place(tree, *here, 'addr')}: listeners[{position}].addr: {error}") from None
    offer: dict[str, Any] = {"name": listener.endpoint_id, "to": str(to)}
    tls = _tls(listener.tls)
    if tls and not to.tls:
        notes.append(Note(place(tree, *here, "tls"), f"`tls` left out: {to} does not use TLS"))
    else:
        offer.update(tls)
    log = listener.access_log
    if log.request_headers or log.response_headers:
        notes.append(Note(place(tree, *here, "access_log"), "header lists left out: our access log holds no headers"))
    if log.level is not None:
        notes.append(Note(place(tree, *here, "access_log"), "`level` left out: our access log is on or off"))
    if listener.http_client.keep_alive_timeout is not None:
        where = place(tree, *here, "http_client", "keep_alive_timeout")
        notes.append(Note(where, "`keep_alive_timeout` left out: TCP probes are the system's"))
    if listener.http_client.disable_compression is not None:
        where = place(tree, *here, "http_client", "disable_compression")
        notes.append(Note(where, "`disable_compression` left out: bodies pass unchanged anyway"))
    return offer


def _tls(tls: PikoTls) -> dict[str, Any]:
    carried = {"ca": tls.root_cas, "cert": tls.cert, "key": tls.key, "insecure_skip_verify": tls.insecure_skip_verify}
    return {key: value for key, value in carried.items() if value}


def _log(log: PikoLog, tree: Tree, notes: list[Note]) -> None:
    if log.subsystems:
        where = place(tree, "log", "subsystems")
        notes.append(Note(where, "`log.subsystems` left out: `log.level: debug` shows everything"))


def _validated(model: type[C], ours: dict[str, Any], tree: Tree) -> C:
    return validate(model, Tree(data=ours, name=tree.name))
