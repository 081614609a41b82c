"""
`tidegate status`: one screen that says what a gateway, agent or forward is doing and what is wrong.

Asks the admin listener and prints; what the answers look like as tables is `cli.tables`.
"""

import json
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote, urlsplit

import click

from tidegate.cli import tables
from tidegate.control.logs import escape
from tidegate.errors import ConfigError, TidegateError

__all__ = ["status"]

DEFAULT_URL = "http://127.0.0.1:8003"
ANSWER_SECONDS = 5.0
WATCH_SECONDS = 1.0
MAX_ANSWER = 64 * 1024 * 1024


@click.command()
@click.argument("what", required=False, metavar="[endpoints")
@click.argument("name", required=False, metavar="[NAME]]")
@click.option(
    "-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True,
    help="Form of the answer.", envvar="TIDEGATE_OUTPUT", show_envvar=True,
)  # fmt: skip
@click.option("-w", "--watch", is_flag=True, help="Show it anew every second, until Ctrl-C.")
@click.option(
    "--url", default=DEFAULT_URL, show_default=True, metavar="URL", help="The admin listener to ask.",
    envvar="TIDEGATE_ADMIN_URL", show_envvar=True,
)  # fmt: skip
def status(what: str | None, name: str | None, output: str, watch: bool, url: str) -> None:
    """
    Show what runs: version, uptime, listeners, endpoints, and what is wrong.

    Asks the admin listener of a gateway, or of an agent or forward that was started with --admin.

    \b
    tidegate status                  everything on one screen
    tidegate status endpoints        every endpoint
    tidegate status endpoints web    one endpoint, with each agent or tunnel
    """
    if what not in (None, "endpoints"):
        raise click.UsageError(
            f"there is no {what!r} to show (write `tidegate status` or `tidegate status endpoints [NAME]`)",
            click.get_current_context(),
        )
    while True:
        text = _render(_ask(url, _path(what, name)), what, name, output)
        if watch:
            click.clear()
        click.echo(text)
        if not watch:
            return
        time.sleep(WATCH_SECONDS)


def _path(what: str | None, name: str | None) -> str:
    if what is None:
        return "/status"
    return f"/status/{what}/{quote(name, safe='')}" if name else f"/status/{what}"


def _ask(base: str, path: str) -> dict[str, Any]:
    try:
        parts = urlsplit(base)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or True)
    except ValueError:
        fits = False
    if not fits:
        raise ConfigError(f"{base!r} is no URL of an admin listener (write --url http://HOST:PORT)")
    # An admin listener is never behind the proxy that the environment names for the web.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(base.rstrip("/") + path, timeout=ANSWER_SECONDS) as response:
            answer = json.loads(response.read(MAX_ANSWER))
    except urllib.error.HTTPError as refusal:
        raise TidegateError(f"{base} answered {refusal.code}: {escape(_detail(refusal))}") from None
    except (OSError, urllib.error.URLError) as problem:
        reason = getattr(problem, "reason", None) or problem
        why = getattr(reason, "strerror", None) or str(reason)
        raise TidegateError(
            f"nothing answers at {base} ({why.lower()}); start `tidegate gateway`, or give the admin listener's --url"
        ) from None
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise TidegateError(f"{base} does not answer like an admin listener of tidegate; name the right one with --url")
    return answer


def _detail(refusal: urllib.error.HTTPError) -> str:
    try:
        answer = json.loads(refusal.read(MAX_ANSWER))
        return str(answer.get("detail") or answer["error"])
    except (OSError, ValueError, KeyError, AttributeError):
        return "this is no admin listener of tidegate; name the right one with --url"


def _render(answer: dict[str, Any], what: str | None, name: str | None, output: str) -> str:
    if output == "json":
        return json.dumps(answer, indent=2)
    if output == "yaml":
        import yaml  # noqa: PLC0415  only this form needs it

        return yaml.safe_dump(answer, sort_keys=False, allow_unicode=True).rstrip("\n")
    if what is None:
        return tables.screen(answer)
    return tables.one_endpoint(answer) if name else tables.endpoints(answer.get("endpoints", []))
