"""How a token is given to a command: as an argument, on standard input, or in a file."""

import sys
from collections.abc import Callable
from typing import Any

import click

from tidegate.auth import secrets
from tidegate.errors import ConfigError

__all__ = ["given", "token_options"]


def token_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`[TOKEN|-]` and `--token-file`."""
    command = click.option("--token-file", metavar="FILE", help="A file that holds the token.")(command)
    return click.argument("token", required=False, metavar="[TOKEN|-]")(command)


def given(token: str | None, token_file: str | None) -> str:
    """The token, wherever it stands."""
    if token is not None and token_file is not None:
        raise click.UsageError("TOKEN and --token-file are two ways to say the same")
    if token_file is not None:
        text = secrets.of_file(token_file, "--token-file").value.decode("utf-8", "replace")
    elif token not in (None, "-"):
        text = str(token)
    elif token is None and sys.stdin.isatty():
        raise click.UsageError("a token is missing (give it on standard input, or by --token-file FILE)")
    else:
        text = sys.stdin.buffer.read(secrets.LARGEST).decode("utf-8", "replace")
    text = text.strip()
    if text[:7].lower() == "bearer ":
        text = text[7:].strip()
    if not text:
        raise ConfigError("the token is empty")
    return text
