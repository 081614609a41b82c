"""
Decides who may ask the admin listener what, before anything is answered.

Without `admin.auth` strangers see what a load balancer or Prometheus asks for, and this machine, or who has shown a
client certificate, sees and changes everything. With it everybody needs a good token, this machine too, except for
/health and /ready, and except whoever has shown a client certificate that `admin.tls.client_ca` has issued. Whether a
token is good is told by `admin.tokens`.
"""

import ipaddress
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tidegate.admin.answers import error
from tidegate.admin.tokens import OverloadedError, Tokens
from tidegate.auth.verdict import Granted, Refused
from tidegate.control.state import Admin

if TYPE_CHECKING:
    from tidegate.auth.verify import VerifierSet

__all__ = ["KNOWN", "Gate", "is_permitted"]

# What a load balancer or Prometheus asks for: any Host and none, from anywhere.
OPEN_PATHS = frozenset({"/health", "/ready", "/metrics"})
# What strangers may read besides. The paths below it name endpoints, which can be secrets.
STRANGERS_PATHS = OPEN_PATHS | {"/status"}
# The key of a scope that says that its connection showed a client certificate which was asked for.
KNOWN = "tidegate.known"
# What is answered without a token where tokens are asked for.
PROBES = frozenset({"/health", "/ready"})
# Where a token may stand (compat.md §1.1); the first that is there counts.
CREDENTIALS = (b"x-tidegate-authorization", b"x-piko-authorization", b"authorization")
TEXTS = {"expired_token": "expired token", "unknown_tenant": "unknown tenant"}


class Gate:
    """Lets through who may ask."""

    def __init__(self, app: ASGIApp, admin: Callable[[], Admin], tokens: Tokens) -> None:
        self._app = app
        self._admin = admin
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 401, 403 or 503, or passes the request on."""
        refusal = None
        if scope["type"] == "http":
            auth = self._admin().auth
            refusal = await self._identify(scope, auth) if auth is not None else None
            refusal = refusal or self._refusal(scope)
        await (refusal or self._app)(scope, receive, send)

    async def _identify(self, scope: Scope, auth: "VerifierSet") -> Response | None:
        """Says that the other end is known where its token is good; who needs none goes on unknown."""
        reading = scope["method"] in ("GET", "HEAD")
        if scope.get(KNOWN) or (reading and scope["path"] in PROBES):
            return None
        token = _token(scope)
        if isinstance(token, Response):
            return token
        try:
            verdict = await self._tokens.judge(auth, token, (scope.get("client") or ("",))[0])
        except OverloadedError:
            return error(503, "overloaded", "too many tokens wait to be verified; try again")
        if isinstance(verdict, Granted):
            scope[KNOWN] = True
            return None
        if isinstance(verdict, Refused):
            return _unauthorized(TEXTS.get(verdict.code, "invalid token"), "ask for a token that admin.auth accepts")
        return error(503, "credentials cannot be checked now", "the keys of admin.auth cannot be fetched")

    def _refusal(self, scope: Scope) -> Response | None:
        path, reading = scope["path"], scope["method"] in ("GET", "HEAD")
        if not is_permitted(scope) and not (reading and path in STRANGERS_PATHS):
            return error(403, "not from here", f"without a client certificate, {path} is only for this machine itself")
        if reading and path in OPEN_PATHS:
            return None
        host = header(scope, b"host")
        if not self._is_ours(host):
            return error(403, "unknown host", "use localhost or an IP address, or add the name to admin.hosts")
        origin = header(scope, b"origin")
        if origin is not None and origin != f"{scope['scheme']}://{host}":
            return error(403, "foreign origin", "pages of other sites may not ask this listener")
        return None

    def _is_ours(self, host: str | None) -> bool:
        name = host_name(host or "")
        ours = {each.lower().rstrip(".") for each in self._admin().hosts}
        return name == "localhost" or name in ours or is_ip(name)


def _token(scope: Scope) -> str | Response:
    """The bearer token of a request, or the answer to one that shows none."""
    for name in CREDENTIALS:
        shown = header(scope, name)
        if shown == "":
            return error(400, "malformed request", f"{name.decode()} is empty, or there twice")
        if shown is not None:
            scheme, _, token = shown.partition(" ")
            if scheme.lower() != "bearer":
                return _unauthorized("unsupported auth type", "show a token: Authorization: Bearer TOKEN")
            return token.strip() or _unauthorized("invalid authorization", "show a token: Authorization: Bearer TOKEN")
    return _unauthorized("missing authorization", "show a token: Authorization: Bearer TOKEN, or --token-file FILE")


def _unauthorized(what: str, detail: str) -> Response:
    response = error(401, what, detail)
    response.headers["WWW-Authenticate"] = 'Bearer realm="tidegate admin"'
    return response


def is_permitted(scope: Scope) -> bool:
    """Whether the other end may see names and change something: this machine, or who has shown who it is."""
    return bool(scope.get(KNOWN)) or is_local(scope)


def is_local(scope: Scope) -> bool:
    """Whether the other end is this machine."""
    client = scope.get("client")
    if not client:
        return False
    try:
        address = ipaddress.ip_address(client[0].partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def host_name(host: str) -> str:
    """The name in a Host header, without its port, in the form names are compared in."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, colon, port = host.rpartition(":")
    name = name if colon and port.isdecimal() else host
    return name.lower().rstrip(".")


def is_ip(name: str) -> bool:
    """Whether a host is written as an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def header(scope: Scope, name: bytes) -> str | None:
    """The value of a header that came once; two are as good as none that fits."""
    values = [value for key, value in scope["headers"] if key == name]
    if not values:
        return None
    return str(values[0].decode("latin-1")) if len(values) == 1 else ""
