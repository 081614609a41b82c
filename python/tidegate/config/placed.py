"""
Where a sentence about secrets belongs: its key, and the place of that.

Whoever reads secrets knows files and variables; who has to mend something looks for a key and its line.
"""

import re
from collections.abc import Iterator

from tidegate.config.auth import SecretSource
from tidegate.config.files import Where
from tidegate.config.model import Gateway

__all__ = ["placed", "secrets"]


def placed(gateway: Gateway, where: Where | None, sentence: str) -> str:
    """A sentence that begins with a key, or is about a source of users, with the place of its key in front."""
    key = _users_key(gateway, sentence)
    if key is not None:
        message = sentence.removeprefix("users: ")
    else:
        key, _, message = sentence.partition(": ")
    place = where(key) if where is not None else ""
    if where is not None and place:
        message = where.hidden(key, message)
    return ": ".join(filter(None, (place, key, message)))


def secrets(gateway: Gateway) -> Iterator[tuple[str, SecretSource]]:
    """Every source of a secret, by its key."""
    for name, verifier in gateway.verifiers.items():
        for key in ("secret", "public_key"):
            source = getattr(verifier, key)
            if source is not None:
                yield f"verifiers.{name}.{key}", source
    yield from _users(gateway)


def _users(gateway: Gateway) -> Iterator[tuple[str, SecretSource]]:
    asking = [(f"listeners.{name}", each.auth) for name, each in gateway.listeners.items()]
    asking += [(f"routes[{position}]", each.auth) for position, each in enumerate(gateway.routes)]
    yield from ((f"{key}.auth.users", auth.users) for key, auth in asking if auth is not None and auth.users)


def _users_key(gateway: Gateway, sentence: str) -> str | None:
    """The first key of users that a sentence is about."""
    users = list(_users(gateway))
    if sentence.startswith(("verifiers.", *(key for key, _ in users))):
        return None
    unnamed = []
    for key, source in users:
        name = source.file or source.env
        if source.file is None:
            unnamed.append(key)
        if name is not None and re.search(rf"(?<!\S){re.escape(name)}(?=[:\s]|$)", sentence):
            return key
    # What a command prints, or a variable holds, has no name of its own.
    return unnamed[0] if sentence.startswith("users:") and len(unnamed) == 1 else None
