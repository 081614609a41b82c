"""
A request that somebody wants explained, as the engine is asked about it.

What the answer means is the engine's; where it is asked, and how it is printed, the caller's.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from tidegate.config.names import host_name
from tidegate.errors import ConfigError

__all__ = ["question"]

# What a path or query holds is sent as it was written; only what no request can hold is escaped.
_AS_IT_IS = "%/:@!$&'()*+,;=~-._?\\[]|^`{}\"<>"


def question(
    url: str,
    *,
    method: str = "GET",
    headers: Sequence[str] = (),
    sni: str | None = None,
    listener: str | None = None,
) -> dict[str, Any]:
    """The question; `headers` are `NAME: VALUE`. Raises `ConfigError` for what is no request."""
    scheme, authority, target = _parts(url)
    return {
        "listener": listener,
        "scheme": scheme,
        "host": authority,
        "target": target,
        "method": method.upper(),
        "headers": [_field(each) for each in headers],
        "sni": sni,
    }


def _parts(url: str) -> tuple[str, str, str]:
    text = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(text)
        host, port = host_name(parts.hostname or ""), parts.port
    except ValueError as error:
        raise ConfigError(f"{url!r} is no URL: {error} (write https://app.example.com/path)") from None
    if parts.scheme not in ("http", "https") or "@" in parts.netloc:
        raise ConfigError(f"{url!r} is no URL of a request (write https://app.example.com/path)")
    target = quote(parts.path or "/", safe=_AS_IT_IS)
    if parts.query:
        target += "?" + quote(parts.query, safe=_AS_IT_IS)
    return parts.scheme, f"{host}:{port}" if port is not None else host, target


def _field(written: str) -> tuple[str, str]:
    name, colon, value = written.partition(":")
    if not colon or not name.strip():
        raise ConfigError(f"{written!r} is no header field (write NAME: VALUE)")
    return name.strip(), value.strip()
