"""`tidegate config`: what can be done with a configuration without starting anything. One file a command."""

import click

from tidegate.cli.lazy import Lazy

__all__ = ["config"]

_COMMANDS = {
    "check": "Tell every mistake of a file.",
    "show": "Show every value in force and where it comes from.",
    "schema": "Print the JSON Schema of a file, for editors.",
    "init": "Write a file to begin with.",
    "import": "Print our file for one of kiagateway, NanoProxy or Piko.",
}


@click.group(cls=Lazy, package="tidegate.cli.config", known=_COMMANDS)
def config() -> None:
    """
    Check, show and begin a configuration.

    Nothing is started, and nothing is asked of a running gateway.

    \b
    Examples:
      tidegate config init                       # writes tidegate.yaml
      tidegate config check tidegate.yaml
      tidegate config show --config tidegate.yaml
    """
