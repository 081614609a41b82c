"""
Turns a configuration into what the engine takes: complete, every name resolved, every file read.

The other side is `crates/engine/src/snapshot.rs`. Everything that can be wrong is told at once.
"""

import errno
import os
import resource
import secrets
import socket
import sys
import time
from collections.abc import Iterable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from tidegate import __version__
from tidegate.config import credentials
from tidegate.config.binds import resolve_bind
from tidegate.config.checks import listener_upstream
from tidegate.config.connect import connect
from tidegate.config.files import Checked, Where
from tidegate.config.leading import ConnectTo
from tidegate.config.load import uncollected
from tidegate.config.model import (
    CONNECT,
    AccessLog,
    Agent,
    Forward,
    Gateway,
    Limits,
    Listener,
    Offer,
    Timeouts,
    Tunnel,
)
from tidegate.config.targets import allow
from tidegate.config.traffic import (
    client_tls,
    destination,
    host_header,
    routes,
    server_tls,
    upstreams,
)  # fmt: skip
from tidegate.config.values import service

# What a process needs besides connections: tunnels, listeners, logs, libraries.
OTHER_DESCRIPTORS = 200
FEWEST_CONNECTIONS = 16
# A network of its own (a container's) may have another one than the machine; this is the one of who reads.
TCP_CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")

__all__ = [
    "agent_snapshot", "describe", "forward_snapshot", "gateway_snapshot", "new_agent_id", "note", "offer",
]  # fmt: skip


@uncollected()
def gateway_snapshot(config: Gateway, where: Where | None = None) -> bytes:
    """A gateway, whole. `where` finds the places of keys, for what is told as wrong."""
    checked = Checked(where)
    listeners = [
        {
            "name": name,
            "bind": checked.call(f"listeners.{name}.bind", resolve_bind, listener.bind),
            "tls": server_tls(listener.tls, f"listeners.{name}.tls", checked),
            "proxy_protocol": list(listener.proxy_protocol),
            "allow": list(listener.allow),
            "deny": list(listener.deny),
            "tenant": listener.tenant or "",
            "auth": credentials.auth(config, listener.auth),
            "transports": list(listener.made_of()),
            "quic_at": listener.quic_at,
            "quic_tunnel": listener.quic_tunnel.endpoint if listener.quic_tunnel is not None else None,
            **_listener_kind(name, listener, bool(config.routes)),
        }
        for name, listener in config.listeners.items()
    ]
    # The admin listener is Python's own to serve, and as likely to be wrong.
    admin = checked.call("admin.bind", resolve_bind, config.admin.bind)
    server_tls(config.admin.tls, "admin.tls", checked)
    credentials.files(config, checked)
    binds = [(each["kind"], (f"listeners.{each['name']}.bind", each["bind"])) for each in listeners]
    checked.differ([("admin.bind", admin), *(bind for kind, bind in binds if kind != "udp")])
    # Ports for datagrams have numbers of their own.
    checked.differ([bind for kind, bind in binds if kind == "udp"])
    return checked.done(
        {
            "role": "gateway",
            "version": __version__,
            "node": config.node or socket.gethostname() or "gateway",
            "workers": config.workers or len(os.sched_getaffinity(0)),
            "takeover": config.takeover,
            "listeners": listeners,
            "upstreams": upstreams(config, checked),
            "routes": routes(config),
            "verifier_sets": credentials.verifier_sets_of_the_engine(config),
            "tenants": credentials.tenants(config),
            "routing": config.routing,
            "no_route_status": config.no_route_status,
            "trusted_proxies": list(config.trusted_proxies),
            "error_pages": {
                kind: checked.file(f"error_pages.{kind}", config.error_pages.get(kind)) for kind in ("html", "json")
            },
            "public_url": config.public_url,
            **_common(config, checked),
            "limits": {**Limits.model_dump(config.limits), "connections": _connections(config.limits)},
            "tunnel": _tunnel(config.tunnel),
        }
    )


def agent_snapshot(config: Agent, agent_id: str, where: Where | None = None, token: str | None = None) -> bytes:
    """An agent, whole. Its id stays the same for the life of the process; `token` is what its command has printed."""
    checked = Checked(where)
    if not config.endpoints:
        checked.mistake("endpoints", "nothing to offer (add `endpoints: [{name: web, to: 3000}]`)")
    own = (checked.call("admin.bind", resolve_bind, config.admin.bind) if config.admin.bind else None) or []
    offers = [offer(each, f"endpoints[{position}]", checked, own) for position, each in enumerate(config.endpoints)]
    if config.connect.transport == "quic-tunnel":
        for each in offers:
            # Whoever asks over it has known no other status for whatever fails.
            each.get("connect", {})["failed_status"] = 400
    return checked.done(
        {
            "role": "agent",
            "version": __version__,
            "id": agent_id,
            "connect": connect(config.connect, checked, os.environ, token),
            "connections": config.connect.connections,
            "endpoints": offers,
            **_common(config, checked),
            "tunnel": _tunnel(config.tunnel),
        }
    )


def forward_snapshot(config: Forward, where: Where | None = None, token: str | None = None) -> bytes:
    """A forward, whole; `token` is what its command has printed."""
    checked = Checked(where)
    if not config.forwards:
        checked.mistake("forwards", "nothing to forward (add `forwards: [{bind: 5432, endpoint: postgres}]`)")
    ports = [
        {
            "bind": checked.call(f"forwards[{position}].bind", resolve_bind, port.bind),
            "endpoint": port.endpoint,
            "udp_idle": port.idle if port.kind == "udp" else None,
        }
        for position, port in enumerate(config.forwards)
    ]
    for udp in (False, True):
        # Ports for datagrams have numbers of their own.
        checked.differ(
            (f"forwards[{position}].bind", port["bind"])
            for position, port in enumerate(ports)
            if (port["udp_idle"] is not None) == udp
        )
    return checked.done(
        {
            "role": "forward",
            "version": __version__,
            "connect": connect(config.connect, checked, os.environ, token),
            "forwards": ports,
            **_common(config, checked),
            "tunnel": _tunnel(config.tunnel),
        }
    )


def offer(offer: Offer, here: str, checked: Checked, own: Iterable[str] = ()) -> dict[str, Any]:
    """One endpoint that an agent offers; `here` is its key, `own` are addresses that the agent itself listens on."""
    if offer.to == CONNECT:
        return {
            "name": offer.name,
            "kind": "connect",
            "to": None,
            "allow": [allow(each).dump() for each in offer.allow],
            "connect": {"only_safe": False, "never": list(own), "failed_status": None},
            "host_header": "keep",
            "protocol": "http1",
            "health": None,
        }
    to = service(offer.to)
    if to.kind == "udp":
        return {
            "name": offer.name,
            "kind": "udp",
            "to": {"host": to.host, "port": to.port, "tls": None},
            "idle": offer.idle,
            "host_header": "keep",
            "protocol": "http1",
            "health": None,
        }
    tls = client_tls(offer, here, checked)
    if not to.tls and offer.says_something():
        checked.mistake(here, f"has TLS settings, but `to` is {to} (write https://)")
    return {
        "name": offer.name,
        "kind": to.kind,
        "to": {"host": to.host, "port": to.port, "tls": tls if to.tls else None},
        "host_header": host_header(offer.host_header),
        "protocol": "http2" if offer.protocol == "h2c" else "http1",
        "health": offer.health.model_dump() if offer.health else None,
    }


def new_agent_id() -> str:
    """A random id, by which a gateway knows an agent that comes back."""
    return secrets.token_hex(16)


def describe(config: Gateway | Agent | Forward) -> dict[str, Any]:
    """What the start line and the status page show of a configuration; no secrets."""
    shown: dict[str, Any] = {"admin": config.admin.bind, "access_log": config.access_log.to}
    if isinstance(config, Gateway):
        shown["listeners"] = [
            {"name": name, "kind": each.kind, "bind": each.bind, **_shown_to(each)}
            for name, each in config.listeners.items()
        ]
        shown["public_url"] = config.public_url
        return shown
    shown["connect"] = list(config.connect.urls)
    if isinstance(config, Agent):
        shown["connections"] = config.connect.connections
        shown["endpoints"] = [_shown_offer(each) for each in config.endpoints]
    else:
        shown["forwards"] = [{"bind": each.bind, "endpoint": each.endpoint} for each in config.forwards]
    return shown


def _shown_offer(offer: Offer) -> dict[str, Any]:
    if offer.to == CONNECT:
        return {"name": offer.name, "to": CONNECT, "allow": list(offer.allow)}
    return {"name": offer.name, "to": str(service(offer.to))}


def _shown_to(listener: Listener) -> dict[str, Any]:
    if listener.to is None:
        return {}
    if listener.to.rules:
        return {"endpoints": list(dict.fromkeys(rule.endpoint for rule in listener.to.rules))}
    return {key: value for key in ("endpoint", "upstream") if (value := getattr(listener.to, key)) is not None}


def _listener_kind(name: str, listener: Listener, has_routes: bool) -> dict[str, Any]:
    if listener.kind == "connect":
        rules = listener.to.rules if listener.to is not None else ()
        return {"kind": "connect", "to": [_rule(rule, listener) for rule in rules]}
    if listener.kind == "udp" and listener.to is not None:
        to = {"tenant": listener.to.tenant or listener.tenant or "", "endpoint": listener.to.endpoint}
        return {"kind": "udp", "to": to, "idle": listener.idle, "sessions": listener.sessions}
    if listener.to is not None:
        return {"kind": "tcp", "to": destination(listener.to, listener_upstream(name), listener.tenant)}
    if listener.kind == "tunnel":
        return {"kind": "tunnel"}
    dynamic = listener.dynamic_endpoints
    if dynamic is None:
        # With routes a name in a header would lead around them.
        return {"kind": "http", "dynamic_endpoints": {"allow": []} if has_routes else "unnamed"}
    return {"kind": "http", "dynamic_endpoints": "unnamed" if dynamic.allow is None else {"allow": list(dynamic.allow)}}


def _rule(rule: ConnectTo, listener: Listener) -> dict[str, Any]:
    return {
        "network": str(ip_network(rule.network)) if rule.network is not None else None,
        "name": rule.name,
        "tenant": rule.tenant or listener.tenant or "",
        "endpoint": rule.endpoint,
    }


def note(config: Gateway | Agent | Forward) -> str:
    """What the start line says of a value that somebody wrote and that is not in force; empty for nothing."""
    if not isinstance(config, Gateway) or "connections" not in config.limits.model_fields_set:
        return ""
    found = _connections(config.limits)
    if found == config.limits.connections:
        return ""
    return f"limits.connections is {found} instead of {config.limits.connections}: more needs a higher `ulimit -Hn`"


def _connections(limits: Limits) -> int:
    """As many connections as there are descriptors for: each may need a second one, to where it leads."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return limits.connections
    return min(limits.connections, max(FEWEST_CONNECTIONS, (hard - OTHER_DESCRIPTORS) // 2))


def _common(config: Gateway | Agent | Forward, checked: Checked) -> dict[str, Any]:
    return {
        "timeouts": Timeouts.model_dump(config.timeouts),
        "limits": Limits.model_dump(config.limits),
        "access_log": _access_log(config.access_log, checked),
    }


def _tunnel(tunnel: Tunnel) -> dict[str, Any]:
    own = _congestion_of_tcp() if tunnel.congestion == "system" else tunnel.congestion
    return {**tunnel.model_dump(), "congestion": own}


def _congestion_of_tcp() -> str:
    """What the system has chosen for TCP, of what QUIC has too."""
    try:
        chosen = TCP_CONGESTION.read_text(encoding="ascii").strip()
    except OSError:
        chosen = ""
    return chosen if chosen == "bbr" else "cubic"


def _access_log(log: AccessLog, checked: Checked) -> dict[str, Any]:
    if log.to not in ("stdout", "off"):
        _try_to_append(log.to, checked)
    form = log.format
    if form == "auto":
        form = "text" if log.to == "stdout" and sys.stdout is not None and sys.stdout.isatty() else "json"
    return {"to": None if log.to == "off" else log.to, "format": form, "utc_offset": time.localtime().tm_gmtoff}


def _try_to_append(name: str, checked: Checked) -> None:
    try:
        # A pipe without a reader must not hold up the start here.
        os.close(os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666))
    except OSError as error:
        if error.errno != errno.ENXIO:
            checked.mistake("access_log.to", f"cannot open {name}: {(error.strerror or str(error)).lower()}")
