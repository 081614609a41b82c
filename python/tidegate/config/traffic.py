"""
Routes, upstreams and TLS as the engine takes them: part of a gateway's snapshot.

The other side is `crates/engine/src/snapshot/`. Names of hosts and fields are in their normal form already.
"""

from collections.abc import Iterator
from typing import Any

from tidegate.config import credentials
from tidegate.config.checks import listener_upstream, route_name
from tidegate.config.files import Checked
from tidegate.config.model import Gateway
from tidegate.config.names import address
from tidegate.config.routes import Edits, Route
from tidegate.config.tls import Certificate, ClientTls, ServerTls
from tidegate.config.upstreams import Addresses, To

__all__ = [
    "certificate", "client_tls", "destination", "host_header", "routes", "server_tls", "upstream", "upstreams",
]  # fmt: skip


def upstreams(config: Gateway, checked: Checked) -> list[dict[str, Any]]:
    """Every upstream: named ones, and those made of addresses that a route or listener has of its own."""
    return [upstream(name, each, where, checked) for name, where, each in _groups(config)]


def _groups(config: Gateway) -> Iterator[tuple[str, str, Addresses]]:
    for name, named in config.upstreams.items():
        yield name, f"upstreams.{name}", named
    for position, route in enumerate(config.routes):
        if route.to is not None and route.to.addresses:
            yield route_name(position, route), f"routes[{position}].to", route.to
    for name, listener in config.listeners.items():
        if listener.to is not None and listener.to.addresses:
            yield listener_upstream(name), f"listeners.{name}.to", listener.to


def upstream(name: str, group: Addresses, where: str, checked: Checked) -> dict[str, Any]:
    """One upstream; `where` is the key of what it is made of."""
    parsed = [(address(each.address), each.weight) for each in group.addresses]
    tls = client_tls(group.tls, f"{where}.tls", checked) if any(each.tls for each, _ in parsed) else None
    return {
        "name": name,
        "addresses": [
            {
                "host": each.host,
                "port": each.port,
                "tls": tls if each.tls else None,
                "protocol": "http2" if each.http2 else "http1",
                "weight": weight,
            }
            for each, weight in parsed
        ],
        "balance": {"cookie": group.cookie} if group.cookie else group.balance.replace("-", "_"),
        "health": group.health.model_dump() if group.health else None,
        "ejection": group.ejection.model_dump() if group.ejection else None,
        "resolve_interval": group.resolve_interval,
        "proxy_protocol": group.proxy_protocol,
    }


def routes(config: Gateway) -> list[dict[str, Any]]:
    """Every route, in the order of the file."""
    return [_route(route_name(position, route), route, config) for position, route in enumerate(config.routes)]


def _route(name: str, route: Route, config: Gateway) -> dict[str, Any]:
    return {
        "name": name,
        "listeners": list(route.listeners),
        "sni": route.sni,
        "host": route.host,
        "path": {"exact" if route.exact else "prefix": route.path} if route.path is not None else None,
        "methods": list(route.methods),
        "headers": [{"name": key, "value": None if value is True else value} for key, value in route.headers.items()],
        "tenant": route.tenant or "",
        "allow": list(route.allow),
        "deny": list(route.deny),
        "auth": credentials.route_auth(config, route),
        "action": _action(name, route),
    }


def _action(name: str, route: Route) -> dict[str, Any]:
    if route.redirect is not None:
        return {"redirect": {"status": route.redirect.status, "to": route.redirect.to}}
    if route.respond is not None:
        answer = route.respond
        return {"respond": {"status": answer.status, "body": answer.body, "headers": list(answer.headers.items())}}
    assert route.to is not None  # noqa: S101  the model has one of the three
    return {
        "forward": {
            "to": destination(route.to, name, route.tenant),
            "path": "strip" if route.strip else {"replace": route.replace} if route.replace is not None else "keep",
            "host_header": host_header(route.host_header),
            "request_headers": _edits(route.request_headers),
            "response_headers": _edits(route.response_headers),
            "response_timeout": route.timeouts.response,
            "idle_timeout": route.timeouts.idle,
        }
    }


def destination(to: To, own: str, tenant: str | None) -> dict[str, Any]:
    """Where something leads; `own` is the upstream that its own addresses make, `tenant` the usual owner."""
    if to.endpoint is not None:
        return {"endpoint": {"tenant": to.tenant or tenant or "", "endpoint": to.endpoint}}
    return {"upstream": to.upstream if to.upstream is not None else own}


def host_header(written: str) -> str | dict[str, str]:
    """What an upstream sees as Host."""
    return written if written in ("keep", "rewrite") else {"set": written}


def _edits(edits: Edits) -> dict[str, Any]:
    return {"remove": list(edits.remove), "set": list(edits.set.items()), "add": list(edits.add.items())}


def client_tls(tls: ClientTls, where: str, checked: Checked) -> dict[str, Any]:
    """How a server's certificate is checked, with the text of every file."""
    return {
        "ca": checked.pem(f"{where}.ca", tls.ca, "CERTIFICATE"),
        "cert": checked.pem(f"{where}.cert", tls.cert, "CERTIFICATE"),
        "key": checked.pem(f"{where}.key", tls.key, "PRIVATE KEY"),
        "server_name": tls.server_name,
        "insecure_skip_verify": tls.insecure_skip_verify,
    }


def server_tls(tls: ServerTls | None, where: str, checked: Checked) -> dict[str, Any] | None:
    """How a listener speaks TLS, with the text of every file."""
    if tls is None:
        return None
    return {
        "certificates": [
            certificate(each, f"{where}.certificates[{position}]", checked)
            for position, each in enumerate(tls.certificates)
        ],
        "client_ca": checked.pem(f"{where}.client_ca", tls.client_ca, "CERTIFICATE"),
        "client_certificate": tls.client_certificate,
        "min_version": tls.min_version,
    }


def certificate(written: Certificate, where: str, checked: Checked) -> dict[str, Any]:
    """A certificate and its key, with the text of both."""
    cert = checked.pem(f"{where}.cert", written.cert, "CERTIFICATE")
    key = checked.pem(f"{where}.key", written.key, "PRIVATE KEY")
    if cert is not None and key is not None:
        from tidegate.config import certificates  # noqa: PLC0415  OpenSSL takes a while to load

        checked.call(f"{where}.key", certificates.match, written.cert, written.key)
    return {"cert": cert, "key": key, "name": written.cert}
