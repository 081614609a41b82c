"""
What a running role shows of itself: status, readiness, metrics, and the options it was started with.

Decides only what the engine's answers mean. Who may see them over HTTP is `admin.app`; running is `control.roles`.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # an agent without tokens has no use for what checks them
    from tidegate.auth.credentials import Credentials
    from tidegate.auth.verify import VerifierSet


__all__ = [
    "Admin", "AdminServer", "Configuration", "LogOptions", "Outcome", "Reloading", "Role", "State", "Tls",
]  # fmt: skip


@dataclass(frozen=True)
class Tls:
    """The certificate of the admin listener, and whose certificates it asks for."""

    cert: str
    key: str
    client_ca: str | None = None
    required: bool = True
    min_version: str = "1.2"
    digest: str = ""
    """What the files held, so that a renewed certificate is told from the one before."""


@dataclass(frozen=True)
class Admin:
    """Where the admin listener binds, the names it answers to besides localhost and IP addresses, and its TLS."""

    bind: str
    hosts: tuple[str, ...] = ()
    tls: Tls | None = None
    auth: "VerifierSet | None" = field(default=None, compare=False)
    """Whose tokens are good; none: nobody is asked for one."""


@dataclass(frozen=True)
class LogOptions:
    """How events are written: `format` is auto, text or json; `level` the least that is shown."""

    format: str = "auto"
    level: str = "info"


@dataclass(frozen=True)
class Configuration:
    """One configuration, whole: what the engine gets, and what is Python's."""

    snapshot: bytes
    """What the engine gets."""
    source: str
    """Where it came from, in words."""
    grace_period: float
    """Longest time to finish what runs when stopping."""
    log: LogOptions
    """How events are written."""
    admin: Admin | None
    """The admin listener, where there is one."""
    credentials: "Credentials | None" = field(default=None, compare=False)
    """Who answers what is asked about credentials, where something is asked."""
    keys: frozenset[str] = frozenset()
    """What they believe, so that a key that was replaced is told from the one before."""


class Role(Protocol):
    """A running gateway, agent or forward, as `tidegate.engine` gives it."""

    async def next_event(self) -> dict[str, Any]:
        """Waits for the next event."""
        ...

    def status(self) -> dict[str, Any]:
        """The state of everything."""
        ...

    def lists(self) -> dict[str, Any]:
        """What may be thousands of entries long, and is left out of the status."""
        ...

    def metrics(self) -> bytes:
        """All metrics in Prometheus' text format."""
        ...

    def explain(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """What becomes of a request, and why."""
        ...

    def apply(self, snapshot: bytes) -> None:
        """Replaces the whole configuration, or raises and changes nothing."""
        ...

    def set_level(self, level: str) -> None:
        """What a person wants to see from now on."""
        ...

    def next_question(self, kind: str, timeout: float) -> dict[str, Any] | None:
        """Waits for the next question about a credential."""
        ...

    def answer(self, number: int, verdict: bytes) -> None:
        """Answers a question."""
        ...

    def revoke(self, keys: Collection[str]) -> int:
        """Ends what these keys have verified."""
        ...

    def set_token(self, token: str) -> None:
        """Agent and forward: what is shown to gateways from the next connection on."""
        ...

    def drain(self, grace: float) -> None:
        """Begins to leave; the event `stopped` says when it has ended."""
        ...

    def stop(self) -> None:
        """Ends everything now."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What came of one reload."""

    trigger: str
    """`file`, `signal` or `api`."""
    at: float
    """When, in seconds since 1970."""
    seconds: float
    """How long it took."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """What is different now; nothing where it was refused."""
    reasons: tuple[str, ...] = ()
    """Why it was refused; none where it is in force."""

    @property
    def applied(self) -> bool:
        """Whether it is in force."""
        return not self.reasons


class Reloading(Protocol):
    """The configuration of a running role, as `control.reload` keeps it."""

    async def reload(self, trigger: str) -> Outcome:
        """Reads everything again and puts it in force, or changes nothing."""
        ...

    def status(self) -> dict[str, Any]:
        """What is in force and since when, and what was refused last."""
        ...

    def problems(self) -> list[str]:
        """What an operator should look at."""
        ...

    def metrics(self) -> bytes:
        """What became of new configurations, in Prometheus' text format."""
        ...


class State:
    """What the admin listener and the supervisor know about a role."""

    def __init__(self, role: Role, kind: str) -> None:
        self._role = role
        self.kind = kind
        self.draining = False
        self.reloads: Reloading | None = None
        self.more_problems: Callable[[], list[str]] = list
        """What else an operator should look at."""

    def metrics(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return self._role.metrics() + (self.reloads.metrics() if self.reloads is not None else b"")

    def status(self) -> dict[str, Any]:
        """The engine's status, with what is wrong spelled out in `problems`."""
        status = self._role.status()
        problems = [str(problem) for problem in status.get("problems", [])]
        for endpoint in self._without_tunnel(status):
            reason = _reason(endpoint)
            problems.append(f"endpoint {endpoint['name']} has no tunnel" + (f": {reason}" if reason else ""))
        if self.kind == "gateway" and self._drains(status):
            problems.append("draining: new connections are refused, and it ends when what runs has finished")
        problems += self.reloads.problems() if self.reloads is not None else []
        problems += self.more_problems()
        return {**status, **self._role.lists(), "problems": problems}

    def lists(self) -> dict[str, Any]:
        """Every route and upstream."""
        return self._role.lists()

    def explain(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """What becomes of a request now, and why; raises `EngineError` for what cannot be asked."""
        return self._role.explain(question)

    def agents(self) -> list[dict[str, Any]]:
        """Who is connected and offers what; an agent that does not say who it is counts as one for each tunnel."""
        found: dict[str, dict[str, Any]] = {}
        for endpoint in self._role.status().get("endpoints", []):
            for session in endpoint.get("listeners", []):
                key = str(session.get("agent") or session.get("address"))
                one = found.setdefault(
                    key,
                    {
                        "agent": session.get("agent"),
                        "address": session.get("address"),
                        "endpoints": [],
                        "sessions": 0,
                        "transports": [],
                        "not_quic": [],
                        "since": session.get("since"),
                    },
                )
                if session.get("transport") not in one["transports"]:
                    one["transports"].append(session.get("transport"))
                if session.get("not_quic") and session["not_quic"] not in one["not_quic"]:
                    one["not_quic"].append(session["not_quic"])
                one["sessions"] += 1
                one["since"] = min(filter(None, (one["since"], session.get("since"))), default=None)
                if endpoint["name"] not in one["endpoints"]:
                    one["endpoints"].append(endpoint["name"])
        return list(found.values())

    def not_ready(self) -> str | None:
        """Why traffic should not be sent here, or nothing."""
        status = self._role.status()
        if self._drains(status):
            return "draining"
        for listener in [*status.get("listeners", []), *status.get("forwards", [])]:
            if not (listener.get("addresses") or listener.get("address")):
                return f"listener {listener.get('name', '')} is not bound"
        waiting = [endpoint["name"] for endpoint in self._without_tunnel(status)]
        return f"no tunnel for {', '.join(waiting)}" if waiting else None

    def refused_for_good(self) -> str | None:
        """Why no tunnel will ever come up, where every one was refused; else nothing."""
        if self.kind != "agent":
            return None
        endpoints = self._role.status().get("endpoints", [])
        tunnels = [tunnel for endpoint in endpoints for tunnel in endpoint.get("tunnels", [])]
        if not tunnels or any(tunnel.get("state") != "refused" for tunnel in tunnels):
            return None
        return _reason({"tunnels": tunnels}) or "refused"

    def _drains(self, status: dict[str, Any]) -> bool:
        return self.draining or status.get("state", "running") != "running"

    def _without_tunnel(self, status: dict[str, Any]) -> list[dict[str, Any]]:
        if self.kind != "agent":
            return []
        return [
            endpoint
            for endpoint in status.get("endpoints", [])
            if not any(tunnel.get("state") == "connected" for tunnel in endpoint.get("tunnels", []))
        ]


def _reason(endpoint: dict[str, Any]) -> str:
    reasons = {str(tunnel["reason"]): None for tunnel in endpoint.get("tunnels", []) if tunnel.get("reason")}
    return ", ".join(reasons)


class AdminServer(Protocol):
    """An admin listener that is bound and not yet served."""

    addresses: list[str]

    def close(self) -> None:
        """Gives the port back. Idempotent."""
        ...

    def prepare(self, admin: Admin) -> Callable[[], None]:
        """Checks new names and certificates, or raises `ConfigError`; what is returned puts them in force."""
        ...

    def serve(self, state: State) -> AbstractAsyncContextManager[None]:
        """Answers as long as the context lasts."""
        ...
