"""
`tidegate status`: one screen that says what a gateway, agent or forward is doing and what is wrong.

Asks the admin listener and prints; what the answers look like as tables is `cli.tables`.
"""

import json
import time
from typing import Any
from urllib.parse import quote

import click

from tidegate.cli import tables
from tidegate.cli.ask import AdminUrl, admin_options

__all__ = ["status"]

WATCH_SECONDS = 1.0
LISTS = ("endpoints", "routes", "upstreams", "agents", "config")


@click.command()
@click.argument("what", required=False, metavar="[endpoints [NAME]|routes|upstreams|agents|config]")
@click.argument("name", required=False, metavar="")
@click.option(
    "-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True,
    help="Form of the answer.", envvar="TIDEGATE_OUTPUT", show_envvar=True,
)  # fmt: skip
@click.option("-w", "--watch", is_flag=True, help="Show it anew every second, until Ctrl-C.")
@admin_options
def status(admin: AdminUrl, what: str | None, name: str | None, output: str, watch: bool) -> None:
    """
    Show what runs: version, uptime, listeners, endpoints, and what is wrong.

    Asks the admin listener of a gateway, or of an agent or forward that was started with --admin.

    \b
    tidegate status                  everything on one screen
    tidegate status endpoints        every endpoint
    tidegate status endpoints web    one endpoint, with each agent or tunnel
    tidegate status routes           every route and where it leads
    tidegate status upstreams        every address, its state and since when
    tidegate status agents           every agent and what it offers
    tidegate status config           what is in force, since when, and what was last refused
    """
    if what not in (None, *LISTS) or (name is not None and what != "endpoints"):
        raise click.UsageError(
            f"there is no {' '.join(filter(None, (what, name)))!r} to show (write `tidegate status` or "
            f"`tidegate status {'|'.join(LISTS)}`)",
            click.get_current_context(),
        )
    while True:
        text = _render(admin.ask(_path(what, name)), what, name, output)
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


def _render(answer: dict[str, Any], what: str | None, name: str | None, output: str) -> str:
    if output == "json":
        return json.dumps(answer, indent=2)
    if output == "yaml":
        import yaml  # noqa: PLC0415  only this form needs it

        return yaml.safe_dump(answer, sort_keys=False, allow_unicode=True).rstrip("\n")
    match what:
        case None:
            return tables.screen(answer)
        case "endpoints":
            return tables.one_endpoint(answer) if name else tables.endpoints(answer.get("endpoints", []))
        case "routes":
            return tables.routes(answer.get("routes", []))
        case "upstreams":
            return tables.upstreams(answer.get("upstreams", []))
        case "agents":
            return tables.agents(answer.get("agents", []))
    return tables.configuration(answer)
