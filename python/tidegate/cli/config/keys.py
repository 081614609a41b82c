"""
What `tidegate config check` says of files with keys and passwords: whether they hold what they should.

Only files are looked into: nothing is fetched, and no command is run. A file that is not there is told by whoever makes
the snapshot.
"""

import os
from collections.abc import Iterator

from tidegate.config.auth import SecretSource, Verifier
from tidegate.config.credentials import Named, password_sets
from tidegate.config.files import Where
from tidegate.config.model import Gateway
from tidegate.errors import ConfigError

__all__ = ["check"]


def check(config: Gateway, where: Where) -> list[str]:
    """What is unwise; raises `ConfigError` with every mistake, each with its place."""
    named = [Named(name, each) for name, each in config.verifiers.items() if _in_a_file(each)]
    users = {name: source for name, source in password_sets(config).items() if _there(source.file)}
    if not named and not users:
        return []
    from tidegate.auth.credentials import Credentials  # noqa: PLC0415  cryptography takes a while to load

    try:
        return [_placed(each, where) for each in Credentials({"": named}, users, {}, None).warnings]
    except ConfigError as error:
        raise ConfigError([_placed(each, where) for each in error.mistakes]) from None


def _in_a_file(verifier: Verifier) -> bool:
    sources: Iterator[SecretSource | None] = iter((verifier.secret, verifier.public_key))
    files = [each.file for each in sources if each is not None]
    return any(_there(file) for file in [*files, verifier.jwks.file if verifier.jwks is not None else None])


def _there(file: str | None) -> bool:
    return file is not None and os.access(file, os.R_OK)


def _placed(sentence: str, where: Where) -> str:
    """With the place of the key that a sentence begins with, where it begins with one."""
    place = where(sentence.partition(":")[0])
    return f"{place}: {sentence}" if place else sentence
