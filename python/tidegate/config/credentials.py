"""
Whose credentials are good, as the engine takes it, and what each of its sets stands for in Python.

A set is known by its id, `MEMBER,...;DIGEST`. A member is a name and a digest of the terms on which it vouches for
somebody: the ids of its keys begin with it, and what they have opened ends when no set has that member any more. The
digest behind it is of everything that decides about a credential, leeway, limits and the tenants there are among it, so
that no verdict outlives what it was given for. Key material is in neither. Nothing secret enters a snapshot; reading
secrets and answering the engine's questions is `tidegate.auth`'s.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tidegate.config.auth import ALGORITHMS, AdminAuth, Auth, CertificateGrant, Jwks, Quota, SecretSource, Verifier
from tidegate.config.binds import is_loopback, resolve_bind
from tidegate.config.files import Checked
from tidegate.config.model import Gateway
from tidegate.config.routes import Route

__all__ = [
    "Named", "admin_advice", "admin_set", "auth", "certificate_sets", "files", "member_of", "password_advice",
    "password_sets", "readable", "route_auth", "tenants", "verifier_sets", "verifier_sets_of_the_engine",
]  # fmt: skip


@dataclass(frozen=True)
class Named:
    """A verifier and what it is called."""

    name: str
    """Its name below `verifiers`."""
    verifier: Verifier
    """What it is; where a tenant's header picked it, its `tenant` is that one."""

    @property
    def member(self) -> str:
        """What the ids of its keys begin with."""
        return f"{self.name}/{_digest(_terms(self.verifier))}"


def verifier_sets(gateway: Gateway) -> dict[str, list[Named]]:
    """Every set of verifiers that something asks for, admin included, by its id: a token that one accepts is good."""
    found = dict(_engine_sets(gateway))
    if gateway.admin.auth is not None:
        found.update([_set(gateway, _named(gateway, gateway.admin.auth.verifiers))])
    return found


def password_sets(gateway: Gateway) -> dict[str, SecretSource]:
    """Where users and their passwords stand, by the id of the set."""
    return {_password_id(each.users): each.users for each in _asked(gateway) if each.users is not None}


def certificate_sets(gateway: Gateway) -> dict[str, CertificateGrant]:
    """What names of client certificates stand for, by the id of the set."""
    found = [each.certificate for each in _asked(gateway) if each.certificate is not None]
    return {_certificate_id(gateway, each): each for each in found}


def admin_set(gateway: Gateway) -> str | None:
    """The id of the set that the admin listener asks for."""
    asked: AdminAuth | None = gateway.admin.auth
    return None if asked is None else _set(gateway, _named(gateway, asked.verifiers))[0]


def admin_advice(gateway: Gateway) -> list[str]:
    """What is unwise about `admin.auth.verifiers`: they are those of agents or visitors too."""
    asked = gateway.admin.auth.verifiers if gateway.admin.auth is not None else ()
    others: dict[str, str] = {}
    for place, auth in _places(gateway):
        names = [*auth.verifiers, *(each.name for _, named in _by_tenant(gateway) for each in named if auth.by_tenant)]
        others = dict.fromkeys(names, place) | others
    return [
        f"{others[name]} asks for tokens of {name} too: whoever has one sees and changes everything here "
        "(add a verifier whose key or `audience` is for admin alone)"
        for name in dict.fromkeys(asked)
        if name in others
    ]


def password_advice(gateway: Gateway) -> list[tuple[str, str]]:
    """Where passwords come from other machines without TLS, by the key that asks for them."""
    if gateway.trusted_proxies:  # who stands in front ends TLS
        return []
    reached = {
        name for name, each in gateway.listeners.items()
        if each.kind == "http" and each.tls is None and not each.proxy_protocol and _reached(each.bind)
    }  # fmt: skip
    asking = [(f"listeners.{name}", [name], each.auth) for name, each in gateway.listeners.items()]
    asking += [
        (f"routes[{n}]", [*(each.listeners or gateway.listeners)], each.auth) for n, each in enumerate(gateway.routes)
    ]
    return [
        (
            f"{place}.auth.users",
            f"passwords are sent to listener {listener} without TLS: whoever is on the way reads them "
            "(give it `tls`, or bind it to 127.0.0.1 behind what ends TLS)",
        )
        for place, listeners, auth in asking
        if auth is not None and auth.users is not None
        for listener in [each for each in listeners if each in reached][:1]
    ]


def _reached(bind: str) -> bool:
    """Whether other machines reach an address."""
    try:
        return not all(map(is_loopback, resolve_bind(bind)))
    except ValueError:
        return False  # told as a mistake


def verifier_sets_of_the_engine(gateway: Gateway) -> list[dict[str, Any]]:
    """What the engine refuses by itself, for each set that it asks about."""
    return [
        {
            "id": name,
            "algorithms": [each for each in ALGORITHMS if any(each in _algorithms(one.verifier) for one in named)],
            "require_expiry": all(one.verifier.require_expiry for one in named),
            "leeway": max(one.verifier.leeway for one in named),
        }
        for name, named in _engine_sets(gateway).items()
    ]


def tenants(gateway: Gateway) -> dict[str, dict[str, int | None] | None] | None:
    """The limits of each tenant, None for one that has none; None where a credential may name any tenant."""
    if gateway.tenants is None:
        return None
    return {name: None if each.limits is None else each.limits.model_dump() for name, each in gateway.tenants.items()}


def auth(gateway: Gateway, asked: Auth | None) -> dict[str, Any] | None:
    """What a listener or route asks for; None where it asks for nothing."""
    if asked is None or asked.is_none:
        return None
    tenants = {name: _set(gateway, named)[0] for name, named in _by_tenant(gateway)} if asked.by_tenant else None
    return {
        "set": _set(gateway, _named(gateway, asked.verifiers))[0] if asked.verifiers else None,
        "by_tenant": tenants,
        "basic": _password_id(asked.users) if asked.users is not None else None,
        "certificate": _certificate_id(gateway, asked.certificate) if asked.certificate is not None else None,
        "realm": asked.realm,
        "pass": asked.pass_,
        "disconnect_on_expiry": asked.disconnect_on_expiry,
    }


def route_auth(gateway: Gateway, route: Route) -> dict[str, Any] | str | None:
    """The same of a route, which by default leaves it to its listener."""
    return "inherit" if route.auth is None else auth(gateway, route.auth)


def files(gateway: Gateway, checked: Checked) -> None:
    """Tells which files of secrets and keys cannot be read. What they hold is not looked at here."""
    for name, verifier in gateway.verifiers.items():
        for key in ("secret", "public_key", "jwks"):
            readable(getattr(verifier, key), f"verifiers.{name}.{key}", checked)
    for name, listener in gateway.listeners.items():
        readable(listener.auth.users if listener.auth else None, f"listeners.{name}.auth.users", checked)
    for position, route in enumerate(gateway.routes):
        readable(route.auth.users if route.auth else None, f"routes[{position}].auth.users", checked)


def readable(source: SecretSource | Jwks | None, key: str, checked: Checked) -> None:
    """Tells which files of one source cannot be read."""
    if source is not None:
        checked.readable(f"{key}.file", source.file)
    if isinstance(source, Jwks):
        checked.pem(f"{key}.ca", source.ca, "CERTIFICATE")


def _asked(gateway: Gateway) -> Iterator[Auth]:
    yield from (auth for _, auth in _places(gateway))


def _places(gateway: Gateway) -> Iterator[tuple[str, Auth]]:
    """What listeners and routes ask for, and where that stands."""
    yield from ((f"listeners.{name}", each.auth) for name, each in gateway.listeners.items() if each.auth is not None)
    yield from ((f"routes[{n}]", each.auth) for n, each in enumerate(gateway.routes) if each.auth is not None)


def _engine_sets(gateway: Gateway) -> dict[str, list[Named]]:
    found: dict[str, list[Named]] = {}
    for asked in _asked(gateway):
        if asked.verifiers:
            found.update([_set(gateway, _named(gateway, asked.verifiers))])
        if asked.by_tenant:
            found.update(_set(gateway, named) for _, named in _by_tenant(gateway))
    return found


def _named(gateway: Gateway, names: Iterable[str]) -> list[Named]:
    owners = {name: tenant for tenant, each in (gateway.tenants or {}).items() for name in each.verifiers or ()}
    return [Named(name, _owned(gateway.verifiers[name], owners.get(name))) for name in dict.fromkeys(names)]


def _owned(verifier: Verifier, tenant: str | None) -> Verifier:
    """What a tenant verifies with is that tenant's wherever it is asked: it cannot speak for another one."""
    return verifier if tenant is None else verifier.model_copy(update={"tenant": tenant})


def _by_tenant(gateway: Gateway) -> Iterator[tuple[str, list[Named]]]:
    """The verifiers of each tenant that has some; their tokens are its tokens."""
    for name, tenant in (gateway.tenants or {}).items():
        if tenant.verifiers:
            yield name, _named(gateway, tenant.verifiers)


def _set(gateway: Gateway, named: list[Named]) -> tuple[str, list[Named]]:
    return _id([each.member for each in named], [_kindness(gateway, each.verifier) for each in named]), named


def _terms(verifier: Verifier) -> dict[str, Any]:
    """On what terms a verifier vouches for somebody: its keys, and the ways to come by them, are none."""
    return {
        "algorithms": _algorithms(verifier),
        "issuer": verifier.issuer,
        "audience": verifier.audience,
        "require_expiry": verifier.require_expiry,
        "unlimited": verifier.unlimited,
        "tenant": verifier.tenant,
    }


def _kindness(gateway: Gateway, verifier: Verifier) -> dict[str, Any]:
    """What else decides about a token, and ends nothing when it changes."""
    limits: Quota | None = verifier.limits
    return {
        "leeway": verifier.leeway,
        "tenants": _tenants(gateway) if verifier.tenant is None else None,
        "limits": None if limits is None else limits.model_dump(),
    }


def _algorithms(verifier: Verifier) -> tuple[str, ...]:
    return verifier.algorithms or verifier.fitting


def _password_id(users: SecretSource) -> str:
    return _id([f"users/{_digest([users.file, users.env, users.command])}"])


def _certificate_id(gateway: Gateway, grant: CertificateGrant) -> str:
    tenants = _tenants(gateway) if grant.tenant != "none" else None
    return _id([f"certificate/{_digest(grant.model_dump())}"], tenants)


def _id(members: Sequence[str], more: Any = None) -> str:
    return f"{','.join(members)};{_digest(more)}"


def member_of(name: str) -> str:
    """What the ids of all keys begin with that vouch in a set of users or certificates."""
    return name.partition(";")[0]


def _tenants(gateway: Gateway) -> list[str] | None:
    """The tenants that a credential may name, where it says itself whose it is; none where it may name any."""
    return None if gateway.tenants is None else sorted(gateway.tenants)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
