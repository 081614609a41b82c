"""`tidegate token key`: writes a new key."""

import os
from pathlib import Path

import click

from tidegate.auth import signing
from tidegate.auth.keys import ALGORITHMS
from tidegate.errors import ConfigError

__all__ = ["key"]


@click.command()
@click.option("--alg", type=click.Choice(ALGORITHMS), default="HS256", help="What it will sign by. [default HS256]")
@click.option("--out", type=click.Path(path_type=Path), default="token.key", help="The file. [default token.key]")
def key(alg: str, out: Path) -> None:
    """
    Write a new key that signs tokens, readable by you alone.

    With HS256 and its like one secret signs and verifies. With the others FILE signs and FILE.pub verifies: a gateway
    needs FILE.pub only. A file that is there already is left alone, and told as an error.

    \b
    Examples:
      tidegate token key
      tidegate token key --alg ES256 --out issuer.pem
    """
    public = out.with_name(f"{out.name}.pub")
    made = signing.new_key(alg)
    # Both or none: a key without its other half is of no use.
    if made.public is not None and public.exists():
        raise _there(public)
    _write(out, made.private, 0o600)
    if made.public is None:
        click.echo(f"{out}: written; it signs tokens and verifies them ({alg})")
        return
    try:
        _write(public, made.public, 0o644)
    except ConfigError:
        out.unlink()
        raise
    click.echo(f"{out}: written; it signs tokens ({alg})")
    click.echo(f"{public}: written; it verifies them")


def _write(file: Path, value: bytes, mode: int) -> None:
    try:
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode), "wb") as new:
            new.write(value)
    except FileExistsError:
        raise _there(file) from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {(error.strerror or str(error)).lower()}") from None


def _there(file: Path) -> ConfigError:
    return ConfigError(f"{file} is there already; it was left alone")
