"""
Turns what Piko's server says about tokens into our verifiers, tenants and `auth`.

Keys that stand in Piko's file or flags are handed on as they are, hidden; a file of ours cannot hold them, so who
prints one has to put them elsewhere. What Piko is known for is kept: a token without endpoints may do everything, one
without an expiry is good, and `Authorization` goes on to the upstream.
"""

import re
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from tidegate.config.auth import Jwks
from tidegate.config.knobs import Duration, Model, knob
from tidegate.config.tree import Tree
from tidegate.importers.piko import Text
from tidegate.importers.translation import Note, place

__all__ = ["PikoAuth", "PikoTenant", "Verifiers", "key"]

Path = tuple[str | int, ...]


class PikoJwks(Model):
    """Keys by URL."""

    endpoint: Text | None = knob(None, "URL of the keys that tokens are checked with, http(s):// or file://.")
    cache_ttl: Duration | None = knob(None, "How long they are kept.")
    timeout: Duration | None = knob(None, "Longest time to fetch them.")


class PikoAuth(Model):
    """Whose tokens are good."""

    hmac_secret_key: Text | None = knob(None, "Secret that tokens are checked with.")
    rsa_public_key: Text | None = knob(None, "Key in PEM that tokens are checked with.")
    ecdsa_public_key: Text | None = knob(None, "Key in PEM that tokens are checked with.")
    audience: Text | None = knob(None, "Audience that tokens must name.")
    issuer: Text | None = knob(None, "Issuer that tokens must name.")
    disable_disconnect_on_expiry: bool | None = knob(None, "Keep a session whose token has expired.")
    jwks: PikoJwks = PikoJwks()


class PikoTenant(Model):
    """A tenant, and whose tokens are good for it."""

    id: Text
    auth: PikoAuth = PikoAuth()


_KEYS: dict[str, tuple[str, str, dict[str, list[str]]]] = {
    "hmac_secret_key": ("hmac", "secret", {}),
    "rsa_public_key": ("rsa", "public_key", {"algorithms": ["RS256", "RS384", "RS512"]}),
    "ecdsa_public_key": ("ecdsa", "public_key", {"algorithms": ["ES256", "ES384", "ES512"]}),
}


class Verifiers:
    """Our verifiers for Piko's, gathered from every place that has some."""

    def __init__(self, tree: Tree) -> None:
        self.found: dict[str, dict[str, Any]] = {}
        """`verifiers`, as our file would say it; keys are hidden in a type of their own."""
        self.tenants: dict[str, dict[str, Any]] = {}
        """`tenants`, as our file would say it."""
        self.where: dict[Path, str] = {}
        """Where mistakes in them are those of Piko's file."""
        self.mistakes: list[str] = []
        """What would let somebody in whom Piko keeps out."""
        self.notes: list[Note] = []
        """What has another meaning here."""
        self._tree = tree

    @property
    def only_tenant(self) -> str | None:
        """The one tenant there is: its endpoints are the only ones, so requests need not say whose they want."""
        return next(iter(self.tenants)) if len(self.tenants) == 1 else None

    def auth(self, path: Path, auth: PikoAuth, tenant: str | None = None) -> dict[str, Any]:
        """`auth` of a listener or admin, whose tokens are those of `tenant`; empty where Piko asks for nothing."""
        names = self._verifiers(str(path[0]), path, auth)
        if tenant is not None:
            for name in names:
                self.found[name]["tenant"] = tenant
        return {"verifiers": names} if names else {}

    def agents(self, auth: PikoAuth, tenants: tuple[PikoTenant, ...]) -> dict[str, Any]:
        """`auth` of the tunnel listener, and the tenants."""
        if not tenants:
            found = self.auth(("upstream", "auth"), auth)
            return found | _kept(auth) if found else {}
        if _asks(auth):
            where = place(self._tree, "upstream", "auth")
            self.notes.append(Note(where, "`upstream.auth` left out: with tenants nobody comes without one"))
        for position, tenant in enumerate(tenants):
            self._tenant(position, tenant)
        if len(self.tenants) > 1:
            self.notes.append(
                Note(
                    place(self._tree, "upstream", "tenants"),
                    "tenants do not share names of endpoints: a request reaches those of a tenant by a listener or "
                    "route with `tenant: NAME`, or by a token of that tenant",
                )
            )
        kept = [_kept(tenant.auth) for tenant in tenants]
        if any(kept) and not all(kept):
            self.notes.append(
                Note(
                    place(self._tree, "upstream", "tenants"),
                    "`disable_disconnect_on_expiry` differs between tenants: every session ends with its token",
                )
            )
        return {"by_tenant": True} | (kept[0] if all(kept) else {})

    def _tenant(self, position: int, tenant: PikoTenant) -> None:
        path: Path = ("upstream", "tenants", position)
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", tenant.id):
            said = f"{tenant.id!r} cannot be carried: a tenant is 1 to 128 of the characters A-Z a-z 0-9 . _ -"
            self.mistakes.append(f"{key(self._tree, (*path, 'id'))}: {said}")
        elif tenant.id in self.tenants:
            self.mistakes.append(f"{key(self._tree, (*path, 'id'))}: there are two tenants {tenant.id}")
        else:
            self.tenants[tenant.id] = {}
            names = self._verifiers(f"tenant-{tenant.id}"[:120], (*path, "auth"), tenant.auth)
            if names:
                self.tenants[tenant.id] = {"verifiers": names}
            elif not _half(tenant.auth):
                said = "has no key, so nobody can be this tenant (give it one, or remove the tenant)"
                self.mistakes.append(f"{key(self._tree, path)}: {said}")

    def _verifiers(self, name: str, path: Path, auth: PikoAuth) -> list[str]:
        """One verifier for each key; a JWKS stands alone."""
        terms: dict[str, Any] = {"issuer": auth.issuer or None, "audience": auth.audience or None}
        terms = {word: value for word, value in terms.items() if value is not None}
        terms |= {"require_expiry": False, "unlimited": True}
        if auth.jwks.endpoint:
            for word in _KEYS:
                if getattr(auth, word):
                    where = place(self._tree, *path, word)
                    self.notes.append(Note(where, f"`{word}` left out: beside `jwks` it does not count"))
            return [self._add(f"{name}-jwks", {"jwks": self._jwks(path, auth.jwks), **terms}, (*path, "jwks"))]
        names = []
        for word, (kind, ours, algorithms) in _KEYS.items():
            value = getattr(auth, word)
            if value:
                made = {ours: SecretStr(value), **algorithms, **terms}
                names.append(self._add(f"{name}-{kind}", made, (*path, word)))
        if not names and (missing := _half(auth)):
            self.mistakes.append(
                f"{key(self._tree, (*path, missing))}: needs a key or `jwks`: without one nobody is asked for a token"
            )
        return names

    def _add(self, name: str, made: dict[str, Any], path: Path) -> str:
        self.found[name] = made
        self.where[("verifiers", name)] = place(self._tree, *path)
        return name

    def _jwks(self, path: Path, jwks: PikoJwks) -> dict[str, Any]:
        endpoint = str(jwks.endpoint)
        here = (*path, "jwks")
        if endpoint.startswith("file:"):
            for word in ("cache_ttl", "timeout"):
                if getattr(jwks, word) is not None:
                    where = place(self._tree, *here, word)
                    self.notes.append(Note(where, f"`jwks.{word}` left out: a file is read again when it changes"))
            return {"file": unquote(urlsplit(endpoint).path)}
        made = {"url": endpoint, "refresh": jwks.cache_ttl or None, "timeout": jwks.timeout or None}
        outage: float = Jwks.model_fields["max_stale"].default
        if jwks.cache_ttl and jwks.cache_ttl >= outage:
            made["max_stale"] = jwks.cache_ttl + outage  # an outage may take as long as with any other
        return {word: value for word, value in made.items() if value is not None}


def _asks(auth: PikoAuth) -> bool:
    return bool(auth.jwks.endpoint or any(getattr(auth, word) for word in _KEYS))


def _half(auth: PikoAuth) -> str | None:
    """A term that means nothing without a key."""
    return next((word for word in ("audience", "issuer") if getattr(auth, word) and not _asks(auth)), None)


def _kept(auth: PikoAuth) -> dict[str, Any]:
    return {"disconnect_on_expiry": False} if auth.disable_disconnect_on_expiry else {}


def key(tree: Tree, path: Path) -> str:
    """The place of a key of Piko's, and the key where the place is not its option."""
    where = place(tree, *path)
    dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    return where if where.startswith("--") else f"{where}: {dotted}"
