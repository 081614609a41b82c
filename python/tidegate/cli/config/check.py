"""`tidegate config check`: tells every mistake of a file, and what may be one."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from tidegate.cli.config import keys
from tidegate.cli.config.files import ROLES, role_of, role_option
from tidegate.config.advice import advice
from tidegate.config.binds import resolve_bind
from tidegate.config.files import Where
from tidegate.config.model import AccessLog, Agent, Forward, Gateway
from tidegate.config.snapshot import agent_snapshot, forward_snapshot, gateway_snapshot
from tidegate.config.sources import Source
from tidegate.config.whole import whole
from tidegate.control.wording import exposed
from tidegate.errors import ConfigError

__all__ = ["check"]


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@role_option("what its keys say")
def check(file: Path, role: str | None) -> None:
    """
    Tell every mistake of a file, with its line, and read the files that it names.

    A mistake ends with exit code 2. What is right and may not be meant is a warning on stderr. Only the file counts:
    options and environment names of a role are left out (`tidegate config show` has them), ${VAR} is expanded.

    \b
    Examples:
      tidegate config check tidegate.yaml
      tidegate config check agent.yaml && systemctl --user restart tidegate-agent
    """
    role = role or role_of(file)
    model: Any = ROLES[role]
    # A reload refuses an empty file, so this does.
    tree = Source(model, file, env={}).tree(may_be_empty=False)
    config = whole(model, tree)
    # Looking is all this command does: a log file would be made.
    quiet = config.model_copy(update={"access_log": AccessLog(to="off")})
    where = tree.places()
    warnings: list[str] = []
    if isinstance(quiet, Gateway):
        snapshot, warnings = _gateway(quiet, where)
    elif isinstance(quiet, Agent):
        snapshot = agent_snapshot(quiet, "", where)
    else:
        snapshot = forward_snapshot(quiet, where)
    for remark in [*advice(config, where), *_exposed(config, json.loads(snapshot), where), *warnings]:
        click.echo(f"warning: {remark}", err=True)
    click.echo(f"{file}: ok ({role}: {_summary(config)})")


def _gateway(config: Gateway, where: Where) -> tuple[bytes, list[str]]:
    """The snapshot, and what is unwise about keys; raises `ConfigError` with every mistake of the files it names."""
    mistakes: list[str] = []
    warnings: list[str] = []
    try:
        snapshot = gateway_snapshot(config, where)
    except ConfigError as error:
        mistakes += error.mistakes
    try:
        warnings = keys.check(config, where)
    except ConfigError as error:
        mistakes += error.mistakes
    if mistakes:
        raise ConfigError(mistakes)
    return snapshot, warnings


def _exposed(config: Gateway | Agent | Forward, snapshot: dict[str, Any], where: Where) -> Iterator[str]:
    """What strangers reach without showing who they are, in the words of the start."""
    found = [(f"listeners.{each.listener}.bind", each.sentence) for each in exposed(snapshot, [])]
    if config.admin.bind is not None and not _knows(config):
        addresses = resolve_bind(config.admin.bind)
        found += [("admin.bind", each.sentence) for each in exposed({"role": snapshot["role"]}, addresses)]
    for key, sentence in found:
        place = where(key)
        yield f"{place}: {key}: {sentence}" if place else f"{key}: {sentence}"


def _knows(config: Gateway | Agent | Forward) -> bool:
    """Whether the admin listener asks everybody who they are."""
    if not isinstance(config, Gateway):
        return False
    tls = config.admin.tls
    shown = tls is not None and tls.client_ca is not None and tls.client_certificate == "required"
    return shown or config.admin.auth is not None


def _summary(config: Gateway | Agent | Forward) -> str:
    if isinstance(config, Gateway):
        counted = {"listener": len(config.listeners), "upstream": len(config.upstreams), "route": len(config.routes)}
        return ", ".join(_count(number, what) for what, number in counted.items())
    if isinstance(config, Agent):
        return _count(len(config.endpoints), "endpoint")
    return _count(len(config.forwards), "port")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
