"""
Users and their passwords, from a file as `htpasswd -B` writes it: `user:hash`, one a line.

Only hashes that are slow to guess are taken, bcrypt and argon2id, and none that is too slow to check. An unknown user
takes as long as a wrong password, where all hashes are of one kind and cost.
"""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field

import argon2
import bcrypt

from tidegate.auth.strict import encoded
from tidegate.auth.verdict import INVALID, Granted, Refused

__all__ = ["Users", "parse"]

_BCRYPT = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}")
_ARGON2ID = re.compile(
    r"\$argon2id\$v=19\$(m=([0-9]{1,20}),t=([0-9]{1,20}),p=([0-9]{1,20}))\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+"
)
_LEAST_ROUNDS = 4
_LEAST_MEMORY = 8  # KiB for each lane
_LONGEST = 1024
"""Bytes of a password."""

# One thread checks everybody's passwords, and nobody waits longer than ten seconds: a hash that takes more than a few
# would lock everybody out, and one with more memory than this could end the gateway, by a wrong password too. What is
# usual (64 MiB three times, bcrypt with 10 to 12 rounds) takes a tenth of a second or two.
_MOST_ROUNDS = 16
_MOST_MEMORY = 1 << 20  # KiB
_MOST_PASSES = 20
_MOST_LANES = 16
_MOST_WORK = 4 * _MOST_MEMORY  # memory times passes

# What else such files hold, so that it can be named.
_WEAK = {
    "$apr1$": "MD5",
    "$1$": "MD5",
    "{SHA}": "SHA-1",
    "{SSHA}": "SHA-1",
    "$5$": "SHA-256",
    "$6$": "SHA-512",
    "$argon2i$": "argon2i",
    "$argon2d$": "argon2d",
}


@dataclass(frozen=True)
class Users:
    """Who may come in."""

    name: str
    """What the set is called, in the ids of its keys."""
    hashes: dict[str, str] = field(repr=False)
    """The hash of each user's password."""
    usual: str = field(repr=False)
    """A hash whose check takes as long as most others: it is what an unknown user's password is checked against."""
    kinds: int = 1
    """How many kinds and costs of hashes there are: with more than one, the time of an answer tells who is known."""

    def verify(self, user: str, password: str) -> Granted | Refused:
        """What came of a user's password. Takes as long as the hash was made to take."""
        known = self.hashes.get(user)
        good = _matches(known or self.usual, password)
        if known is None or not good:
            return Refused(INVALID, "the user or the password is wrong")
        # Who may use a route with a password may use it whole; a password offers no endpoint.
        return Granted(key=self._key(user, known), reach=None)

    def key_ids(self) -> frozenset[str]:
        """An id for each user with this password: it goes when either changes."""
        return frozenset(self._key(user, known) for user, known in self.hashes.items())

    def _key(self, user: str, known: str) -> str:
        digest = hashlib.sha256(f"{user}:{known}".encode()).digest()
        return f"{self.name}/{encoded(digest)}"


def parse(text: str, name: str, what: str) -> Users:
    """The users of a file, or a `ValueError` with every line that is wrong. `what` names the file; no hash is shown."""
    hashes: dict[str, str] = {}
    wrong: list[str] = []
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if not line or line.startswith("#"):
            continue
        user, colon, known = line.partition(":")
        if not colon or not user:
            wrong.append(f"{what}:{number}: expected USER:HASH, as `htpasswd -B` writes it")
        elif user in hashes:
            wrong.append(f"{what}:{number}: this user stands twice")
        elif _kind(known) is None:
            wrong.append(f"{what}:{number}: {_unfit(known)} (make one with `htpasswd -nB USER`, or argon2id)")
        elif too_much := _too_much(known):
            wrong.append(f"{what}:{number}: checking this hash takes too long or too much memory: {too_much}")
        else:
            hashes[user] = known
    if wrong:
        raise ValueError("\n".join(wrong))
    if not hashes:
        raise ValueError(f"{what}: names no user")
    kinds = Counter(_kind(known) for known in hashes.values())
    usual = kinds.most_common(1)[0][0]
    return Users(name, hashes, next(known for known in hashes.values() if _kind(known) == usual), len(kinds))


def _kind(known: str) -> str | None:
    """What a hash costs to check; nothing for what is no hash, or one that no password can have."""
    if found := _BCRYPT.fullmatch(known):
        return found[1] if int(found[1]) >= _LEAST_ROUNDS else None
    if found := _ARGON2ID.fullmatch(known):
        memory, passes, lanes = map(int, found.groups()[1:])
        return found[1] if passes and lanes and memory >= _LEAST_MEMORY * lanes else None
    return None


def _too_much(known: str) -> str | None:
    """What of a hash is more than may be asked of whoever checks it."""
    if found := _BCRYPT.fullmatch(known):
        rounds = int(found[1])
        return f"{rounds} rounds are too many: {_MOST_ROUNDS} at most" if rounds > _MOST_ROUNDS else None
    if found := _ARGON2ID.fullmatch(known):
        memory, passes, lanes = map(int, found.groups()[1:])
        if memory > _MOST_MEMORY:
            return f"m={memory} is too much: {_MOST_MEMORY} (1 GiB) at most"
        if passes > _MOST_PASSES:
            return f"t={passes} is too much: {_MOST_PASSES} at most"
        if lanes > _MOST_LANES:
            return f"p={lanes} is too much: {_MOST_LANES} at most"
        if memory * passes > _MOST_WORK:
            return f"m={memory} t={passes} is too much: their product is {_MOST_WORK} at most"
    return None


def _unfit(known: str) -> str:
    for beginning, kind in _WEAK.items():
        if known.startswith(beginning):
            return f"a hash of {kind} is guessed too fast"
    return "this is no hash of bcrypt or argon2id"


def _matches(known: str, password: str) -> bool:
    given = password.encode("utf-8", "surrogatepass")
    if len(given) > _LONGEST:
        return False
    if known.startswith("$argon2id$"):
        try:
            return argon2.PasswordHasher().verify(known, given)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False
    try:
        # `htpasswd` cuts at 72 bytes, as bcrypt does.
        return bcrypt.checkpw(given[:72], known.encode())
    except ValueError:
        return False
