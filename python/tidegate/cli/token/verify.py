"""`tidegate token verify`: tells whether a token is good, and for what."""

import time
from collections.abc import Iterable
from pathlib import Path

import click

from tidegate.auth import keys, secrets
from tidegate.auth.credentials import Credentials
from tidegate.auth.verdict import Granted, Refused, Unavailable
from tidegate.auth.verify import FixedKeys, Verifier, VerifierSet
from tidegate.cli.token.given import given, token_options
from tidegate.cli.token.when import when
from tidegate.config.credentials import Named
from tidegate.config.load import validate
from tidegate.config.model import Gateway
from tidegate.config.sources import Source
from tidegate.errors import AuthError, ConfigError

__all__ = ["verify"]


@click.command()
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="The configuration of a gateway.")
@click.option(
    "--verifier", multiple=True, metavar="NAME ...", help="With --config: its verifiers to ask. [default all]"
)
@click.option("--key", "files", multiple=True, metavar="FILE ...", help="A secret, public key or JWKS instead.")
@click.option("--tenant", metavar="NAME", default="", help="It has to be of this tenant.")
@click.option("--listen", multiple=True, metavar="NAME ...", help="It has to permit listening on this endpoint.")
@click.option("--reach", multiple=True, metavar="NAME ...", help="It has to permit reaching this endpoint.")
@token_options
def verify(
    *,
    config: Path | None,
    verifier: tuple[str, ...],
    files: tuple[str, ...],
    tenant: str,
    listen: tuple[str, ...],
    reach: tuple[str, ...],
    token: str | None,
    token_file: str | None,
) -> None:
    """
    Tell whether a token is good, and for what. A token that is not ends with exit code 1 and the reason.

    The keys are those of a gateway's configuration, on its terms, or the files of --key. A token that stands on the
    command line is seen by everybody on this machine in the list of processes; `-` reads it from standard input.

    \b
    Examples:
      tidegate token verify --config tidegate.yaml --token-file token
      tidegate token verify --config tidegate.yaml --verifier main --listen web - < token
      tidegate token verify --key issuer.pem.pub --token-file token
    """
    if (config is None) == (not files):
        raise click.UsageError("write --config FILE or --key FILE")
    if verifier and config is None:
        raise click.UsageError("--verifier needs --config FILE")
    asked = _of_config(config, verifier) if config is not None else _of_files(files)
    verdict = asked.verify(given(token, token_file), tenant)
    if isinstance(verdict, Unavailable):
        raise AuthError(f"cannot be checked now: {verdict.why}")
    if isinstance(verdict, Refused):
        raise AuthError(f"{verdict.code.replace('_', ' ')}: {verdict.reason}")
    for name, permitted in [(each, verdict.may_listen(each)) for each in listen] + [
        (each, verdict.may_reach(each)) for each in reach
    ]:
        if not permitted:
            raise AuthError(f"endpoint not permitted: {name}")
    click.echo(_sentence(verdict))


def _sentence(verdict: Granted) -> str:
    ends = "never expires" if verdict.expires is None else f"expires {when(verdict.expires, time.time())}"
    tenant = [f"tenant {verdict.tenant}"] if verdict.tenant else []
    return "good: " + "; ".join(
        [*tenant, f"may listen on {_names(verdict.listen)}", f"may reach {_names(verdict.reach)}", ends]
    )


def _names(permitted: tuple[str, ...] | None) -> str:
    return "everything" if permitted is None else ", ".join(permitted) or "nothing"


def _of_config(file: Path, names: Iterable[str]) -> VerifierSet:
    gateway = validate(Gateway, Source(Gateway, file, env={}).tree(may_be_empty=False))
    chosen = tuple(names) or tuple(gateway.verifiers)
    if unknown := [name for name in chosen if name not in gateway.verifiers]:
        known = ", ".join(gateway.verifiers) or "there are none"
        raise ConfigError(f"{file}: there is no verifier `{unknown[0]}` ({known})")
    if not chosen:
        raise ConfigError(f"{file}: names no verifiers")
    named = {"": [Named(name, gateway.verifiers[name]) for name in chosen]}
    credentials = Credentials(named, {}, {}, gateway.tenants)
    for warning in credentials.warnings:
        click.echo(f"warning: {warning}", err=True)
    return credentials[""]


def _of_files(files: Iterable[str]) -> VerifierSet:
    found = []
    for file in files:
        value = secrets.of_file(file, "--key").value
        try:
            if value.lstrip().startswith(b"{"):
                held = keys.key_set(value)
                if held.lack is not None:
                    raise ValueError(held.lack)
                known = held.keys
            elif b"-----BEGIN " in value:
                known = (keys.public_key(value),)
            else:
                known = (keys.secret_key(value),)
        except ValueError as error:
            raise ConfigError(f"{file} {error}") from None
        fixed = FixedKeys(*known)
        found.append(Verifier(file, fixed, algorithms=fixed.algorithms))
    return VerifierSet(found)
