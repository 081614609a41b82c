"""`tidegate token sign`: prints a token."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tidegate.auth import secrets, signing
from tidegate.auth.keys import ALGORITHMS
from tidegate.auth.token import LARGEST, name_pattern
from tidegate.config.values import duration
from tidegate.errors import ConfigError

__all__ = ["sign"]

_SHORT_SECRET = 32


def _checked(check: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def checked(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
        try:
            return tuple(map(check, value)) if isinstance(value, tuple) else None if value is None else check(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return checked


def _tenant(text: str) -> str:
    if "*" in text:
        raise ValueError(f"{text!r} is no name of a tenant")
    return name_pattern(text)


_names = _checked(name_pattern)


@click.command()
@click.option("--key", "file", metavar="FILE", required=True, help="The secret or private key (`tidegate token key`).")
@click.option("--alg", type=click.Choice(ALGORITHMS), help="What to sign by. [default: what fits the key]")
@click.option("--endpoint", multiple=True, metavar="NAME ...", callback=_names, help="May be listened on and reached.")
@click.option("--listen", multiple=True, metavar="NAME ...", callback=_names, help="May be listened on (offered).")
@click.option("--reach", multiple=True, metavar="NAME ...", callback=_names, help="May be reached.")
@click.option("--tenant", metavar="NAME", callback=_checked(_tenant), help="Whose it is.")
@click.option("--expires", metavar="DURATION", callback=_checked(duration), help="How long it is good, such as 30d.")
@click.option("--issuer", metavar="TEXT", help="Who issues it (`iss`).")
@click.option("--audience", multiple=True, metavar="TEXT ...", help="Whom it is for (`aud`).")
@click.option("--subject", metavar="TEXT", help="Whom it is about (`sub`), for people who read it.")
@click.option("--kid", metavar="TEXT", help="The name of the key, where a JWKS holds several.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write it there, for your eyes only.")
def sign(
    *,
    file: str,
    alg: str | None,
    endpoint: tuple[str, ...],
    listen: tuple[str, ...],
    reach: tuple[str, ...],
    tenant: str | None,
    expires: float | None,
    issuer: str | None,
    audience: tuple[str, ...],
    subject: str | None,
    kid: str | None,
    out: Path | None,
) -> None:
    """
    Print a token for an agent, a visitor or the admin listener, or write it to a file.

    NAME is an endpoint, or the beginning of names and a `*`: `web-*`. A token is a secret: whoever has it may use it.

    \b
    Examples:
      tidegate token sign --key token.key --endpoint web --expires 30d --out token
      tidegate token sign --key token.key --listen 'web-*' --tenant acme --expires 12h
      tidegate token sign --key issuer.pem --reach postgres --expires 1h --issuer ops --audience gate
    """
    secret = secrets.of_file(file, "--key")
    try:
        key = signing.signing_key(secret.value)
    except ValueError as error:
        raise ConfigError(f"{file} {error}") from None
    algorithm = alg or key.algorithms[0]
    if algorithm not in key.algorithms:
        raise ConfigError(f"{algorithm} does not fit {file} (it signs by {', '.join(key.algorithms)})")
    now = int(time.time())
    named: dict[str, Any] = {"endpoints": endpoint, "listen": listen, "reach": reach, "tenant": tenant}
    claims: dict[str, Any] = {
        "iss": issuer,
        "sub": subject,
        "aud": audience[0] if len(audience) == 1 else list(audience),
        "iat": now,
        "exp": None if expires is None else now + int(expires),
        "tidegate": {name: value for name, value in named.items() if value},
    }
    made = signing.sign(key, algorithm, {name: value for name, value in claims.items() if value}, kid)
    if len(made) > LARGEST:
        raise ConfigError(f"the token would be larger than {LARGEST // 1024} KiB, which no gateway takes")
    for warning in _warnings(secret, isinstance(key.material, bytes), named, expires):
        click.echo(f"warning: {warning}", err=True)
    if out is None:
        click.echo(made)
    else:
        _write(out, made)


def _write(file: Path, made: str) -> None:
    # Renamed into place: an agent that follows the file sees the old token or the new one.
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        try:
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as new:
                new.write(f"{made}\n")
            fresh.rename(file)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {(error.strerror or str(error)).lower()}") from None
    click.echo(f"{file}: written")


def _warnings(secret: secrets.Secret, is_secret: bool, named: dict[str, Any], expires: float | None) -> list[str]:
    found = [secret.warning] if secret.warning is not None else []
    if is_secret and len(secret.value) < _SHORT_SECRET:
        found.append(f"--key: has fewer than {_SHORT_SECRET} bytes (`tidegate token key` makes a good one)")
    if expires is None:
        found.append(
            "the token never expires; gateways take it only with `require_expiry: false` (write --expires 30d)"
        )
    if not any(named[name] for name in ("endpoints", "listen", "reach")):
        found.append("the token names no endpoint: good for all where `unlimited: true` stands, else for none")
    return found
