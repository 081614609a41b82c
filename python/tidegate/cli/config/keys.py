"""
What `tidegate config check` says of files with keys and passwords: whether they hold what they should.

Only files are looked into: nothing is fetched, and no command is run. A file that is not there is told by whoever makes
the snapshot. A variable that is not set may be elsewhere, where the gateway is started, and is a warning.
"""

import os
from collections.abc import Iterator

from tidegate.config.auth import SecretSource, Verifier
from tidegate.config.credentials import Named, password_sets
from tidegate.config.files import Where
from tidegate.config.model import Gateway
from tidegate.config.placed import placed, secrets
from tidegate.errors import ConfigError

__all__ = ["check"]


def check(config: Gateway, where: Where) -> list[str]:
    """What is unwise; raises `ConfigError` with every mistake, each with its place."""
    named = [Named(name, each) for name, each in config.verifiers.items() if _in_a_file(each)]
    users = {name: source for name, source in password_sets(config).items() if _there(source.file)}
    warnings = [placed(config, where, each) for each in _not_set(config)]
    if not named and not users:
        return warnings
    from tidegate.auth.credentials import Credentials  # noqa: PLC0415  cryptography takes a while to load

    try:
        unwise = Credentials({"": named}, users, {}, None).warnings
    except ConfigError as error:
        raise ConfigError([placed(config, where, each) for each in error.mistakes]) from None
    return [*warnings, *(placed(config, where, each) for each in unwise)]


def _not_set(config: Gateway) -> Iterator[str]:
    for key, source in secrets(config):
        if source.env is not None and not os.environ.get(source.env):
            how = "not set" if source.env not in os.environ else "empty"
            yield f"{key}.env: {source.env} is {how} here (it has to be where the gateway is started)"


def _in_a_file(verifier: Verifier) -> bool:
    sources: Iterator[SecretSource | None] = iter((verifier.secret, verifier.public_key))
    files = [each.file for each in sources if each is not None]
    return any(_there(file) for file in [*files, verifier.jwks.file if verifier.jwks is not None else None])


def _there(file: str | None) -> bool:
    return file is not None and os.access(file, os.R_OK)
