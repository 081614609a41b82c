"""
Everything that answers the engine's questions for one configuration: its verifiers, users and certificates.

Built before the configuration is in force, so that a key that cannot be read refuses it; keys that are fetched go on
from one configuration to the next.
"""

import base64
import binascii
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from tidegate.auth import jwks, keys, passwords, secrets
from tidegate.auth.certificates import Names
from tidegate.auth.jwks import Jwks
from tidegate.auth.verdict import INVALID, Granted, Refused, Unavailable, Verdict
from tidegate.auth.verify import FixedKeys, KeySource, Verifier, VerifierSet
from tidegate.config import auth as written
from tidegate.config.credentials import Named, member_of
from tidegate.config.values import shown_url
from tidegate.errors import ConfigError

__all__ = ["Credentials"]

# The hash itself is no longer than what it is made of: RFC 7518 asks for as many bytes as HS256 has.
_SHORT_SECRET = 32

# A file costs little to read again: it is read whenever sets are tended.
_FILE_REFRESH = 0.5


class Credentials:
    """What is asked for a verdict. Any thread may ask."""

    def __init__(
        self,
        sets: Mapping[str, Sequence[Named]],
        users: Mapping[str, written.SecretSource],
        certificates: Mapping[str, written.CertificateGrant],
        tenants: Collection[str] | None,
        before: "Credentials | None" = None,
    ) -> None:
        """
        Reads every secret and key, or raises `ConfigError` with every mistake.

        Each mapping goes by the id that the engine asks with. `tenants` are the tenants there are; without them a
        credential may name any. `before` is what answers now: sets of keys that are fetched as before are not fetched
        again.
        """
        self.warnings: list[str] = []
        """What is unwise, a sentence each."""
        self._jwks: dict[tuple[str, written.Jwks], Jwks] = {}
        self._before = before
        self._fixed: dict[str, FixedKeys] = {}
        mistakes: dict[str, None] = {}
        self._sets: dict[str, VerifierSet] = {}
        self._users: dict[str, passwords.Users] = {}
        for name, members in sets.items():
            found = []
            for each in members:
                try:
                    found.append(self._verifier(each))
                except ConfigError as error:
                    mistakes.update(dict.fromkeys(error.mistakes))
            self._sets[name] = VerifierSet(found, tenants=tenants)
        for name, source in users.items():
            try:
                self._users[name] = self._read_users(name, source)
            except ConfigError as error:
                mistakes.update(dict.fromkeys(error.mistakes))
        self._certificates = {
            name: Names(member_of(name), each.endpoints, each.tenant, tenants) for name, each in certificates.items()
        }
        if mistakes:
            raise ConfigError(mistakes)
        self._before = None

    def __contains__(self, name: object) -> bool:
        """Whether a set of this id is known, of verifiers, users or certificates."""
        return name in self._sets or name in self._users or name in self._certificates

    def __getitem__(self, name: str) -> VerifierSet:
        """A set of verifiers, by its id."""
        return self._sets[name]

    def answer(self, question: Mapping[str, Any], done: Callable[[Verdict], None]) -> None:
        """Answers a question of the engine by calling `done` once: now, or on another thread where a key is fetched."""
        kind, name, tenant = question["kind"], question["set"], question.get("tenant", "")
        if kind == "token" and name in self._sets:
            self._sets[name].answer(question["token"], tenant, done)
        elif kind == "password" and name in self._users:
            done(self._password(self._users[name], question, tenant))
        elif kind == "certificate" and name in self._certificates:
            done(self._certificate(self._certificates[name], question, tenant))
        else:  # it was asked under a configuration that has been replaced
            done(Unavailable("the configuration has changed"))

    def tend(self) -> None:
        """Refreshes what is due, on other threads; returns at once. To be called every second or so."""
        for each in self._jwks.values():
            each.tend()

    def problems(self) -> list[str]:
        """What cannot be fetched, a sentence each."""
        failing = ((name, each.problem) for (name, _), each in self._jwks.items())
        return [f"verifiers.{name}.jwks: {problem}" for name, problem in failing if problem is not None]

    def lacks(self) -> list[str]:
        """Whose keys are all withdrawn, so that no token of theirs is good, a sentence each."""
        found = ((name, each.lack) for (name, _), each in self._jwks.items())
        return [f"verifiers.{name}.jwks: {lack}: no token of it is good" for name, lack in found if lack is not None]

    def key_ids(self) -> frozenset[str]:
        """The ids of everything that a verdict may stand on, certificates apart: theirs end with their sets."""
        return frozenset().union(
            *(each.key_ids() for each in self._sets.values()), *(each.key_ids() for each in self._users.values())
        )

    def on_change(self, told: Callable[[Collection[str]], None]) -> None:
        """Says who is told when fetched keys have come or gone, on the thread that found out: the ids to revoke."""
        for each in self._jwks.values():
            each.changed = partial(self._tell, told, each)

    def _tell(self, told: Callable[[Collection[str]], None], source: Jwks, fingerprints: Collection[str]) -> None:
        verifiers = (verifier for each in self._sets.values() for verifier in each.verifiers)
        told(frozenset().union(*(each.key_ids(fingerprints) for each in verifiers if each.keys is source)))

    @staticmethod
    def _password(users: passwords.Users, question: Mapping[str, Any], tenant: str) -> Verdict:
        found = users.verify(question["user"], question["password"])
        if tenant and isinstance(found, Granted):
            return Refused("unknown_tenant", "a user belongs to no tenant")
        return found

    @staticmethod
    def _certificate(names: Names, question: Mapping[str, Any], tenant: str) -> Verdict:
        try:
            der = base64.b64decode(question["der"], validate=True)
        except binascii.Error:
            return Refused(INVALID, "the certificate cannot be read")
        return names.verify(der, time.time(), tenant)

    def _verifier(self, named: Named) -> Verifier:
        name, terms = named.name, named.verifier
        source, fitting = self._keys(name, terms)
        algorithms = tuple(each for each in terms.algorithms or fitting if each in fitting)
        if not algorithms:
            raise ConfigError(
                f"verifiers.{name}.algorithms: {', '.join(terms.algorithms)} does not fit its key "
                f"(it is one of {', '.join(fitting)})"
            )
        return Verifier(
            name,
            source,
            algorithms=algorithms,
            issuer=terms.issuer,
            audience=terms.audience,
            leeway=terms.leeway,
            require_expiry=terms.require_expiry,
            unlimited=terms.unlimited,
            tenant=terms.tenant or "",
            limits=None if terms.limits is None else terms.limits.model_dump(),
            id=named.member,
        )

    def _keys(self, name: str, terms: written.Verifier) -> tuple[KeySource, tuple[str, ...]]:
        if terms.jwks is not None:
            return self._fetched(name, terms.jwks), terms.fitting
        if name not in self._fixed:
            self._fixed[name] = FixedKeys(self._fixed_key(name, terms))
        fixed = self._fixed[name]
        return fixed, fixed.algorithms

    def _fixed_key(self, name: str, terms: written.Verifier) -> keys.Key:
        kind = "secret" if terms.secret is not None else "public_key"
        source = terms.secret or terms.public_key
        assert source is not None  # noqa: S101  the model has seen to it
        what = f"verifiers.{name}.{kind}"
        secret = secrets.read(source, what)
        try:
            if terms.secret is None:
                return keys.public_key(secret.value)
            found = keys.secret_key(secret.value)
        except ValueError as error:
            raise ConfigError(f"{what}: {source.file or 'what was read'} {error}") from None
        if secret.warning is not None:
            self.warnings.append(secret.warning)
        if len(secret.value) < _SHORT_SECRET:
            self.warnings.append(
                f"{what}: has fewer than {_SHORT_SECRET} bytes (`tidegate token key` makes a good one)"
            )
        return found

    def _fetched(self, name: str, source: written.Jwks) -> Jwks:
        place = (name, source)
        if place in self._jwks:
            return self._jwks[place]
        found = self._before._jwks.get(place) if self._before is not None else None  # noqa: SLF001  its own kind
        if found is None:
            found = _jwks(name, source)
            found.load()
        self.warnings += [f"verifiers.{name}.jwks: {note}" for note in found.notes]
        self._jwks[place] = found
        return found

    def _read_users(self, name: str, source: written.SecretSource) -> passwords.Users:
        what = source.file or "users"
        secret = secrets.read(source, "users")
        try:
            found = passwords.parse(secret.value.decode(), member_of(name), what)
        except UnicodeDecodeError:
            raise ConfigError(f"{what}: is not UTF-8 text") from None
        except ValueError as error:
            raise ConfigError(str(error).splitlines()) from None
        if secret.warning is not None:
            self.warnings.append(secret.warning)
        if found.kinds > 1:
            self.warnings.append(
                f"{what}: its hashes are of {found.kinds} kinds or costs, so the time of an answer tells which users "
                "there are (make all of them in one way, such as `htpasswd -nB -C 10 USER`)"
            )
        return found


def _jwks(name: str, source: written.Jwks) -> Jwks:
    if source.file is not None:
        fetch, often, retry = jwks.file_fetch(source.file), _FILE_REFRESH, 1.0
        return Jwks(name, fetch, refresh=often, retry=retry, max_stale=source.max_stale, place=source.file)
    assert source.url is not None  # noqa: S101  the model has seen to it
    fetch = jwks.url_fetch(source.url, source.ca, source.timeout)
    often, retry, oldest = source.refresh, source.retry, source.max_stale
    return Jwks(name, fetch, refresh=often, retry=retry, max_stale=oldest, place=shown_url(source.url))
