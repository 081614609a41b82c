"""`tidegate config show`: every value in force, and where it comes from."""

import json
import os
from pathlib import Path
from typing import Any

import click

from tidegate.cli.config.files import ROLES, role_of
from tidegate.cli.options import TUNING, Command, config_option, given, knob_options
from tidegate.config.effective import as_json, as_yaml
from tidegate.config.load import validate
from tidegate.config.sources import Source, find_file, options

__all__ = ["show"]


def _show(config: str | None, role: str | None, output: str, **_: object) -> None:
    """
    Show every value in force as YAML, each with its origin: a line of the file, an option, an environment name, or
    the default. Secrets are masked.

    It reads what `tidegate gateway` would read with the same options and environment; with --role, or where the file
    is an agent's or a forward's, what those would.

    \b
    Examples:
      tidegate config show --config tidegate.yaml
      tidegate config show --config tidegate.yaml --workers 2
      tidegate config show --role agent -o json
    """
    if role is None:
        named = config or os.environ.get("TIDEGATE_CONFIG")
        role = role_of(Path(named)) if named else "gateway"
    model: Any = ROLES[role]
    flags = given(click.get_current_context())
    known = {each.flag for each in options(model)}
    strange = sorted(flags.keys() - known)
    if strange:
        raise click.UsageError(f"{strange[0]} is no option of `tidegate {role}`", click.get_current_context())
    source = Source(model, find_file(model, config, os.environ), flags, dict(os.environ))
    tree = source.tree()
    effective = validate(model, tree)
    if output == "json":
        click.echo(json.dumps(as_json(effective, tree), indent=2))
    else:
        click.echo(f"# {source}\n{as_yaml(effective, tree)}", nl=False)


def _options() -> list[click.Parameter]:
    known = {each.flag: each for model in ROLES.values() for each in options(model)}
    return knob_options(known.values(), lambda _: TUNING)


show = Command(
    "show",
    callback=_show,
    help=_show.__doc__,
    params=[
        config_option("The configuration."),
        click.Option(["--role"], type=click.Choice(list(ROLES)), help="Whose; by default what the file's keys say."),
        click.Option(
            ["-o", "--output"], type=click.Choice(["yaml", "json"]), default="yaml", help="The form; yaml by default."
        ),
        *_options(),
    ],
)
