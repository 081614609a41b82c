"""
Decides whether a token is good, and for what: its form, its verifier's terms, its signature, its times, its tenant.

A token is asked about once; what is decided here is kept by the engine. Nothing here reads a configuration or a file:
`configured` does.
"""

import json
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Protocol

from tidegate.auth import keys as signatures
from tidegate.auth import token as tokens
from tidegate.auth.jwks import Changed, KeysUnavailableError
from tidegate.auth.keys import Key
from tidegate.auth.token import Claims, InvalidTokenError, Token
from tidegate.auth.verdict import (
    EXPIRED,
    INVALID,
    UNKNOWN_TENANT,
    Granted,
    Refused,
    Unavailable,
    Verdict,
    agreed_tenant,
)

__all__ = ["FixedKeys", "KeySource", "Verifier", "VerifierSet"]

# What cannot become good again is kept as long as the engine keeps anything; what can, briefly.
_FOREVER = 3600.0
_BRIEFLY = 10.0


class KeySource(Protocol):
    """Where the keys of a verifier come from: fixed ones, or a `Jwks`."""

    changed: Changed

    def find(self, kid: str | None, *, wait: bool) -> "tuple[Key, ...] | Future[None]":
        """The keys that a token may be signed with, or a future after which to ask again."""

    def ids(self) -> frozenset[str]:
        """The fingerprints of all keys in force."""

    def tend(self) -> None:
        """Does what is due; returns at once."""

    def patience(self) -> float:
        """Seconds until a key that is unknown now may be known."""


class FixedKeys:
    """Keys that stay as they are; a token's `kid` means nothing."""

    def __init__(self, *keys: Key) -> None:
        self._keys = keys
        self.changed: Changed = lambda _: None
        """Is never called."""
        self.algorithms = tuple(dict.fromkeys(name for key in keys for name in key.algorithms))
        """The algorithms that fit them."""

    def find(self, kid: str | None, *, wait: bool) -> tuple[Key, ...]:  # noqa: ARG002
        """All of them."""
        return self._keys

    def ids(self) -> frozenset[str]:
        """Their ids."""
        return frozenset(key.id for key in self._keys)

    def tend(self) -> None:
        """Nothing is ever due."""

    def patience(self) -> float:
        """No other key will come."""
        return _BRIEFLY


class Verifier:
    """One issuer's tokens: its keys, and the terms on which they are good."""

    def __init__(
        self,
        name: str,
        keys: KeySource,
        *,
        algorithms: Collection[str] = signatures.ALGORITHMS,
        issuer: str | None = None,
        audience: Collection[str] = (),
        leeway: float = 0.0,
        require_expiry: bool = True,
        unlimited: bool = False,
        tenant: str = "",
        limits: Mapping[str, Any] | None = None,
        id: str = "",
    ) -> None:
        """`id` stands for the name and the terms in the ids of its keys."""
        self.name = name
        self.id = id or name
        self.keys = keys
        self.algorithms = tuple(algorithms)
        self._require_expiry = require_expiry
        self._issuer = issuer
        self._audience = frozenset(audience)
        self._leeway = leeway
        self._unlimited = unlimited
        self.tenant = tenant
        self._limits = dict(limits) if limits is not None else None

    def key_ids(self, fingerprints: Iterable[str] | None = None) -> frozenset[str]:
        """The ids of its keys, which say on what terms they vouch: of those in force, or with these fingerprints."""
        found = self.keys.ids() if fingerprints is None else fingerprints
        return frozenset(map(self._key_id, found))

    def _key_id(self, fingerprint: str) -> str:
        return f"{self.id}/{fingerprint}"

    def key_of(self, token: Token, claims: Claims, *, wait: bool) -> "Key | Future[None]":
        """The key that has signed a token; `_Refusal` or `KeysUnavailableError` where there is none."""
        if token.algorithm not in self.algorithms:
            raise _Refusal(INVALID, f"is not signed by {_any(self.algorithms)}")
        # No key is looked for, and nothing fetched, for the tokens of others.
        if self._issuer is not None and claims.issuer != self._issuer:
            raise _Refusal(INVALID, f"is not issued by {json.dumps(self._issuer)}")
        if self._audience and self._audience.isdisjoint(claims.audience):
            raise _Refusal(INVALID, f"is not for {_any(sorted(map(json.dumps, self._audience)))}")
        found = self.keys.find(token.kid, wait=wait)
        if isinstance(found, Future):
            return found
        for key in found:
            if signatures.verify(key, token.algorithm, token.signed, token.signature):
                return key
        if not found:
            said = (
                "names a key (`kid`) that is not known"
                if token.kid is not None
                else "there is no key to verify it with"
            )
            raise _Refusal(INVALID, said, self.keys.patience())
        raise _Refusal(INVALID, "is not signed with its key")

    def grant(self, key: Key, claims: Claims, tenant: str, now: float) -> Granted:
        """What a token permits whose signature is good, or `_Refusal`."""
        if claims.expires is None and self._require_expiry:
            raise _Refusal(INVALID, "has no expiry (`exp`)", _FOREVER)
        expires = None if claims.expires is None else claims.expires + self._leeway
        if expires is not None and now >= expires:
            raise _Refusal(EXPIRED, "has expired", _FOREVER)
        if claims.not_before is not None and (early := claims.not_before - self._leeway - now) > 0:
            raise _Refusal(INVALID, "is not good yet (`nbf`)", min(early, _BRIEFLY))
        unnamed = None if self._unlimited else ()
        return Granted(
            key=self._key_id(key.id),
            tenant=tenant,
            listen=unnamed if claims.listen is None else claims.listen,
            reach=unnamed if claims.reach is None else claims.reach,
            expires=expires,
            limits=self._limits,
        )


class _Refusal(Exception):  # noqa: N818  it is an answer, and no failure
    def __init__(self, code: str, reason: str, keep: float = _BRIEFLY) -> None:
        super().__init__(reason)
        self.refused = Refused(code, reason, min(keep, _FOREVER))


class VerifierSet:
    """Verifiers of which any may accept a token. Any thread may ask."""

    def __init__(
        self,
        verifiers: Sequence[Verifier],
        *,
        tenants: Collection[str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`tenants`: those there are; without it a token may name any."""
        self.verifiers = tuple(verifiers)
        self._tenants = tenants
        self._clock = clock

    def key_ids(self) -> frozenset[str]:
        """The ids of all keys in force."""
        return frozenset().union(*(each.key_ids() for each in self.verifiers))

    def verify(self, token: str, tenant: str = "") -> Verdict:
        """What a token is good for. Waits where a key has to be fetched first, 5 s at most."""
        answered: Future[Verdict] = Future()
        self.answer(token, tenant, answered.set_result)
        return answered.result()

    def answer(self, token: str, tenant: str, done: Callable[[Verdict], None]) -> None:
        """The same without waiting: calls `done` once, now, or on another thread where a key is fetched first."""
        try:
            read = tokens.read(token)
            claims = tokens.claims_of(read)
        except InvalidTokenError as error:
            done(Refused(INVALID, str(error), _FOREVER))
            return
        found = [self._ask(each, read, claims, tenant, wait=True) for each in self.verifiers]
        waiting = [each for each in found if isinstance(each, Future)]
        verdicts = [each for each in found if not isinstance(each, Future)]
        if not waiting or any(isinstance(each, Granted) for each in verdicts):
            done(_best(verdicts))
            return

        def again() -> None:
            try:
                found = [self._ask(each, read, claims, tenant, wait=False) for each in self.verifiers]
                verdict = _best([each for each in found if not isinstance(each, Future)])
            except Exception:
                done(Unavailable("a mistake of ours"))
                raise  # whoever settles a future logs it
            done(verdict)

        _when_all(waiting, again)

    def _ask(
        self, verifier: Verifier, token: Token, claims: Claims, asked: str, *, wait: bool
    ) -> "Verdict | Future[None]":
        try:
            key = verifier.key_of(token, claims, wait=wait)
            if isinstance(key, Future):
                return key
            tenant = self._tenant_of(verifier, claims, asked)
            return verifier.grant(key, claims, tenant, self._clock())
        except KeysUnavailableError as error:
            return Unavailable(f"{verifier.name}: {error}")
        except _Refusal as refusal:
            return replace(refusal.refused, reason=f"{verifier.name}: {refusal.refused.reason}")

    def _tenant_of(self, verifier: Verifier, claims: Claims, asked: str) -> str:
        tenant = agreed_tenant(asked, verifier.tenant, claims.tenant)
        if tenant is None:
            raise _Refusal(UNKNOWN_TENANT, "belongs to another tenant")
        if tenant and self._tenants is not None and tenant not in self._tenants:
            raise _Refusal(UNKNOWN_TENANT, "names a tenant that is not known here")
        return tenant


def _best(verdicts: Sequence[Verdict]) -> Verdict:
    """The first that grants, else whatever says most: nobody can say, has expired, another tenant's, invalid."""

    def rank(verdict: Verdict) -> int:
        if isinstance(verdict, Granted):
            return 0
        if isinstance(verdict, Unavailable):
            return 1
        return {EXPIRED: 2, UNKNOWN_TENANT: 3}.get(verdict.code, 4)

    if not verdicts:
        return Refused(INVALID, "nobody is there to verify it")
    best = min(verdicts, key=rank)
    if isinstance(best, Refused):
        # It may become good when any of the reasons goes away.
        keep = min(verdict.keep for verdict in verdicts if isinstance(verdict, Refused))
        reason = "; ".join(dict.fromkeys(v.reason for v in verdicts if isinstance(v, Refused) and v.code == best.code))
        return Refused(best.code, reason, keep)
    return best


def _when_all(futures: Sequence["Future[None]"], run: Callable[[], None]) -> None:
    left = len(futures)
    lock = threading.Lock()

    def settled(_: "Future[None]") -> None:
        nonlocal left
        with lock:
            left -= 1
            last = left == 0
        if last:
            run()

    for future in futures:
        future.add_done_callback(settled)


def _any(words: Sequence[str]) -> str:
    return " or ".join(words) if len(words) < 3 else f"{', '.join(words[:-1])} or {words[-1]}"
