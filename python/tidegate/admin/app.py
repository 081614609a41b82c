"""
Answers health, readiness, metrics and status over HTTP.

Who may see what is `admin.gate`'s; what there is to see comes from `control.state`, the socket is `admin.server`'s.
Errors are JSON: `{"error": what, "detail": what to do}`.
"""

from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from tidegate.admin.answers import as_json, error
from tidegate.admin.gate import Gate, is_permitted
from tidegate.admin.tokens import Tokens
from tidegate.control.background import Background
from tidegate.control.question import question
from tidegate.control.state import Admin, State
from tidegate.errors import ConfigError, EngineError

__all__ = ["create_app"]

# What strangers do not see of /status.
NAMING_KEYS = frozenset({"endpoints", "forwards", "problems", "routes", "upstreams"})


def create_app(state: State, admin: Callable[[], Admin], background: Background) -> ASGIApp:
    """The application of one running role; `admin` is what is in force; tokens are verified on `background`."""

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
        middleware=[Middleware(Gate, admin=admin, tokens=Tokens(background))],
        exception_handlers={HTTPException: on_http_error, Exception: on_error},
    )


def quick(answer: Any) -> Any:
    """Runs a short handler on the loop itself: a thread would cost more than the answer."""

    async def handler(request: Request) -> Response:
        response: Response = answer(request)
        return response

    return handler


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
