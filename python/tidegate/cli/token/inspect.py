"""`tidegate token inspect`: shows what a token says."""

import base64
import binascii
import json
import time
from typing import Any

import click

from tidegate.auth import token as tokens
from tidegate.cli.token.given import given, token_options
from tidegate.cli.token.when import when

__all__ = ["inspect"]

_TIMES = ("exp", "nbf", "iat")


@click.command()
@token_options
def inspect(token: str | None, token_file: str | None) -> None:
    """
    Show what a token says, without believing it: nothing is verified, and nothing is refused.

    A token that stands on the command line is seen by everybody on this machine in the list of processes; `-` reads it
    from standard input.

    \b
    Examples:
      tidegate token inspect --token-file token
      tidegate token inspect - < token
    """
    text = given(token, token_file)
    parts = text.split(".", 3)
    for name, part in zip(("header", "claims"), parts, strict=False):
        click.echo(f"{name}:")
        for line in _members(part):
            click.echo(f"  {line}")
    click.echo("signature not checked (`tidegate token verify` checks it)")
    try:
        tokens.claims_of(tokens.read(text))
    except tokens.InvalidTokenError as error:
        click.echo(f"warning: every gateway refuses it: {error}", err=True)


def _members(part: str) -> list[str]:
    try:
        found = json.loads(base64.urlsafe_b64decode(part.rstrip("=") + "=" * (-len(part.rstrip("=")) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return ["cannot be read"]
    if not isinstance(found, dict):
        return [_shown(found)]
    return [f"{_word(name)}: {_shown(value)}{_time(name, value)}" for name, value in found.items()]


def _word(name: str) -> str:
    return name if name.isascii() and name.isprintable() else json.dumps(name)


def _shown(value: Any) -> str:
    # What is not ASCII stands as an escape, so that no token controls a terminal.
    return json.dumps(value)


def _time(name: str, value: Any) -> str:
    if name not in _TIMES or isinstance(value, bool) or not isinstance(value, (int, float)):
        return ""
    return f" ({when(value, time.time())})" if abs(value) <= 2**53 else ""
