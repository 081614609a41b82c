"""A gateway that asks for tokens, and how a test knocks at it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.support.http import Response, request
from tests.support.issuer import Issuer
from tests.support.raw import Raw
from tests.support.tidegate import Gateway

LOCAL = "127.0.0.1:0"

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
"""What a client asks for who wants to speak WebSocket."""


def config(*issuers: Issuer, **more: Any) -> dict[str, Any]:
    """Agents and visitors show a token of one of the issuers; `more` goes on top of it, `listeners` beside it."""
    names = [issuer.name for issuer in issuers]
    auth = {"verifiers": names}
    listeners: dict[str, Any] = {
        "agents": {"bind": LOCAL, "kind": "tunnel", "auth": auth},
        "proxy": {"bind": LOCAL, "auth": auth, "dynamic_endpoints": {"allow": ["web", "echo", "go", "kept"]}},
    }
    return {
        "verifiers": {issuer.name: issuer.source for issuer in issuers},
        **more,
        "listeners": {**listeners, **more.get("listeners", {})},
    }


def knock(agents: str, endpoint: str, headers: Mapping[str, str] | None = None) -> Response:
    """What an agent is answered that wants to offer an endpoint: 101, or why not."""
    return request(agents, f"/piko/v1/upstream/{endpoint}", headers={**UPGRADE, **(headers or {})})


def begun(gateway: Gateway, head: str, fields: Mapping[str, str]) -> Raw:
    """A request whose answer has begun, and does not end by itself."""
    visitor = Raw(gateway.proxy)
    lines = [f"{head} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    visitor.send("\r\n".join([*lines, "", ""]).encode())
    visitor.until(b"begun")
    return visitor


def refusal(response: Response) -> tuple[int, str]:
    """The status of an answer, and its error in JSON."""
    assert response.headers["Content-Type"].startswith("application/json"), response
    return response.status, response.json()["error"]
