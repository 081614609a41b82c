"""
What one snapshot says differently from another, in short.

Pure: two snapshots in, names and counts out; the sentence about them is `wording`'s.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["changes", "needs_restart"]

MOST_NAMES = 10
"""So many names are told of each; all of them are counted."""

_KINDS = ("listeners", "routes", "upstreams")
_WRITTEN = {"verifier_sets": "verifiers"}
"""What the engine calls otherwise than people write it."""
_OF_ROUTES = ("name", "action", "allow", "deny", "auth")
"""What of a route is no part of its match."""
_BY_POSITION = re.compile(r"routes\[\d+\]")

Snapshot = Mapping[str, Any]
Found = dict[str, tuple[str, Any]]
"""What is compared: key -> name to tell, and everything that may differ."""


def changes(before: Snapshot, after: Snapshot) -> dict[str, dict[str, Any]]:
    """`{"routes": {"added": {"count": 1, "names": ["shop"]}}}` and so on; only what differs is in it."""
    found: dict[str, dict[str, Any]] = {}
    if before == after:
        return found
    for kind, described in (("listeners", _named), ("routes", _routes), ("upstreams", _upstreams)):
        differing = _compare(described(before, kind), described(after, kind))
        if differing:
            found[kind] = differing
    settings = [
        _WRITTEN.get(key, key) for key in {**before, **after} if key not in _KINDS and before.get(key) != after.get(key)
    ]
    if settings:
        found["settings"] = {"changed": _told(settings)}
    return found


def needs_restart(before: Snapshot, after: Snapshot) -> list[str]:
    """Sentences about what the engine cannot change while it runs."""
    one, other = before.get("workers"), after.get("workers")
    if one == other:
        return []
    return [f"workers: {one} are running, and {other} take a restart (everything else waits for it, too)"]


def _compare(before: Found, after: Found) -> dict[str, Any]:
    differing = {
        "added": [after[key][0] for key in after if key not in before],
        "removed": [before[key][0] for key in before if key not in after],
        "changed": [after[key][0] for key in after if key in before and before[key][1] != after[key][1]],
    }
    return {what: _told(names) for what, names in differing.items() if names}


def _told(names: Sequence[str]) -> dict[str, Any]:
    return {"count": len(names), "names": list(names[:MOST_NAMES])}


def _named(snapshot: Snapshot, kind: str) -> Found:
    return {each["name"]: (each["name"], each) for each in snapshot.get(kind, [])}


def _upstreams(snapshot: Snapshot, kind: str) -> Found:
    # Those that are named by position belong to their route.
    return {key: value for key, value in _named(snapshot, kind).items() if not _BY_POSITION.fullmatch(key)}


def _routes(snapshot: Snapshot, kind: str) -> Found:
    """A route without a name of its own is known by what it matches: its position changes with every other one."""
    upstreams = {each["name"]: each for each in snapshot.get("upstreams", [])}
    found: Found = {}
    seen: Counter[str] = Counter()
    for route in snapshot.get(kind, []):
        name = route["name"]
        if not _BY_POSITION.fullmatch(name):
            found[name] = (name, route)
            continue
        key = str([value for part, value in route.items() if part not in _OF_ROUTES])
        seen[key] += 1
        who = [route.get(part) for part in ("allow", "deny", "auth")]
        found[f"{key} {seen[key]}"] = (_title(route), [_action(route, upstreams), who])
    return found


def _action(route: Snapshot, upstreams: Mapping[str, Any]) -> Any:
    """What a route does; an upstream of its own stands in the place of its name."""
    forward = route["action"].get("forward") if isinstance(route.get("action"), dict) else None
    if not forward or forward["to"].get("upstream") != route["name"]:
        return route.get("action")
    return {**forward, "to": {**upstreams[route["name"]], "name": ""}}


def _title(route: Snapshot) -> str:
    if route.get("sni"):
        return str(route["sni"])
    path = route.get("path") or {}
    return f"{route.get('host') or ''}{path.get('prefix') or path.get('exact') or ''}" or "every request"
