"""
Turns the file and flags of Piko's server into our configuration.

Pure: text and flags in, our configuration and notes out. What narrows access and cannot be carried is an error, and
what else has no counterpart is a note. Agent and forward are `piko`.
"""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ValidationError

from tidegate.config.knobs import Bind, Duration, FileName, Model, Size, Texts, knob
from tidegate.config.load import validate
from tidegate.config.tree import Tree
from tidegate.errors import ConfigError
from tidegate.importers.piko import PikoAccessLog, PikoLog, Text
from tidegate.importers.piko_auth import PikoAuth, PikoTenant, Verifiers, key
from tidegate.importers.translation import Note, Translation, place, put

__all__ = ["PikoServerFile", "server"]

_NO_CLUSTER = "clusters are not built yet: this gateway runs alone"


class PikoNodeTls(Model):
    """What a server shows to others of its cluster."""

    cert: FileName | None = knob(None, "PEM file of the certificate for other nodes; not carried.")
    key: FileName | None = knob(None, "PEM file of its key; not carried.")
    root_cas: FileName | None = knob(None, "PEM file of the authorities of other nodes; not carried.")
    insecure_skip_verify: bool | None = knob(None, "Accept any certificate of other nodes; not carried.")


class PikoListenerTls(Model):
    """TLS of a port."""

    cert: FileName | None = knob(None, "PEM file of the certificate chain.")
    key: FileName | None = knob(None, "PEM file of its key.")
    client_cas: FileName | None = knob(None, "PEM file of the only authorities of client certificates.")
    client: PikoNodeTls = PikoNodeTls()


class PikoHeaders(Model):
    """Headers of an access log."""

    allow_list: Texts = knob((), "Headers to write; not carried.")
    block_list: Texts = knob((), "Headers to leave out; not carried.")


class PikoServerAccessLog(PikoAccessLog):
    """One line a request."""

    level: Text | None = knob(None, "Level of its lines; not carried.")
    disable: bool = knob(False, "Write none.")
    request_headers: PikoHeaders = PikoHeaders()  # type: ignore[assignment]
    response_headers: PikoHeaders = PikoHeaders()  # type: ignore[assignment]


class PikoHttp(Model):
    """Limits of the proxy port."""

    read_timeout: Duration | None = knob(None, "Longest time for a whole request; not carried.")
    read_header_timeout: Duration | None = knob(None, "Longest time for the head of a request.")
    write_timeout: Duration | None = knob(None, "Longest time for a whole response; not carried.")
    idle_timeout: Duration | None = knob(None, "An idle connection is kept for so long.")
    max_header_bytes: Size | None = knob(None, "Largest head of a request.")


class PikoProxy(Model):
    """The port for downstreams."""

    bind_addr: Bind = knob(":8000", "Address for downstreams.")
    advertise_addr: Text | None = knob(None, "Address told to other nodes; not carried.")
    timeout: Duration = knob(30.0, "Longest time for an upstream to answer.")
    access_log: PikoServerAccessLog = PikoServerAccessLog()
    auth: PikoAuth = PikoAuth()
    tls: PikoListenerTls = PikoListenerTls()
    http: PikoHttp = PikoHttp()


class PikoRebalance(Model):
    """Shedding connections of upstreams."""

    threshold: float | None = knob(None, "How far above the average a node sheds; not carried.")
    shed_rate: float | None = knob(None, "Share of connections shed each second; not carried.")
    min_conns: int | None = knob(None, "Fewest connections to keep; not carried.")


class PikoUpstream(Model):
    """The port for agents."""

    bind_addr: Bind = knob(":8001", "Address for agents.")
    advertise_addr: Text | None = knob(None, "Address told to other nodes; not carried.")
    auth: PikoAuth = PikoAuth()
    tls: PikoListenerTls = PikoListenerTls()
    tenants: tuple[PikoTenant, ...] = ()
    rebalance: PikoRebalance = PikoRebalance()


class PikoAdmin(Model):
    """The port for metrics and status."""

    bind_addr: Bind = knob(":8002", "Address for metrics and status.")
    advertise_addr: Text | None = knob(None, "Address told to other nodes; not carried.")
    auth: PikoAuth = PikoAuth()
    tls: PikoListenerTls = PikoListenerTls()


class PikoGossip(Model):
    """The port for other nodes."""

    bind_addr: Bind = knob(":8003", "Address for other nodes (UDP); not opened until clusters are built.")
    advertise_addr: Text | None = knob(None, "Address told to other nodes; not carried.")
    interval: Duration | None = knob(None, "Time between two rounds; not carried.")
    max_packet_size: int | None = knob(None, "Largest packet; not carried.")


class PikoCluster(Model):
    """Other nodes."""

    node_id: Text | None = knob(None, "Name of this node.")
    node_id_prefix: Text | None = knob(None, "Begin of a name that is made; not carried.")
    join: Texts = knob((), "Addresses of other nodes; not joined until clusters are built.")
    join_timeout: Duration | None = knob(None, "Longest time to join; not carried.")
    abort_if_join_fails: bool | None = knob(None, "End when no other node answers; not carried.")
    gossip: PikoGossip = PikoGossip()


class PikoServerLog(PikoLog):
    """Events."""

    level: Literal["debug", "info", "warn", "error"] | None = knob(None, "The least important events that are shown.")


class PikoServerFile(Model):
    """A server's file."""

    proxy: PikoProxy = PikoProxy()
    upstream: PikoUpstream = PikoUpstream()
    admin: PikoAdmin = PikoAdmin()
    cluster: PikoCluster = PikoCluster()
    log: PikoServerLog = PikoServerLog()
    grace_period: Duration | None = knob(None, "Longest time to finish what runs when stopping.")


def server(tree: Tree) -> Translation:
    """Our gateway for Piko's server. Raises `ConfigError` with every mistake."""

    def narrowing(piko: PikoServerFile) -> list[str]:
        return [*_asked(piko, Verifiers(tree)).verifiers.mistakes, *_narrowing(piko, tree)]

    piko = validate(PikoServerFile, tree, outside=lambda *_: narrowing(_what_is_right(tree)))
    mistakes = narrowing(piko)
    if mistakes:
        raise ConfigError(mistakes)
    asked = _asked(piko, Verifiers(tree))
    verifiers = asked.verifiers
    notes = [*_left_out(piko, tree), *verifiers.notes]

    ours: dict[str, Any] = {
        "listeners": {
            "proxy": {
                "bind": piko.proxy.bind_addr,
                **_tls(piko.proxy.tls),
                **({"auth": asked.proxy | {"pass": True}} if asked.proxy else {}),
                **({"tenant": verifiers.only_tenant} if verifiers.only_tenant else {}),
            },
            "agents": {
                "bind": piko.upstream.bind_addr,
                "kind": "tunnel",
                **_tls(piko.upstream.tls),
                # With TLS a UDP port would be opened, which Piko's server has not.
                **({"transports": ["websocket"]} if piko.upstream.tls.cert else {}),
                **({"auth": asked.agents} if asked.agents else {}),
            },
        },
        "admin": {
            "bind": piko.admin.bind_addr,
            **_tls(piko.admin.tls),
            **({"auth": asked.admin} if asked.admin else {}),
        },
        "timeouts": {"response": piko.proxy.timeout},
    }
    put(ours, "", verifiers=verifiers.found or None, tenants=verifiers.tenants or None)
    http = piko.proxy.http
    put(ours, "timeouts", head=http.read_header_timeout, keep_alive=http.idle_timeout)
    put(ours, "limits", head_bytes=http.max_header_bytes)
    put(ours, "", node=piko.cluster.node_id, grace_period=piko.grace_period)
    put(ours, "log", level=piko.log.level)
    if piko.proxy.access_log.disable:
        put(ours, "access_log", to="off")
    return Translation(Tree(data=ours, where=_places(tree) | verifiers.where, name=tree.name), tuple(notes))


class _Asked(NamedTuple):
    """What each port asks for, and who verifies it."""

    verifiers: Verifiers
    agents: dict[str, Any]
    proxy: dict[str, Any]
    admin: dict[str, Any]


def _asked(piko: PikoServerFile, verifiers: Verifiers) -> _Asked:
    agents = verifiers.agents(piko.upstream.auth, piko.upstream.tenants)
    proxy = verifiers.auth(("proxy", "auth"), piko.proxy.auth, verifiers.only_tenant)
    return _Asked(verifiers, agents, proxy, verifiers.auth(("admin", "auth"), piko.admin.auth))


def _what_is_right(tree: Tree) -> PikoServerFile:
    """A file that is wrong somewhere, without the values that are."""
    data = deepcopy(tree.data)
    while True:
        try:
            return PikoServerFile.model_validate(data, context={"base": tree.base, "files": None})
        except ValidationError as error:
            # Found before any is taken out: one may stand within another.
            for holder, key in [_holder(data, item["loc"]) for item in error.errors(include_url=False)]:
                holder.pop(key, None)


def _holder(data: Any, path: tuple[int | str, ...]) -> tuple[dict[Any, Any], int | str]:
    """What holds the value at a path and its key; of a value that is missing or one of a list, what it belongs to."""
    holder, key = data, path[0]
    for part in path:
        if isinstance(data, dict) and part in data:
            holder, key = data, part
        elif not isinstance(data, list):
            break
        data = data[part]
    return holder, key


def _tls(tls: PikoListenerTls) -> dict[str, Any]:
    if not tls.cert and not tls.key:
        return {}
    ours: dict[str, Any] = {"certificates": [{"cert": tls.cert, "key": tls.key}]}
    return {"tls": ours | ({"client_ca": tls.client_cas} if tls.client_cas else {})}


def _places(tree: Tree) -> dict[tuple[str | int, ...], str]:
    """Where the mistakes of our words are theirs."""
    pairs: dict[tuple[str | int, ...], tuple[str, ...]] = {
        ("listeners", "proxy"): ("proxy",),
        ("listeners", "agents"): ("upstream",),
        ("admin",): ("admin",),
        ("timeouts",): ("proxy",),
        ("limits",): ("proxy", "http"),
        ("node",): ("cluster", "node_id"),
        ("grace_period",): ("grace_period",),
    }
    return {ours: tree.where[theirs] for ours, theirs in pairs.items() if theirs in tree.where}


def _narrowing(piko: PikoServerFile, tree: Tree) -> Iterator[str]:
    """What keeps somebody out in Piko and would let them in here."""
    for name, port in (("proxy", piko.proxy), ("upstream", piko.upstream), ("admin", piko.admin)):
        if port.tls.client_cas and not port.tls.cert:
            yield f"{key(tree, (name, 'tls', 'client_cas'))}: needs `cert` and `key`: without TLS nobody is asked"


_LEFT_OUT = {
    "advertise_addr": _NO_CLUSTER,
    "client": _NO_CLUSTER,
    "gossip": _NO_CLUSTER,
    "join": _NO_CLUSTER + "; where it stands beside others, each finds only its own agents",
    "join_timeout": _NO_CLUSTER,
    "abort_if_join_fails": _NO_CLUSTER,
    "node_id_prefix": "the node is named as the machine is",
    "rebalance": "agents keep several tunnels, and a single gateway has none to hand away",
    "read_timeout": "no timeout bounds a whole request here; `timeouts.idle` ends one that moves no byte",
    "write_timeout": "no timeout bounds a whole response here; `timeouts.idle` ends one that moves no byte",
    "level": "our access log is on or off",
    "request_headers": "our access log holds no headers",
    "response_headers": "our access log holds no headers",
    "subsystems": "`log.level: debug` shows everything",
}


def _left_out(piko: PikoServerFile, tree: Tree) -> Iterator[Note]:
    """What is written and has no counterpart."""
    for path, value in _written(piko):
        part = next((part for part in path if part in _LEFT_OUT), None)
        if part is None or path[:2] == ("log", "level") or value in (None, (), ""):
            continue
        yield Note(place(tree, *path), f"`{'.'.join(path)}` left out: {_LEFT_OUT[part]}")


def _written(model: BaseModel, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every leaf that somebody wrote."""
    for name in type(model).model_fields:
        if name not in model.model_fields_set:
            continue
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _written(value, (*path, name))
        else:
            yield (*path, name), value
