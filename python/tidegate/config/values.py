"""
The small languages inside values: durations, sizes, addresses, names, URLs.

Text in, value or `ValueError` out; the message is one a person can act on. Nothing here opens a file or a socket.
"""

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

__all__ = [
    "Service",
    "bind_parts",
    "connect_url",
    "duration",
    "endpoint_name",
    "header_text",
    "listener_name",
    "port_number",
    "service",
    "shown_url",
    "size",
]

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SIZES = {"": 1, "b": 1, "kib": 1024, "mib": 1024**2, "gib": 1024**3, "kb": 1000, "mb": 1000**2, "gb": 1000**3}
_ENDPOINT = re.compile(r"[A-Za-z0-9._-]{1,128}")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}")
_LONGEST = 10 * 365 * 86400.0


def duration(value: object) -> float:
    """Seconds from `30`, `0.5`, `30s`, `1m30s`, `100ms`."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    else:
        text = str(value).strip()
        if re.fullmatch(r"\d+(?:\.\d+)?", text):
            seconds = float(text)
        elif _DURATION.fullmatch(text):
            seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
        else:
            raise ValueError(f"{value!r} is no duration (write seconds, or 30s, 1m30s, 100ms)")
    if not 0 <= seconds <= _LONGEST:
        raise ValueError(f"{value!r} is no duration between 0 and ten years")
    return seconds


def size(value: object) -> int:
    """Bytes from `65536`, `64KiB`, `1MB`."""
    match = re.fullmatch(r"(\d+)\s*([A-Za-z]*)", "" if isinstance(value, bool) else str(value).strip())
    if match is None or match[2].lower() not in _SIZES:
        raise ValueError(f"{value!r} is no size (write bytes, or 64KiB, 16MiB)")
    return int(match[1]) * _SIZES[match[2].lower()]


def endpoint_name(value: str) -> str:
    """The name itself, when it is one: 1 to 128 bytes of `A-Za-z0-9._-`."""
    if not _ENDPOINT.fullmatch(value):
        raise ValueError(f"{value!r} is no endpoint name (1 to 128 of the characters A-Z a-z 0-9 . _ -)")
    return value


def listener_name(value: str) -> str:
    """The name itself, when it is one: the same characters."""
    if not _ENDPOINT.fullmatch(value):
        raise ValueError(f"{value!r} is no listener name (1 to 128 of the characters A-Z a-z 0-9 . _ -)")
    return value


def port_number(text: str, least: int = 0) -> int:
    """A port; 0, where it is allowed, lets the system pick."""
    if not re.fullmatch(r"\d{1,5}", text) or not least <= int(text) <= 65535:
        raise ValueError(f"{text!r} is no port ({least} to 65535)")
    return int(text)


def bind_parts(value: object) -> tuple[str, int]:
    """Host and port of `:80` (host empty: all interfaces), `host:80`, `[::1]:80`."""
    text = str(value)
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError(f"{text!r} is no address to bind (write HOST:PORT, or :PORT for all interfaces)")
    return _host(host, text), port_number(port)


def _host(host: str, text: str) -> str:
    if host.startswith("[") and host.endswith("]") and re.fullmatch(r"[0-9A-Fa-f:.]+", host[1:-1]):
        return host[1:-1]
    if host and not _HOST.fullmatch(host):
        raise ValueError(f"{text!r}: {host!r} is no host name or address (IPv6 goes in brackets: [::1]:80)")
    return host


@dataclass(frozen=True)
class Service:
    """A local service: where it is, and what is spoken to it."""

    host: str
    """A name or an IP address; `localhost` means both loopbacks."""
    port: int
    """Its port, at least 1."""
    kind: str
    """`http`, `tcp` or `udp`."""
    tls: bool
    """It speaks TLS."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else self.kind}://{host}:{self.port}"


def service(value: object, kind: str = "http") -> Service:
    """A local service from `3000`, `host:3000`, `http(s)://host:3000`, `tcp://host:5432`, `udp://host:53`."""
    text = str(value).strip()
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = kind, text
    elif scheme not in ("http", "https", "tcp", "udp") or (kind in ("tcp", "udp") and scheme != kind):
        allowed = f"{kind}://" if kind in ("tcp", "udp") else "http://, https://, tcp:// or udp://"
        raise ValueError(f"{text!r} has a scheme that is not known here (write {allowed}, or leave it out)")
    rest = rest.removesuffix("/")
    if "/" in rest or "?" in rest or "#" in rest or "@" in rest:
        raise ValueError(f"{text!r} holds more than a host and a port (paths are passed on as they come)")
    if re.fullmatch(r"\d+", rest):
        rest = f"localhost:{rest}"
    host, colon, port = rest.rpartition(":")
    if (not colon or rest.endswith("]")) and separator and scheme not in ("tcp", "udp"):
        host, colon, port = rest, ":", "443" if scheme == "https" else "80"
    if not colon:
        raise ValueError(f"{text!r} is no local service (write a port, HOST:PORT or http://HOST:PORT)")
    number = port_number(port, least=1)
    spoken = scheme if scheme in ("tcp", "udp") else "http"
    return Service(_host(host, text) or "localhost", number, spoken, scheme == "https")


def url_parts(value: str) -> SplitResult:
    """The parts of a URL, or a `ValueError` where it is none."""
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018  reading it checks it
    except ValueError:
        raise ValueError(f"{value!r} is no URL") from None
    return parts


def shown_url(url: str) -> str:
    """A URL as it may be told: without its query, which may hold a secret."""
    return re.sub(r"([?#]).*", r"\1…", url, count=1, flags=re.DOTALL)


def connect_url(value: str) -> str:
    """A gateway's URL: `http(s)://` or `ws(s)://`, a host, maybe a port and a path prefix; nothing secret inside."""
    parts = url_parts(value)
    if parts.scheme not in ("http", "https", "ws", "wss"):
        raise ValueError(f"{value!r} is no URL of a gateway (write http://HOST:PORT or https://HOST:PORT)")
    if "@" in parts.netloc:
        raise ValueError("a gateway's URL cannot hold a user or password (use token or token_file)")
    if not parts.hostname or parts.query or parts.fragment or not header_text(value) or " " in value:
        raise ValueError(f"{value!r} is no URL of a gateway (a host, maybe a port and a path, nothing else)")
    return value


def header_text(value: str) -> bool:
    """True for what may stand in a header: visible ASCII and spaces."""
    return all(" " <= character <= "~" for character in value)
