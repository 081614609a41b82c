"""
Writes the pages of `docs/reference` from what they describe: the model, the commands, the engine and its sources.

Without arguments the pages are written; `--check` writes nothing and ends with 1 where a page is stale. The prose of a
page stands here, next to what it is about; nothing in the pages is written by hand.
"""

import contextlib
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from tidegate import engine
from tidegate.cli.main import cli
from tidegate.config.load import parse, validate
from tidegate.config.model import Agent, Forward, Gateway
from tidegate.config.reference import render as config_page
from tidegate.config.snapshot import agent_snapshot, forward_snapshot, gateway_snapshot
from tidegate.control.reload import metrics as reload_metrics

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs/reference"
WIDTH = 100
WAIT_SECONDS = 10.0
MADE = "This page is made by `tools/reference.py`; `make accept` writes it anew.\n"

ERRORS_INTRO = """\
An answer that tidegate makes itself is JSON, `{"error": MESSAGE, "detail": MORE}`, and carries the code in the header
`x-tidegate-error`. The access log (`error`) and `tidegate_errors_total` (`code`) use the same codes. What to do about
each: [troubleshooting](../how-to/troubleshooting.md).
"""
PROXY_HEADERS = """\

## PROXY headers

The [PROXY protocol](../how-to/pass-tls-through.md#who-the-client-is) comes before the first byte of anything else, so
what a peer gets for a header depends on what the listener speaks.

From a stranger, or from anybody where `proxy_protocol` is not set:

- `http` and `connect`: 400 `malformed_request`.
- `http` and `connect` with `tls`: 400 `tls_expected` for version 1, the alert `unexpected_message` for version 2.
- `tcp`: a reset, in the log `downstream_closed`. Where `proxy_protocol` is not set the service gets the header like any
  other bytes.

From a load balancer of `proxy_protocol`, on every kind of listener:

- a broken header, or none: a reset, in the log `malformed_request`.
- no whole header within `timeouts.handshake`: a reset, in the log `downstream_timeout`.
- nothing at all, and the end of the connection: no answer and no line in the log. It looked whether the port is open.

A reset is bare: before its header nobody knows what a connection speaks, and an answer would be read as one to the
client behind it.
"""
EVENTS_INTRO = """\
Events go to stderr: a line to read on a terminal, one JSON object a line otherwise (`--log-format`). Every object has
`time`, `level` and `event`; the fields below come with it where they are known. Secrets are masked.
"""
ACCESS_INTRO = """\
One line for each request or stream that has ended, to stdout (`--access-log stdout|FILE|off`), JSON unless stdout is a
terminal (`--access-log-format`).
"""
METRICS_INTRO = """\
`GET /metrics` of the admin listener, in Prometheus' text format. Values of labels come from the configuration and from
accepted agents, never from a request.
"""

# Event -> who says it, and what it means. An event of the sources that is missing here is an error, and the other way
# round.
EVENTS = {
    "started": ("all", "A role begins; which configuration is in force."),
    "listening": ("all", "An address is bound: one event for each."),
    "listener closed": (
        "gateway",
        "A new configuration has no use for an address any more: nothing is accepted there.",
    ),
    "terms changed": (
        "gateway",
        "A listener asks something else of connections now (TLS, client certificates, PROXY headers): those that it "
        "has end after what runs.",
    ),
    "configuration applied": (
        "gateway",
        "A new configuration is in force, whole; what is different, by kind: how many and the first names.",
    ),
    "configuration refused": (
        "all",
        "A new configuration is not in force, and nothing has changed; every reason. `trigger` is file, signal or api.",
    ),
    "configuration half applied": (
        "gateway",
        "A new configuration is in force, but for a mistake of ours not the whole of its `log` and `admin`.",
    ),
    "no authentication": ("all", "A tunnel or admin listener is open to strangers; the detail says how to close it."),
    "credential not judged": (
        "gateway",
        "A mistake of ours kept a credential from being judged: it was answered 503. What was asked is not shown.",
    ),
    "keys not fetched": (
        "gateway",
        "A set of keys cannot be fetched: the last good ones count until `max_stale`. Said once for each reason.",
    ),
    "keys all withdrawn": (
        "gateway",
        "A set of keys was fetched and holds none that counts, so that no token of it is good, and why. Said once.",
    ),
    "keys fetched again": ("gateway", "Every set of keys could be fetched again, and holds some that count."),
    "keys removed": (
        "gateway",
        "Keys are no longer believed; whatever they had verified, `ended` credentials, ends.",
    ),
    "unwise credentials": (
        "gateway",
        "A secret is short, its file is open to others, passwords come without TLS or are hashed in several ways, or "
        "admin believes others' tokens; the detail says what to do.",
    ),
    "token renewed": (
        "agent, forward",
        "The token was read again and is another one; `expires` is what it says, in seconds since 1970.",
    ),
    "token not renewed": (
        "agent, forward",
        "The token could not be read again, and why; the one before stays in use. Said once for each reason.",
    ),
    "address changed": ("gateway", "An agent's tunnel over QUIC goes on from another address."),
    "agent connected": ("gateway", "A session of an agent began: an endpoint has one listener more."),
    "agent disconnected": ("gateway", "A session ended, and why."),
    "credentials ended": (
        "gateway",
        "Nobody vouches any more for so many, or their tenant is gone: what they had opened ends.",
    ),
    "agent refused": ("gateway", "Somebody asked for a tunnel in a way that is not served."),
    "no room for more connections": (
        "gateway, forward",
        "`limits.connections` are open, or descriptors are short: for each that comes the longest idle one ends, else "
        "it is refused. Said again only after there was room.",
    ),
    "handshake failed": ("gateway", "A connection to a port that speaks TLS was not served, and why."),
    "accepting rests": ("all", "No descriptor or memory is left for another connection; tried again."),
    "connected": ("agent", "A tunnel is up; the address of the application, where the gateway told it."),
    "transport changed": (
        "agent",
        "New requests come over QUIC instead of WebSocket, or the other way round, and why.",
    ),
    "quic unavailable": ("agent", "Why a tunnel is no QUIC, said once for each reason; QUIC is tried again and again."),
    "disconnected": ("agent", "A tunnel ended or could not be opened; when it is tried again, in seconds."),
    "refused": ("agent", "A gateway does not want the endpoint, for a reason that no time will change."),
    "giving up": ("agent", "Every tunnel was refused for good: the agent ends with exit code 1."),
    "nothing is allowed": (
        "agent",
        "An endpoint serves CONNECT and has no `allow`: whatever is asked for is refused.",
    ),
    "service unreachable": ("agent", "Nothing listens at a local address when the agent starts; it may still come."),
    "service healthy": ("agent", "A local service works, by its checks: its endpoint is offered."),
    "service unhealthy": ("agent", "A local service does not work, by its checks: its endpoint is withdrawn."),
    "upstream resolved": ("gateway", "A name of an upstream stands for other addresses than before."),
    "upstream not resolved": (
        "gateway",
        "A name of an upstream cannot be looked up: its last addresses go on. Said again after it could be.",
    ),
    "upstream down": ("gateway", "The checks of an address fail: it gets no requests while others work."),
    "upstream ejected": (
        "gateway",
        "Requests to an address, or to a session of an agent, failed in a row: it is left out for some seconds.",
    ),
    "upstream flooded": (
        "gateway, agent",
        "An HTTP/2 connection to an upstream was ended for frames that carry nothing; its requests get 502.",
    ),
    "upstream up": ("gateway", "What was down or ejected works again."),
    "stream refused": ("forward", "A connection was reset because no gateway opened a stream for it."),
    "draining": ("all", "The role is leaving: what is still running."),
    "stopped": ("all", "The role has left; `clean` is false where the grace period cut something off."),
    "stopped at once": ("all", "A second signal ended it."),
    "drain overdue": ("all", "The engine did not end in time and was stopped."),
    "ended by itself": ("all", "The engine ended without being asked to: a mistake of ours."),
    "events dropped": ("all", "More happened than could be written; how many events are missing."),
}
# Fields of the events that Python says, or that are put together by hand.
OTHER_FIELDS = {
    "started": ["role", "version", "configuration", "admin", "listeners", "public_url", "connect", "endpoints"],
    "configuration applied": ["source", "trigger", "seconds", "changes"],
    "configuration refused": ["source", "trigger", "seconds", "reasons"],
    "configuration half applied": ["source", "reason"],
    "no authentication": ["listener", "port", "detail"],
    "token renewed": ["expires"],
    "token not renewed": ["reason"],
    "giving up": ["reason"],
    "accepting rests": ["left_out"],
    "stopped at once": ["signal"],
    "drain overdue": ["grace"],
    "events dropped": ["count"],
}

ACCESS_FIELDS = {
    "time": "When it ended, seconds since 1970.",
    "id": "The request's id; answers made here carry it as `x-tidegate-request-id`.",
    "client": "Address and port of the downstream; at an agent the address that the gateway names, empty for TCP.",
    "listener": "The listener it came by; at an agent or forward the endpoint.",
    "method": "Null for a raw stream.",
    "host": "As it was sent.",
    "path": "With its query; at most 2,048 bytes are shown.",
    "route": "The route of the configuration that it took; empty where it took none.",
    "tenant": "The owner of the endpoint or of the credential that it came with; empty where there are no tenants.",
    "endpoint": "The endpoint or upstream it led to; empty where it reached none.",
    "upstream": "The session or address that answered, or the last that was tried.",
    "attempts": "Upstreams that were tried.",
    "status": "The status sent; 499 where the downstream left first, 0 for a raw stream.",
    "bytes_in": "Bytes of the request's body, or from the downstream of a stream.",
    "bytes_out": "Bytes of the response's body, or to the downstream of a stream.",
    "first_byte_ms": "Until the head of the answer was there.",
    "duration_ms": "From the first byte to the last.",
    "answered": "Who made the answer: gateway, agent or upstream.",
    "error": "The error code, or null.",
    "detail": "What a person needs besides the code.",
}


def errors() -> str:
    """The error codes."""
    text = [f"# Error codes\n\n{MADE}\n{ERRORS_INTRO}\n| Code | Status | `error` | Meaning |\n|---|---|---|---|\n"]
    text += [
        f"| `{code}` | {status} | {message} | {meaning.strip()} |\n"
        for code, status, message, meaning in engine.error_codes()
    ]
    text.append("\nStatus 499 is never sent: it stands in the access log where the downstream left first.\n")
    reserved = ", ".join(f"`{code}`" for code in _codes_without_use())
    if reserved:
        text.append(f"\nReserved, and not answered by this version: {reserved}.\n")
    return "".join([*text, PROXY_HEADERS])


def _codes_without_use() -> list[str]:
    names = re.findall(r'^    (\w+) = "(\w+)", ', _source("crates/engine/src/error.rs"), re.MULTILINE)
    others = [path for path in (ROOT / "crates/engine/src").rglob("*.rs") if path.name != "error.rs"]
    text = "\n".join(_source(path) for path in others)
    return [code for name, code in names if f"Code::{name}" not in text]


def commands() -> str:
    """The help of every command."""
    text = [f"# Commands\n\n{MADE}\nWhat `--help` says. Every option as a key of a file: [configuration](config.md).\n"]
    names = cli.context_settings["help_option_names"]
    top = click.Context(cli, info_name="tidegate", terminal_width=WIDTH, help_option_names=names)
    text += [
        f"\n## {context.command_path}\n\n```text\n{context.command.get_help(context).rstrip()}\n```\n"
        for context in _contexts(cli, top)
    ]
    return "".join(text)


def _contexts(command: click.Command, context: click.Context) -> Iterator[click.Context]:
    yield context
    if not isinstance(command, click.Group):
        return
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        if below is not None and not below.hidden:
            yield from _contexts(below, click.Context(below, context, name, terminal_width=WIDTH))


def events() -> str:
    """The events and the access log."""
    found = _events_of_sources()
    if found.keys() != EVENTS.keys():
        raise SystemExit(f"tools/reference.py: EVENTS and the sources differ: {sorted(found.keys() ^ EVENTS.keys())}")
    text = [
        f"# Events and the access log\n\n{MADE}\n"
        f"{EVENTS_INTRO}\n"
        "| Event | Level | Who | Fields | Meaning |\n|---|---|---|---|---|\n"
    ]
    for name, (who, meaning) in EVENTS.items():
        levels, fields = found[name]
        shown = ", ".join(f"`{field}`" for field in dict.fromkeys([*fields, *OTHER_FIELDS.get(name, [])]))
        text.append(f"| {name} | {', '.join(sorted(levels))} | {who} | {shown} | {meaning} |\n")
    logged = set(re.findall(r'^        "(\w+)": ', _source("crates/engine/src/proxy/access.rs"), re.MULTILINE))
    if logged != ACCESS_FIELDS.keys():
        raise SystemExit(f"tools/reference.py: ACCESS_FIELDS differ: {sorted(logged ^ ACCESS_FIELDS.keys())}")
    text.append(f"\n## Access log\n\n{ACCESS_INTRO}\n| Field | Meaning |\n|---|---|\n")
    text += [f"| `{name}` | {meaning} |\n" for name, meaning in ACCESS_FIELDS.items()]
    return "".join(text)


def _events_of_sources() -> dict[str, tuple[set[str], list[str]]]:
    found: dict[str, tuple[set[str], list[str]]] = {}

    def add(name: str, level: str, fields: list[str]) -> None:
        levels, known = found.setdefault(name, (set(), []))
        levels.add(level)
        known.extend(field for field in fields if field not in known)

    for path in sorted((ROOT / "crates/engine/src").rglob("*.rs")):
        source = _source(path)
        for level, inside in re.findall(r"\b(error|warn|info|debug)!\((.*?)\);", source, re.DOTALL):
            *parts, name = re.split(r",\s+", inside.strip().rstrip(","))
            fields = [match[1] for part in parts if (match := re.match(r"%?(\w+)(?: =|$)", part.strip()))]
            add(name.strip().strip('"'), level, fields)
        for name, level in re.findall(r'\bheader\("([^"]+)", "(\w+)"\)', source):
            add(name, level, [])
    for path in sorted((ROOT / "python/tidegate").rglob("*.py")):
        for level, name in re.findall(r'_log\.say\("(\w+)", "([^"]+)"', path.read_text(encoding="utf-8")):
            add(name, level, [])
    return found


def _source(path: str | Path) -> str:
    """Rust source without its tests and comments."""
    text = (ROOT / path).read_text(encoding="utf-8").split("#[cfg(test)]\nmod")[0]
    return re.sub(r"^\s*//[^\n]*\n", "", text, flags=re.MULTILINE)


def metrics() -> str:
    """The metrics of each role, as running ones show them."""
    families: dict[str, tuple[str, str]] = {}
    labels: dict[str, dict[str, None]] = {}
    roles: dict[str, list[str]] = {}
    for role, page in _pages().items():
        for name, meaning in re.findall(r"# HELP (\S+) (.*)", page):
            kind = re.search(rf"# TYPE {name} (\w+)", page)
            families[name] = (kind[1] if kind else "", meaning)
            roles.setdefault(name, []).append(role)
            for inside in re.findall(rf"^{name}(?:_bucket|_sum|_count)?\{{(.*)\}}", page, re.MULTILINE):
                labels.setdefault(name, {}).update(dict.fromkeys(re.findall(r'(\w+)="', inside)))
    text = [
        f"# Metrics\n\n{MADE}\n"
        f"{METRICS_INTRO}\n"
        "| Metric | Type | Labels | Roles | What it counts |\n|---|---|---|---|---|\n"
    ]
    for name, (word, meaning) in families.items():
        shown = ", ".join(f"`{label}`" for label in labels.get(name, {}) if label != "le")
        who = "all" if len(roles[name]) == 3 else ", ".join(roles[name])
        text.append(f"| `{name}` | {word} | {shown} | {who} | {meaning} |\n")
    return "".join(text)


def _pages() -> dict[str, str]:
    """The metrics of a gateway that has an agent and has served and refused connections, and of the other roles."""
    started: list[engine.Role] = []
    with tempfile.TemporaryDirectory() as folder:
        log = f"access_log: {{to: '{folder}/access.log'}}\n"
        try:
            listeners = (
                "listeners: {web: {bind: '127.0.0.1:0'}, agents: {bind: '127.0.0.1:0', kind: tunnel, tenant: acme},"
                " db: {bind: '127.0.0.1:0', kind: tcp, tenant: acme, to: {endpoint: web}},"
                " secure: {bind: '127.0.0.1:0', tls: {}}}\n"
                "upstreams: {shop: {addresses: ['127.0.0.1:9']}}\n"
                "routes: [{host: shop.localhost, to: {upstream: shop}}]\n"
            )
            gateway = engine.start(gateway_snapshot(validate(Gateway, parse(log + listeners, "gateway"))))
            started.append(gateway)
            where = {one["name"]: one["addresses"][0] for one in gateway.status()["listeners"]}
            offer = (
                f"connect: {{urls: ['http://{where['agents']}']}}\n"
                f"endpoints: [{{name: web, to: 'tcp://{where['web']}'}}]\n"
            )
            agent = engine.start(agent_snapshot(validate(Agent, parse(log + offer, "agent")), "reference"))
            started.append(agent)
            ports = "forwards: [{bind: '127.0.0.1:0', endpoint: nobody}]\n"
            forward = engine.start(forward_snapshot(validate(Forward, parse(log + ports, "forward"))))
            started.append(forward)
            _until(lambda: bool(gateway.status()["endpoints"]))
            _ask(where["db"], b"GET / HTTP/1.1\r\n\r\n")
            _ask(where["secure"], b"GET / HTTP/1.1\r\n\r\n")
            _ask(forward.status()["forwards"][0]["address"])
            roles = {"gateway": gateway, "agent": agent, "forward": forward}
            _until(lambda: gateway.status()["totals"]["errors"] > 0 and forward.status()["totals"]["errors"] > 0)
            _until(lambda: b'tenant="acme"' in gateway.metrics().partition(b"tidegate_request_seconds")[0])
            pages = {name: role.metrics().decode() for name, role in roles.items()}
            pages["gateway"] += reload_metrics(0, 0, 0.0).decode()
            return pages
        finally:
            for role in reversed(started):
                role.stop()


def _ask(address: str, says: bytes = b"") -> None:
    """Connects, and waits for an answer or the end."""
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), WAIT_SECONDS) as connection:
        connection.sendall(says)
        connection.recv(1)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("tools/reference.py: the roles that were started did not do what the page is about")
        time.sleep(0.01)


def pages() -> dict[Path, str]:
    """Every page, by its file."""
    made = {"cli": commands(), "config": config_page(), "errors": errors(), "events": events(), "metrics": metrics()}
    return {PAGES / f"{name}.md": text for name, text in made.items()}


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    stale = 0
    for path, text in pages().items():
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        if old == text:
            continue
        stale += 1
        name = path.relative_to(ROOT)
        if "--check" in arguments:
            print(f"{name} is stale (run `make accept`)")
        else:
            path.write_text(text, encoding="utf-8")
            print(name)
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
