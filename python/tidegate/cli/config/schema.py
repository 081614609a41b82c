"""`tidegate config schema`: the JSON Schema of a file."""

import json

import click

from tidegate.cli.config.files import ROLES, role_option
from tidegate.config.schema import schema as schema_of

__all__ = ["schema"]


@click.command()
@role_option("the gateway's")
def schema(role: str | None) -> None:
    """
    Print the JSON Schema of a configuration file.

    Editors that read YAML through a schema then complete keys and tell what they are.

    \b
    Examples:
      tidegate config schema > tidegate.schema.json
      # first line of tidegate.yaml, for editors with the YAML language server:
      # yaml-language-server: $schema=tidegate.schema.json
    """
    click.echo(json.dumps(schema_of(ROLES[role or "gateway"]), indent=2))
