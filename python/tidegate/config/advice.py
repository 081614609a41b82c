"""What is right, and may still not be what somebody meant: told by `config check`."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from tidegate.config.credentials import admin_advice, password_advice, verifier_sets
from tidegate.config.files import Where, read
from tidegate.config.model import Agent, Forward, Gateway
from tidegate.config.snapshot import note
from tidegate.config.tls import ServerTls
from tidegate.config.upstreams import To

__all__ = ["advice"]

_SOON = timedelta(days=14)


def advice(config: Gateway | Agent | Forward, where: Where) -> Iterator[str]:
    """Each remark, with its place where it has one."""
    if not isinstance(config, Gateway):
        return
    if remark := note(config):
        yield remark
    yield from _credentials(config, where)
    used = {to.upstream for to in _leads(config)}
    for name in config.upstreams:
        if name not in used:
            yield _told(where, f"upstreams.{name}", "nothing leads to it")
    for name, listener in config.listeners.items():
        yield from _certificates(f"listeners.{name}.tls", listener.tls, where)
    yield from _certificates("admin.tls", config.admin.tls, where)


def _credentials(config: Gateway, where: Where) -> Iterator[str]:
    asked = {each.name for members in verifier_sets(config).values() for each in members}
    for name, verifier in config.verifiers.items():
        if name not in asked:
            yield _told(where, f"verifiers.{name}", "nothing asks for its tokens")
        if verifier.jwks is not None and verifier.jwks.url is not None and not verifier.jwks.url.startswith("https:"):
            said = "keys are fetched without TLS: whoever is on the way decides which tokens are good"
            yield _told(where, f"verifiers.{name}.jwks.url", said)
    yield from (_told(where, "admin.auth.verifiers", said) for said in admin_advice(config))
    yield from (_told(where, key, said) for key, said in password_advice(config))
    asking = {name for name, each in config.listeners.items() if each.auth is not None and not each.auth.is_none}
    for position, route in enumerate(config.routes):
        if route.sni is not None and (found := sorted(asking & set(route.listeners or config.listeners))):
            said = f"is passed through unread, so the `auth` of listener {found[0]} is not asked for (`allow` counts)"
            yield _told(where, f"routes[{position}].sni", said)


def _leads(config: Gateway) -> Iterator[To]:
    yield from (route.to for route in config.routes if route.to is not None)
    yield from (listener.to for listener in config.listeners.values() if listener.to is not None)


def _certificates(key: str, tls: ServerTls | None, where: Where) -> Iterator[str]:
    from tidegate.config.certificates import not_after  # noqa: PLC0415  OpenSSL takes a while to load

    now = datetime.now(UTC)
    for position, certificate in enumerate(tls.certificates if tls is not None else ()):
        try:
            end = not_after(read(certificate.cert))
        except ValueError:
            continue  # told as a mistake
        if end < now + _SOON:
            word = "has expired" if end < now else "expires"
            yield _told(where, f"{key}.certificates[{position}].cert", f"{certificate.cert} {word} on {end:%Y-%m-%d}")


def _told(where: Where, key: str, message: str) -> str:
    place = where(key)
    return f"{place}: {key}: {message}" if place else f"{key}: {message}"
