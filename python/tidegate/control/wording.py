"""
The sentences a person reads for the events that deserve one.

Pure: an event and what the snapshot says in, a sentence or nothing out. Events without a sentence are written as
their name and fields by `control.logs`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tidegate.config.binds import is_loopback

__all__ = [
    "Exposed", "applied", "arrow", "difference", "disconnected", "draining", "exposed", "not_applied",
    "service_unreachable", "started",
]  # fmt: skip


@dataclass(frozen=True)
class Exposed:
    """A listener that strangers reach without showing who they are."""

    listener: str
    port: int
    sentence: str


def started(role: str, version: str, source: str) -> str:
    """The start line: what runs, and which configuration is in force."""
    return f"tidegate {role} {version}, configuration: {source}"


def listening(event: Mapping[str, Any]) -> str:
    """Where one listener is."""
    if event.get("endpoint"):
        return f"{event.get('address')} -> {event['endpoint']}"
    over = ", QUIC" if event.get("transport") == "quic" else ""
    return f"listening on {event.get('address')} ({event.get('listener')}, {event.get('kind')}{over})"


def arrow(event: Mapping[str, Any], offer: Mapping[str, Any]) -> str:
    """Where an endpoint of this agent can be reached from now on, and what answers there."""
    name, url, local = str(event.get("endpoint", "")), str(event.get("url") or ""), target(offer)
    if offer.get("kind") == "connect":
        return f"endpoint {name} at {event.get('gateway')} -> {local}"
    if offer.get("kind") == "tcp":
        connect = _forward_connect(name, url)
        port = (offer.get("to") or {}).get("port", "PORT")
        return f"tidegate forward {port} {name}{connect} -> {local}"
    if url and offer.get("kind") != "udp":
        return f"{url} -> {local}"
    return f"endpoint {name} at {event.get('gateway')} -> {local}"


def target(offer: Mapping[str, Any]) -> str:
    """The local service of an offer, as people write it."""
    if offer.get("kind") == "connect":
        allowed = len(offer.get("allow", []))
        return f"CONNECT to what is allowed ({allowed} {'entry' if allowed == 1 else 'entries'})"
    to = offer.get("to") or {}
    host, port = str(to.get("host", "")), to.get("port")
    if ":" in host:
        host = f"[{host}]"
    scheme = offer["kind"] if offer.get("kind") in ("tcp", "udp") else "https" if to.get("tls") else "http"
    return f"{scheme}://{host}:{port}"


def _forward_connect(name: str, url: str) -> str:
    if not url:
        return " --connect URL"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # a gateway may tell anything
        return " --connect URL"
    # A name below .localhost is not known to every resolver; localhost is, and means the same gateway.
    if host == f"{name.lower()}.localhost":
        url = f"{parts.scheme}://localhost:{port}" if port else f"{parts.scheme}://localhost"
    return "" if url == "http://localhost:8000" else f" --connect {url}"


def draining(event: Mapping[str, Any], interrupted: bool, grace: float) -> str:
    """What is being waited for, and how to stop waiting."""
    # Requests run on streams: where there are requests, to count both would count twice.
    found = ((event.get(field), one) for field, one in (("requests", "request"), ("streams", "stream")))
    number, one = next(((number, one) for number, one in found if number), (0, ""))
    what = f"draining {number} {one}{'' if number == 1 else 's'}" if number else "draining"
    return f"{what}, Ctrl-C again to stop now" if interrupted else f"{what}, for at most {grace:g} s"


def service_unreachable(event: Mapping[str, Any]) -> str:
    """That the local service of an endpoint does not answer at start."""
    return (
        f"nothing listens on {event.get('address')}: visitors of {event.get('endpoint')} get 502 until something does"
    )


def nothing_allowed(event: Mapping[str, Any]) -> str:
    """That an endpoint connects to nothing, because nobody said what it may connect to."""
    return f"endpoint {event.get('endpoint')} refuses everything: say what it may connect to (--allow 10.0.0.0/8:443)"


def unhealthy(event: Mapping[str, Any]) -> str:
    """That an endpoint of ours is not offered, because its service says or shows that it does not work."""
    endpoint, address, reason = (event.get(field) for field in ("endpoint", "address", "reason"))
    return f"endpoint {endpoint} is not offered: its service at {address} fails its check: {reason}"


_TRIGGERS = {"file": "a file has changed", "signal": "SIGHUP", "api": "asked for"}


def applied(event: Mapping[str, Any]) -> str:
    """That a new configuration is in force, and what is different."""
    return f"configuration applied ({_TRIGGERS[event['trigger']]}): {difference(event['changes'])}"


def not_applied(event: Mapping[str, Any]) -> str:
    """That a new configuration is not in force, and every reason."""
    reasons = "; ".join(event["reasons"])
    return f"configuration refused ({_TRIGGERS[event['trigger']]}), the one before stays in force: {reasons}"


def difference(changes: Mapping[str, Any]) -> str:
    """What a new configuration changes: `routes: 2 added (shop, blog), 1 removed (old)`."""
    kinds = []
    for kind, differing in changes.items():
        words = [
            f"{what['count']} {how} ({', '.join(what['names'])}{', ...' if what['count'] > len(what['names']) else ''})"
            for how, what in differing.items()
        ]
        kinds.append(f"{kind}: {', '.join(words)}")
    return "; ".join(kinds) or "nothing is different"


def refused(event: Mapping[str, Any]) -> str:
    """That a gateway does not want an endpoint of ours, for good."""
    what = "correct it and start anew"
    if "answered 400: missing endpoint id" in str(event.get("reason", "")):
        # A port for visitors reads the request for a tunnel as a visitor's.
        what = "this is no agents' port: agents connect to port 8001 by default"
    return f"endpoint {event.get('endpoint')} was refused: {_with_gateway(event)} ({what})"


def disconnected(event: Mapping[str, Any]) -> str:
    """That an endpoint of ours has one tunnel less than it should, and that it is tried again."""
    return (
        f"a tunnel of endpoint {event.get('endpoint')} is down: {_with_gateway(event)} "
        "(tried again until it works; `--connect` names the gateway)"
    )


def _with_gateway(event: Mapping[str, Any]) -> str:
    gateway, reason = str(event.get("gateway", "")), str(event.get("reason", ""))
    address = urlsplit(gateway).netloc or gateway
    return reason if address in reason else f"{gateway}: {reason}"


def exposed(snapshot: Mapping[str, Any], admin_addresses: list[str]) -> list[Exposed]:
    """The tunnel, connect and admin listeners off loopback that ask nobody who they are."""
    found = []
    for listener in snapshot.get("listeners", []):
        tls = listener.get("tls") or {}
        knows = tls.get("client_ca") is not None and tls.get("client_certificate") == "required"
        kind = listener.get("kind")
        if kind not in ("tunnel", "connect") or knows or listener.get("auth"):
            continue
        if kind == "connect" and listener.get("allow"):
            continue
        may = "can offer endpoints here" if kind == "tunnel" else "can connect to whatever agents allow"
        for port in _ports_off_loopback(listener.get("bind", [])):
            name = listener.get("name", "")
            sentence = (
                f"anybody who reaches port {port} {may}, without authentication; "
                f'the line that closes it: listeners: {{{name}: {{bind: "127.0.0.1:{port}", kind: {kind}}}}}'
            )
            found.append(Exposed(name, port, sentence))
    for port in _ports_off_loopback(admin_addresses):
        closing = (
            f'admin: {{bind: "127.0.0.1:{port}"}}' if snapshot.get("role") == "gateway" else f"--admin 127.0.0.1:{port}"
        )
        sentence = (
            f"anybody who reaches port {port} sees metrics and status, without authentication; "
            f"the line that closes it: {closing}"
        )
        found.append(Exposed("admin", port, sentence))
    return found


def _ports_off_loopback(addresses: list[str]) -> list[int]:
    ports: dict[int, None] = {}
    for address in addresses:
        if not is_loopback(address):
            ports[int(address.rpartition(":")[2])] = None
    return list(ports)
