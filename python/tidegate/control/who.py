"""
Who may take the way that a request takes: what `explain` adds to the engine's answer.

Pure: a snapshot and that answer in, words out.
"""

from collections.abc import Mapping
from typing import Any

__all__ = ["who"]


def who(snapshot: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """`from` (networks), `shows` (credentials, any of them) and `tenant`; only what narrows."""
    listener = _named(snapshot, "listeners", told.get("listener"))
    route = _named(snapshot, "routes", told.get("route"))
    found: dict[str, Any] = {}
    networks = [words for each in (listener, route) if (words := _from(each))]
    if networks:
        found["from"] = networks
    asked = route.get("auth", "inherit")
    if asked == "inherit":
        # What is passed through cannot be asked.
        asked = None if route.get("sni") else listener.get("auth")
    if asked:
        found["shows"] = _shows(asked)
    tenant = _tenant(route) or listener.get("tenant")
    if tenant:
        found["tenant"] = tenant
    return found


def _named(snapshot: Mapping[str, Any], kind: str, told: Mapping[str, Any] | None) -> Mapping[str, Any]:
    name = told.get("name") if told else None
    return next((each for each in snapshot.get(kind, []) if each["name"] == name), {})


def _from(part: Mapping[str, Any]) -> str:
    allow, deny = (", ".join(map(_network, part.get(key) or [])) for key in ("allow", "deny"))
    return " ".join([*([allow] if allow else []), *([f"not {deny}"] if deny else [])])


def _network(text: str) -> str:
    """One address stands without the length of its prefix."""
    return text.removesuffix("/128" if ":" in text else "/32")


def _tenant(route: Mapping[str, Any]) -> str:
    forward = (route.get("action") or {}).get("forward") or {}
    return str((forward.get("to", {}).get("endpoint") or {}).get("tenant", ""))


def _shows(asked: Mapping[str, Any]) -> list[str]:
    shows = []
    if asked.get("set"):
        shows.append(f"a token of {_verifiers(asked['set'])}")
    if asked.get("by_tenant") is not None:
        sets = asked["by_tenant"].items()
        shows.append("a token of " + "; ".join(f"{_verifiers(name)} for tenant {tenant}" for tenant, name in sets))
    if asked.get("basic"):
        shows.append("a user's password")
    if asked.get("certificate"):
        shows.append("a client certificate")
    return shows


def _verifiers(name: str) -> str:
    """The names in the id of a set."""
    return name.rpartition("/")[0].replace(",", " or ")
