"""`tidegate config explain`: what becomes of a request, and why; of a file, or of a running gateway."""

import functools
import json
import os
import time
from typing import Any
from urllib.parse import urlencode

import click

from tidegate import engine
from tidegate.cli.ask import AdminUrl, admin_options
from tidegate.cli.tables import duration, plain, table
from tidegate.config.model import AccessLog, Gateway
from tidegate.config.snapshot import gateway_snapshot
from tidegate.config.sources import Source, find_file
from tidegate.config.whole import whole
from tidegate.control.question import question
from tidegate.errors import ConfigError, EngineError

__all__ = ["explain"]


@click.command()
@click.argument("asked", metavar="URL")
@click.option("--config", "file", metavar="FILE", help="The gateway's configuration; by default TIDEGATE_CONFIG.")
@click.option("--method", default="GET", show_default=True, metavar="METHOD", help="The request's method.")
@click.option("--header", "headers", multiple=True, metavar="NAME:VALUE", help="A header field; may be repeated.")
@click.option("--sni", metavar="NAME", help="The TLS server name; by default the host of the URL.")
@click.option("--listener", metavar="NAME", help="Where it comes in; by default the listener that fits the URL.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True,
              help="Form of the answer.")  # fmt: skip
@functools.partial(admin_options, optional=True)
def explain(
    *,
    asked: str,
    file: str | None,
    method: str,
    headers: tuple[str, ...],
    sni: str | None,
    listener: str | None,
    output: str,
    admin: AdminUrl | None,
) -> None:
    """
    Tell which listener and route a request takes, where it leads, and why not the other routes.

    Nothing is sent and nothing is started: a file is read. With --url the running gateway is asked instead, which
    also tells who offers the endpoint, the state of every address, and the answer that a request would get now.

    \b
    Examples:
      tidegate config explain http://app.example.com/api/users --config tidegate.yaml
      tidegate config explain https://shop.example.com --method POST --header "x-beta: 1"
      tidegate config explain https://vault.example.com --url http://127.0.0.1:8003
    """
    if admin is not None:
        if file is not None:
            raise click.UsageError("--config and --url exclude each other", click.get_current_context())
        given = {"url": asked, "method": method, "sni": sni, "listener": listener}
        pairs = [(key, value) for key, value in given.items() if value is not None]
        told = admin.ask("/status/explain?" + urlencode([*pairs, *(("header", each) for each in headers)]))
    else:
        told = _of_file(file, question(asked, method=method, headers=headers, sni=sni, listener=listener))
    click.echo(json.dumps(told, indent=2) if output == "json" else _text(f"{method.upper()} {asked}", told))


def _of_file(file: str | None, asked: dict[str, Any]) -> dict[str, Any]:
    tree = Source(Gateway, find_file(Gateway, file, os.environ), {}, dict(os.environ)).tree()
    # Looking is all this command does: a log file would be made.
    config = whole(Gateway, tree).model_copy(update={"access_log": AccessLog(to="off")})
    try:
        return engine.explain(gateway_snapshot(config, tree.places()), asked)
    except EngineError as mistake:
        raise ConfigError(str(mistake)) from None


def _text(asked: str, told: dict[str, Any]) -> str:
    rows = [["request", asked], *_facts(told)]
    width = max(len(name) for name, _ in rows)
    text = "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows)
    for part in (_addresses(told.get("upstream")), _agents(told.get("endpoint")), _others(told)):
        text += f"\n\n{part}" if part else ""
    return text


def _facts(told: dict[str, Any]) -> list[list[str]]:
    """One line for each thing that is known."""
    rows = []
    if listener := told.get("listener"):
        rows.append(["listener", f"{plain(listener['name'])} ({', '.join(map(plain, listener['addresses']))})"])
    if tls := told.get("tls"):
        rows.append(["tls", f"{plain(told.get('sni') or 'no server name')}: {plain(tls)}"])
    route = told.get("route")
    rows.append(
        ["route", f"{plain(route['name'])}: {plain(route['match'])} -> {plain(route['to'])}" if route else "none"]
    )
    if rules := told.get("addresses"):
        rows.append(["from", plain("; ".join(map(_networks, rules)))])
    if asks := told.get("asks"):
        rows.append(["with", plain(f"a {' or a '.join(asks['takes'])} (its {asks['by']} asks)")])
    if does := told.get("does"):
        rows.append(["then", plain(does)])
    if sends := told.get("sends"):
        edited = ", with edited fields" if sends["edited"] else ""
        rows.append(
            ["sent on", f"{plain(sends['method'])} {plain(sends['target'])}, Host {plain(sends['host'])}{edited}"]
        )
    if upstream := told.get("upstream"):
        rows.append(["to", f"upstream {plain(upstream['name'])}"])
    if endpoint := told.get("endpoint"):
        tenant = f" of tenant {plain(endpoint['tenant'])}" if endpoint.get("tenant") else ""
        rows.append(["to", f"endpoint {plain(endpoint['name'])}{tenant}"])
    for key, called in (("answer", "answer"), ("answer_over_http2", "by HTTP/2")):
        if answer := told.get(key):
            words = [plain(answer[part]) for part in ("status", "error", "location") if answer.get(part)]
            detail = f" ({plain(answer['detail'])})" if answer.get("detail") else ""
            rows.append([called, f"{' '.join(words)}{detail}"])
    return rows


def _networks(rule: dict[str, Any]) -> str:
    """From where one part lets somebody in; one address stands without the length of its prefix."""
    allow, deny = (
        ", ".join(each.removesuffix("/128" if ":" in each else "/32") for each in rule[key])
        for key in ("allow", "deny")
    )
    return f"{allow or 'everywhere'}{f' but not {deny}' if deny else ''}"


def _addresses(upstream: dict[str, Any] | None) -> str:
    if not upstream:
        return ""
    if not any("state" in each for each in upstream["addresses"]):
        return table(["ADDRESS", "WEIGHT"], [[each["address"], each["weight"]] for each in upstream["addresses"]])
    rows = [
        [each["address"], each["state"], _ago(each.get("since")), each.get("reason"), each["requests_in_flight"]]
        for each in upstream["addresses"]
    ]
    return table(["ADDRESS", "STATE", "SINCE", "REASON", "RUNNING"], rows)


def _agents(endpoint: dict[str, Any] | None) -> str:
    if not endpoint or not endpoint.get("listeners"):
        return ""
    rows = [
        [each.get("agent"), each["address"], each["transport"], _ago(each.get("since")), each["requests_in_flight"]]
        for each in endpoint["listeners"]
    ]
    return table(["AGENT", "ADDRESS", "TRANSPORT", "SINCE", "RUNNING"], rows)


def _others(told: dict[str, Any]) -> str:
    others = told.get("others")
    if not others:
        return ""
    text = table(["NOT TAKEN", "MATCH", "WHY"], [[each["name"], each["match"], each["why"]] for each in others])
    left_out = told.get("others_left_out", 0)
    return f"{text}\nand {left_out} more" if left_out else text


def _ago(since: Any) -> str | None:
    return duration(time.time() - since) if isinstance(since, int | float) else None
