"""
Mistakes between what asks for credentials and what there is: names of verifiers and tenants that nothing has.

Like `checks`, whose part this is for `auth`, `tenant`, `verifiers` and `tenants`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from tidegate.config.auth import AdminAuth, Auth, Tenant, Verifier
from tidegate.config.checks import Mistake, Path, Traffic, hint
from tidegate.config.routes import Route

__all__ = ["Credentials", "mistakes"]


@dataclass(frozen=True)
class Credentials:
    """What there is to ask for; `None` stands for what is wrong in itself."""

    verifiers: Mapping[str, Verifier | None]
    """By name."""
    tenants: Mapping[str, Tenant | None] | None
    """By name; None where a credential may name any."""
    admin: AdminAuth | None
    """What the admin listener asks for."""


def mistakes(traffic: Traffic, known: Credentials) -> Iterator[Mistake]:
    """Every mistake with its place."""
    if known.admin is not None:
        yield from _verifiers(traffic, known, ("admin", "auth", "verifiers"), known.admin.verifiers)
    yield from _tenants(traffic, known)
    for name, listener in traffic.listeners.items():
        if listener is None:
            continue
        here: Path = ("listeners", name)
        yield from _auth(traffic, known, here, listener.auth)
        yield from _tenant(traffic, known, (*here, "tenant"), listener.tenant)
        if listener.to is not None:
            yield from _tenant(traffic, known, (*here, "to", "tenant"), listener.to.tenant)
            for position, rule in enumerate(listener.to.rules):
                yield from _tenant(traffic, known, (*here, "to", position, "tenant"), rule.tenant)
    for position, route in traffic.routes.items():
        if route is not None:
            yield from _route(traffic, known, position, route)


def _tenants(traffic: Traffic, known: Credentials) -> Iterator[Mistake]:
    for name, verifier in known.verifiers.items():
        if verifier is not None:
            yield from _tenant(traffic, known, ("verifiers", name, "tenant"), verifier.tenant)
    owners: dict[str, str] = {}
    for name, tenant in (known.tenants or {}).items():
        if tenant is None:
            continue
        here: Path = ("tenants", name, "verifiers")
        yield from _verifiers(traffic, known, here, tenant.verifiers)
        for position, each in enumerate(dict.fromkeys(tenant.verifiers)):
            verifier = known.verifiers.get(each)
            owner = owners.setdefault(each, name)
            if verifier is not None and verifier.tenant not in (None, name):
                yield (*here, position), f"the tokens of verifier `{each}` are those of tenant `{verifier.tenant}`"
            elif owner != name:
                yield (
                    (*here, position),
                    f"verifier `{each}` is of tenant `{owner}` already: a token of one would be good for the other",
                )


def _route(traffic: Traffic, known: Credentials, position: int, route: Route) -> Iterator[Mistake]:
    here: Path = ("routes", position)
    yield from _auth(traffic, known, here, route.auth)
    yield from _tenant(traffic, known, (*here, "tenant"), route.tenant)
    if route.auth is not None and route.auth.certificate is not None:
        for name in traffic.on(route):
            listener = traffic.listeners.get(name)
            if listener is not None and (listener.tls is None or listener.tls.client_ca is None):
                yield (
                    (*here, "auth", "certificate"),
                    f"listener `{name}` asks for no client certificate (give it `tls.client_ca`, or the route other "
                    "`listeners`)",
                )
                break
    if route.to is not None:
        yield from _tenant(traffic, known, (*here, "to", "tenant"), route.to.tenant)


def _auth(traffic: Traffic, known: Credentials, here: Path, auth: Auth | None) -> Iterator[Mistake]:
    if auth is None:
        return
    yield from _verifiers(traffic, known, (*here, "auth", "verifiers"), auth.verifiers)
    if auth.by_tenant and not any(each is None or each.verifiers for each in (known.tenants or {}).values()):
        yield (
            (*here, "auth", "by_tenant"),
            "no tenant has verifiers (add `tenants: {NAME: {verifiers: [NAME]}}`)",
        )


def _verifiers(traffic: Traffic, known: Credentials, here: Path, names: Iterable[str]) -> Iterator[Mistake]:
    for position, name in enumerate(names):
        if name not in known.verifiers:
            near = hint(traffic, name, known.verifiers, "there are none; add them below `verifiers`")
            yield (*here, position), f"there is no verifier `{name}` ({near})"


def _tenant(traffic: Traffic, known: Credentials, here: Path, name: str | None) -> Iterator[Mistake]:
    if name and known.tenants is not None and name not in known.tenants:
        yield here, f"there is no tenant `{name}` ({hint(traffic, name, known.tenants, 'there are none')})"
