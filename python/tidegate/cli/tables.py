"""
Turns the admin listener's answers into aligned text.

Pure: JSON in, text out. RUNNING is how many requests run now, REQUESTS how many there were. Whatever a peer may have
named itself is printed without control characters.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any

from tidegate.control.logs import escape

__all__ = [
    "agents", "configuration", "duration", "endpoints", "one_endpoint", "plain", "routes", "screen", "table",
    "upstreams",
]  # fmt: skip


def screen(status: dict[str, Any]) -> str:
    """Everything about one process on one screen."""
    parts = [_headline(status)]
    if status.get("listeners"):
        parts.append(_listeners(status["listeners"]))
    if "endpoints" in status:
        parts.append(endpoints(status["endpoints"]))
    if status.get("forwards"):
        rows = [[f.get("address"), f.get("endpoint"), f.get("connections")] for f in status["forwards"]]
        parts.append(table(["FORWARD", "ENDPOINT", "CONNECTIONS"], rows))
    if status.get("totals"):
        parts.append(_totals(status["totals"]))
    parts.append(_problems(status.get("problems")))
    return "\n\n".join(parts)


def endpoints(found: Sequence[dict[str, Any]]) -> str:
    """One line for each endpoint."""
    if not found:
        return "no endpoints: no agent is connected (tidegate agent http 3000 offers one)"
    if any("tunnels" in endpoint for endpoint in found):
        return table(["ENDPOINT", "KIND", "TO", "TUNNELS", "URL"], [_offered(endpoint) for endpoint in found])
    return table(["ENDPOINT", "LISTENERS", "RUNNING", "STREAMS", "RTT"], [_reached(endpoint) for endpoint in found])


def one_endpoint(endpoint: dict[str, Any]) -> str:
    """One endpoint with each of its tunnels or listeners."""
    if "tunnels" in endpoint:
        rows = [
            [
                t.get("gateway"), t.get("slot"), t.get("transport"), t.get("state"), _ago(t.get("since")),
                t.get("reason"), t.get("not_quic"),
            ]
            for t in endpoint["tunnels"]
        ]  # fmt: skip
        head = f"endpoint {plain(endpoint.get('name'))} -> {_to(endpoint)}"
        return f"{head}\n\n{table(['GATEWAY', 'TUNNEL', 'TRANSPORT', 'STATE', 'SINCE', 'REASON', 'NOT QUIC'], rows)}"
    listeners = endpoint.get("listeners", [])
    rows = [
        [
            li.get("session"), li.get("agent"), li.get("address"), li.get("transport"), _ago(li.get("since")),
            li.get("requests_in_flight"), li.get("streams"), _rtt(li.get("rtt_ms")),
        ]
        for li in listeners
    ]  # fmt: skip
    columns = ["SESSION", "AGENT", "ADDRESS", "TRANSPORT", "SINCE", "RUNNING", "STREAMS", "RTT"]
    return f"endpoint {_name(endpoint)}\n\n{table(columns, rows)}"


def routes(found: Sequence[dict[str, Any]]) -> str:
    """One line for each route, in the order in which they are tried."""
    if not found:
        return "no routes: a request names its endpoint by itself"
    rows = [[r.get("name"), r.get("match"), r.get("to"), r.get("requests")] for r in found]
    return table(["ROUTE", "MATCH", "TO", "REQUESTS"], rows)


def upstreams(found: Sequence[dict[str, Any]]) -> str:
    """One line for each address of each upstream."""
    if not found:
        return "no upstreams: no route leads to addresses"
    rows = []
    for group in found:
        for at in group.get("addresses", []):
            row = [group.get("name"), at.get("address"), at.get("name"), at.get("state"), _ago(at.get("since"))]
            rows.append([*row, at.get("requests_in_flight"), at.get("requests"), at.get("failures"), at.get("reason")])
        if not group.get("addresses"):
            rows.append([group.get("name"), None, None, "no address", None, None, None, None, None])
    columns = ["UPSTREAM", "ADDRESS", "NAME", "STATE", "SINCE", "RUNNING", "REQUESTS", "FAILURES", "REASON"]
    return table(columns, rows)


def agents(found: Sequence[dict[str, Any]]) -> str:
    """One line for each agent."""
    if not found:
        return "no agent is connected (tidegate agent http 3000 is one)"
    rows = [
        [
            a.get("agent"), a.get("address"), ", ".join(a.get("endpoints", [])), a.get("sessions"),
            ", ".join(a.get("transports", [])), _ago(a.get("since")), ", ".join(a.get("not_quic", [])),
        ]
        for a in found
    ]  # fmt: skip
    return table(["AGENT", "ADDRESS", "ENDPOINTS", "TUNNELS", "TRANSPORT", "SINCE", "NOT QUIC"], rows)


def configuration(found: dict[str, Any]) -> str:
    """What is in force, and what was refused last."""
    lines = [
        f"in force for {_ago(found.get('since'))}: {plain(found.get('source'))} (hash {plain(found.get('hash'))})",
        *[f"  {plain(name)}" for name in found.get("files", [])],
    ]
    refused = found.get("last_refused")
    if refused:
        why = "and is what is written now" if not found.get("in_force") else "and has been put right since"
        lines += [f"refused {_ago(refused.get('at'))} ago, {why}:", *[f"  {plain(r)}" for r in refused["reasons"]]]
    return "\n".join(lines)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Columns as wide as their widest cell; numbers stand at the right."""
    cells = [[plain(value) for value in row] for row in rows]
    right = [
        bool(cells) and all(row[i].replace(".", "", 1).isdigit() or row[i] == "-" for row in cells)
        for i in range(len(columns))
    ]
    widths = [max(len(row[i]) for row in [list(columns), *cells]) for i in range(len(columns))]
    lines = [
        "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in [list(columns), *cells]
    ]
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """`42 s`, `3 min 5 s`, `2 h 10 min`, `4 d 3 h`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def plain(value: Any) -> str:
    """A cell without control characters; a dash for nothing."""
    return "-" if value is None or value == "" else escape(str(value))


def _headline(status: dict[str, Any]) -> str:
    name = f"tidegate {plain(status.get('role'))} {plain(status.get('version'))}"
    words = [name, plain(status.get("state", "running"))]
    if isinstance(status.get("uptime"), int | float):
        words.append(f"up {duration(status['uptime'])}")
    if status.get("workers"):
        words.append(f"{plain(status['workers'])} worker" + ("" if status["workers"] == 1 else "s"))
    return ", ".join(words)


def _listeners(listeners: Sequence[dict[str, Any]]) -> str:
    rows = [
        [li.get("name"), li.get("kind"), ", ".join(map(str, li.get("addresses", []))), li.get("connections")]
        for li in listeners
    ]
    return table(["LISTENER", "KIND", "ADDRESS", "CONNECTIONS"], rows)


def _reached(endpoint: dict[str, Any]) -> list[Any]:
    listeners = endpoint.get("listeners", [])
    times = [li["rtt_ms"] for li in listeners if isinstance(li.get("rtt_ms"), int | float)]
    requests = sum(li.get("requests_in_flight") or 0 for li in listeners)
    streams = sum(li.get("streams") or 0 for li in listeners)
    return [_name(endpoint), len(listeners), requests, streams, _rtt(min(times, default=None))]


def _offered(endpoint: dict[str, Any]) -> list[Any]:
    tunnels = endpoint.get("tunnels", [])
    connected = sum(1 for tunnel in tunnels if tunnel.get("state") == "connected")
    url = next((tunnel["url"] for tunnel in tunnels if tunnel.get("url")), None)
    return [endpoint.get("name"), endpoint.get("kind"), _to(endpoint), f"{connected} of {len(tunnels)}", url]


def _name(endpoint: dict[str, Any]) -> str:
    tenant = f"{plain(endpoint['tenant'])}/" if endpoint.get("tenant") else ""
    return tenant + plain(endpoint.get("name"))


def _to(endpoint: dict[str, Any]) -> str:
    return plain(endpoint.get("to"))


def _totals(totals: dict[str, Any]) -> str:
    counted = [(value, name.removesuffix("s") if value == 1 else name) for name, value in totals.items()]
    return "since the start: " + ", ".join(f"{plain(value)} {plain(name)}" for value, name in counted)


def _problems(problems: Sequence[Any] | None) -> str:
    if problems is None:
        return "what is wrong is shown on the machine itself only"
    if not problems:
        return "nothing is wrong"
    return "\n".join(["wrong:", *[f"  {plain(problem)}" for problem in problems]])


def _rtt(milliseconds: Any) -> str | None:
    return f"{milliseconds:.1f} ms" if isinstance(milliseconds, int | float) else None


def _ago(since: Any) -> str | None:
    return duration(time.time() - since) if isinstance(since, int | float) else None
