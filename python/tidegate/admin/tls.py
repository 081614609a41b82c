"""
TLS of the admin listener: its certificate, which may be renewed while it runs, and whom it asks for one.

Which files those are is the configuration's; connections that are open keep what they began with.
"""

import contextlib
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tidegate.control.state import Tls
from tidegate.errors import ConfigError

__all__ = ["Shown", "is_known"]

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class Shown:
    """What new connections are shown; `context` is what a server takes."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._authorities = _authorities(tls)
        self._current = _context(tls)
        self.context = _context(tls)
        self.context.sni_callback = self._choose

    def prepare(self, tls: Tls | None) -> Callable[[], None]:
        """Reads a renewed certificate, or raises `ConfigError`; what is returned shows it from then on."""
        if tls is None or (tls.required, tls.min_version) != (self._tls.required, self._tls.min_version):
            raise ConfigError("admin.tls: takes a restart, except for a renewed certificate")
        if _authorities(tls) != self._authorities:
            raise ConfigError("admin.tls.client_ca: other authorities take a restart")
        fresh = _context(tls)

        def commit() -> None:
            self._current = fresh

        return commit

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._current


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


def _authorities(tls: Tls) -> bytes | None:
    if tls.client_ca is None:
        return None
    found = b""
    with contextlib.suppress(OSError):  # told when it is read
        found = Path(tls.client_ca).read_bytes()
    return found


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"this is no certificate with its key ({(error.reason or 'not readable').lower().replace('_', ' ')})"
    return str(getattr(error, "strerror", None) or error).lower()
