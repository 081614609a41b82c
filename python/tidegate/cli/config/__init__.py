"""`tidegate config`: what can be done with a configuration without starting anything. One file a command."""

import click

from tidegate.cli.lazy import Lazy

__all__ = ["config"]

_COMMANDS = {
    "check": "Tell every mistake of a file.",
    "explain": "Tell what becomes of a request, and why.",
    "show": "Show every value in force and where it comes from.",
    "schema": "Print the JSON Schema of a file, for editors.",
    "init": "Write a file to begin with.",
    "import": "Print our file for one of kiagateway, NanoProxy or Piko.",
}


@click.group(cls=Lazy, package="tidegate.cli.config", known=_COMMANDS)
def config() -> None:
    """
    Check, explain, show, begin or import a configuration.

    Nothing is started, and nothing is asked of a running gateway, but by `explain --url`.

    \b
    Examples:
      tidegate config init                       # writes tidegate.yaml
      tidegate config check tidegate.yaml
      tidegate config explain https://app.example.com/api --config tidegate.yaml
      tidegate config show --config tidegate.yaml
      tidegate config import --from kiagateway servers.toml > tidegate.yaml
    """
