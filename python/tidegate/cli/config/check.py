"""`tidegate config check`: tells every mistake of a file, and what may be one."""

from pathlib import Path
from typing import Any

import click

from tidegate.cli.config import keys
from tidegate.cli.config.files import ROLES, role_of, role_option
from tidegate.config.advice import advice
from tidegate.config.files import Where
from tidegate.config.model import AccessLog, Agent, Forward, Gateway
from tidegate.config.snapshot import agent_snapshot, forward_snapshot, gateway_snapshot
from tidegate.config.sources import Source
from tidegate.config.whole import whole
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
        warnings = _gateway(quiet, where)
    elif isinstance(quiet, Agent):
        agent_snapshot(quiet, "", where)
    else:
        forward_snapshot(quiet, where)
    for remark in [*advice(config, where), *warnings]:
        click.echo(f"warning: {remark}", err=True)
    click.echo(f"{file}: ok ({role}: {_summary(config)})")


def _gateway(config: Gateway, where: Where) -> list[str]:
    """What is unwise about keys; raises `ConfigError` with every mistake of the files that a gateway names."""
    mistakes: list[str] = []
    warnings: list[str] = []
    try:
        gateway_snapshot(config, where)
    except ConfigError as error:
        mistakes += error.mistakes
    try:
        warnings = keys.check(config, where)
    except ConfigError as error:
        mistakes += error.mistakes
    if mistakes:
        raise ConfigError(mistakes)
    return warnings


def _summary(config: Gateway | Agent | Forward) -> str:
    if isinstance(config, Gateway):
        counted = {"listener": len(config.listeners), "upstream": len(config.upstreams), "route": len(config.routes)}
        return ", ".join(_count(number, what) for what, number in counted.items())
    if isinstance(config, Agent):
        return _count(len(config.endpoints), "endpoint")
    return _count(len(config.forwards), "port")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
