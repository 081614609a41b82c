"""
TLS of the admin listener: its certificate, and whose certificates it believes. All of it may change while it runs.

Which files those are is the configuration's; connections that are open keep what they began with.
"""

import ssl
from collections.abc import Callable
from typing import Any, Self

from tidegate.control.state import Tls
from tidegate.errors import ConfigError

__all__ = ["Shown", "is_known"]

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class Shown:
    """What new connections are shown and asked for; `context` is what a server takes."""

    def __init__(self, tls: Tls) -> None:
        self._current = _context(tls)
        self.context = _EachItsOwn(lambda: self._current)

    def prepare(self, tls: Tls | None) -> Callable[[], None]:
        """Reads what is to be in force, or raises `ConfigError`; what is returned puts it in force."""
        if tls is None:
            raise ConfigError("admin.tls: takes a restart to leave it out")
        fresh = _context(tls)

        def commit() -> None:
            self._current = fresh

        return commit


class _EachItsOwn(ssl.SSLContext):
    """
    A context in whose place each connection gets the one of its moment.

    A whole one, so that authorities and versions change too, and no session of before goes on under another.
    """

    def __new__(cls, _current: Callable[[], ssl.SSLContext]) -> Self:
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, current: Callable[[], ssl.SSLContext]) -> None:
        super().__init__()
        self._current = current

    def wrap_bio(self, *given: Any, **named: Any) -> ssl.SSLObject:
        """What a connection of asyncio is made of."""
        return self._current().wrap_bio(*given, **named)


def is_known(transport: Any) -> bool:
    """Whether the other end of a connection has shown a certificate that was asked for."""
    connection = transport.get_extra_info("ssl_object")
    return connection is not None and bool(connection.getpeercert())


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[tls.min_version]
    context.set_alpn_protocols(["http/1.1"])
    try:
        # A key under a password must not ask a terminal for it.
        context.load_cert_chain(tls.cert, tls.key, password=lambda: b"")
    except (OSError, ValueError) as error:
        raise ConfigError(f"admin.tls: {tls.cert} with {tls.key}: {_reason(error)}") from None
    if tls.client_ca is not None:
        try:
            context.load_verify_locations(tls.client_ca)
        except (OSError, ValueError) as error:
            raise ConfigError(f"admin.tls.client_ca: {tls.client_ca}: {_reason(error)}") from None
        context.verify_mode = ssl.CERT_REQUIRED if tls.required else ssl.CERT_OPTIONAL
    return context


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"this is no certificate with its key ({(error.reason or 'not readable').lower().replace('_', ' ')})"
    return str(getattr(error, "strerror", None) or error).lower()
