"""What came of a credential, as the engine is told."""

from dataclasses import dataclass
from typing import Any

from tidegate.auth.token import permits

__all__ = ["EXPIRED", "INVALID", "UNKNOWN_TENANT", "Granted", "Refused", "Unavailable", "Verdict", "agreed_tenant"]

INVALID = "invalid_token"
EXPIRED = "expired_token"
UNKNOWN_TENANT = "unknown_tenant"


@dataclass(frozen=True)
class Granted:
    """The credential is good."""

    key: str
    """What verified it: when that goes, so does whatever lives under it."""
    tenant: str = ""
    """Whose it is, or nothing."""
    listen: tuple[str, ...] | None = ()
    """Patterns of the endpoints that may be offered; none means all."""
    reach: tuple[str, ...] | None = ()
    """Patterns of the endpoints that may be reached; none means all."""
    expires: float | None = None
    """When it ends, in seconds since 1970."""
    limits: dict[str, Any] | None = None
    """How much may live under it."""

    def may_listen(self, endpoint: str) -> bool:
        """Whether an agent may offer this endpoint."""
        return permits(self.listen, endpoint)

    def may_reach(self, endpoint: str) -> bool:
        """Whether a request may go to this endpoint."""
        return permits(self.reach, endpoint)

    def as_verdict(self) -> dict[str, Any]:
        """The answer to the engine's question."""
        granted = {
            "tenant": self.tenant,
            "listen": None if self.listen is None else list(self.listen),
            "reach": None if self.reach is None else list(self.reach),
            "expires": self.expires,
            "key": self.key,
            "limits": self.limits,
        }
        return {"granted": granted}


@dataclass(frozen=True)
class Refused:
    """The credential is not good."""

    code: str
    """One of the engine's error codes."""
    reason: str
    """Why, for a person who holds it; strangers are told the code only."""
    keep: float = 10.0
    """Seconds for which the same credential need not be asked about again."""

    def as_verdict(self) -> dict[str, Any]:
        """The answer to the engine's question."""
        return {"refused": self.code, "keep": self.keep}


@dataclass(frozen=True)
class Unavailable:
    """Nobody can say now."""

    why: str
    """What is missing."""

    def as_verdict(self) -> dict[str, Any]:
        """The answer to the engine's question."""
        return {"unavailable": self.why}


Verdict = Granted | Refused | Unavailable


def agreed_tenant(asked: str, *said: str) -> str | None:
    """The one tenant that all agree on who name one; none where they do not, or where it is not the one asked for."""
    named = {tenant for tenant in said if tenant}
    if len(named) > 1:
        return None
    tenant = named.pop() if named else ""
    return tenant if asked in ("", tenant) else None
