"""
Answers health, readiness, metrics and status over HTTP.

Decides who may see what; what there is to see comes from `control.state`, the socket is `admin.server`'s. Errors are
JSON: `{"error": what, "detail": what to do}`.
"""

import ipaddress
import json
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tidegate.control.question import question
from tidegate.control.state import Admin, State
from tidegate.errors import ConfigError, EngineError

__all__ = ["KNOWN", "create_app"]

# What a load balancer or Prometheus asks for: any Host and none, from anywhere.
OPEN_PATHS = frozenset({"/health", "/ready", "/metrics"})
# What strangers may read besides. The paths below it name endpoints, which can be secrets.
STRANGERS_PATHS = OPEN_PATHS | {"/status"}
# What strangers do not see of /status.
NAMING_KEYS = frozenset({"endpoints", "forwards", "problems", "routes", "upstreams"})
# The key of a scope that says that its connection showed a client certificate which was asked for.
KNOWN = "tidegate.known"


def create_app(state: State, admin: Callable[[], Admin]) -> ASGIApp:
    """The admin listener's application for one running role; `admin` is what is in force."""

    def health(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    def ready(_: Request) -> Response:
        reason = state.not_ready()
        if reason is None:
            return PlainTextResponse("ready\n")
        return error(503, "not ready", reason)

    def metrics(_: Request) -> Response:
        return Response(state.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def status(request: Request) -> Response:
        whole = state.status()
        if not is_permitted(request.scope):
            whole = {key: value for key, value in whole.items() if key not in NAMING_KEYS}
        return as_json(whole)

    def endpoints(_: Request) -> Response:
        return as_json({"endpoints": state.status().get("endpoints", [])})

    def endpoint(request: Request) -> Response:
        name = request.path_params["name"]
        tenant = request.query_params.get("tenant", "")
        for found in state.status().get("endpoints", []):
            if found.get("name") == name and found.get("tenant", "") == tenant:
                return as_json(found)
        return error(404, "no such endpoint", f"nobody offers {name} here; GET /status/endpoints lists what there is")

    def listed(key: str) -> Callable[[Request], Response]:
        return lambda _: as_json({key: state.lists().get(key, [])})

    def configuration(_: Request) -> Response:
        if state.reloads is None:
            return error(404, "not found", "nothing is known of the configuration")
        return as_json(state.reloads.status())

    def explain(request: Request) -> Response:
        given = request.query_params
        if "url" not in given:
            return error(400, "no url", "ask /status/explain?url=https://app.example.com/path")
        try:
            asked = question(
                given["url"],
                method=given.get("method", "GET"),
                headers=given.getlist("header"),
                sni=given.get("sni"),
                listener=given.get("listener"),
            )
            return as_json(state.explain(asked))
        except (ConfigError, EngineError) as mistake:
            return error(400, "cannot be asked", str(mistake))

    async def reload(_: Request) -> Response:
        if state.reloads is None:
            return error(404, "not found", "there is nothing to reload")
        outcome = await state.reloads.reload("api")
        if outcome.applied:
            return as_json({"result": "applied", "seconds": outcome.seconds, "changes": outcome.changes})
        reasons = {"reasons": list(outcome.reasons)}
        body = {"error": "configuration refused", "detail": "; ".join(outcome.reasons), "result": "refused", **reasons}
        return as_json(body, 422)

    return Starlette(
        routes=[
            Route("/health", quick(health)),
            Route("/ready", quick(ready)),
            Route("/metrics", quick(metrics)),
            Route("/status", quick(status)),
            Route("/status/endpoints", quick(endpoints)),
            Route("/status/endpoints/{name}", quick(endpoint)),
            Route("/status/routes", quick(listed("routes"))),
            Route("/status/upstreams", quick(listed("upstreams"))),
            Route("/status/agents", quick(lambda _: as_json({"agents": state.agents()}))),
            Route("/status/config", quick(configuration)),
            Route("/status/explain", quick(explain)),
            Route("/reload", reload, methods=["POST"]),
        ],
        middleware=[Middleware(Gate, admin=admin)],
        exception_handlers={HTTPException: on_http_error, Exception: on_error},
    )


class Gate:
    """Lets through who may ask, before anything is answered."""

    def __init__(self, app: ASGIApp, admin: Callable[[], Admin]) -> None:
        self._app = app
        self._admin = admin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 403 or passes the request on."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

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


def quick(answer: Any) -> Any:
    """Runs a short handler on the loop itself: a thread would cost more than the answer."""

    async def handler(request: Request) -> Response:
        response: Response = answer(request)
        return response

    return handler


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


def as_json(body: Any, status: int = 200) -> Response:
    """A JSON answer that a person can read too."""
    text = json.dumps(body, indent=2) + "\n"
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return Response(text, status, media_type="application/json", headers=headers)


def error(status: int, what: str, detail: str) -> Response:
    """An error as JSON."""
    return as_json({"error": what, "detail": detail}, status)


def on_http_error(request: Request, problem: Exception) -> Response:
    """404 and 405."""
    status = problem.status_code if isinstance(problem, HTTPException) else 500
    if status == 404:
        lists = "/status/endpoints[/NAME], /status/routes, /status/upstreams, /status/agents, /status/config, "
        lists += "/status/explain?url=URL"
        return error(404, "not found", f"there is /health, /ready, /metrics, /status, {lists} and POST /reload")
    what = "method not allowed" if status == 405 else "failed"
    response = error(status, what, f"{request.method} is not for this path")
    if isinstance(problem, HTTPException) and problem.headers:
        response.headers.update(problem.headers)
    return response


def on_error(_: Request, problem: Exception) -> Response:
    """A fault of ours; the log has it whole."""
    return error(500, "internal error", type(problem).__name__)
