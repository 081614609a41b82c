"""
The small languages of routes and upstreams: hosts, paths, methods, header fields, addresses, networks.

Text in, value in its one normal form or `ValueError` out; the message is one a person can act on. What stands in other
sections is `values`.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import idna

from tidegate.config.values import header_text, listener_name, port_number

__all__ = [
    "PLACEHOLDERS",
    "Address",
    "address",
    "edited_field",
    "field_name",
    "field_value",
    "host_name",
    "host_pattern",
    "method",
    "network",
    "normal_path",
    "redirect_target",
    "request_path",
    "server_name",
    "upstream_name",
]

PLACEHOLDERS = ("{scheme}", "{host}", "{path}", "{query}")
"""What a redirect may hold."""

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_PLACEHOLDER = re.compile(r"\{[^{}]*\}|[{}]")
_PATH_UNIT = re.compile(r"%([0-9A-Fa-f]{2})|[%\\]")
_PORTS = {"http": 80, "h2c": 80, "https": 443, "h2": 443}

# What belongs to a connection or to the framing of a message; the engine writes these itself.
_CONNECTION = {
    "connection", "content-length", "expect", "http2-settings", "keep-alive", "proxy-authenticate",
    "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
}  # fmt: skip
_OURS = ("x-tidegate-", "x-piko-")


def host_name(value: str) -> str:
    """A name or an address in its normal form: lower case, without a trailing dot, punycode, IPv6 in brackets."""
    text = value.strip()
    literal = _ip(text)
    if literal is not None:
        return f"[{literal.compressed}]" if literal.version == 6 else literal.compressed
    if re.search(r":\d*$", text):
        raise ValueError(f"{value!r} is no host name (it is written without a port)")
    if "://" in text or "/" in text:
        raise ValueError(f"{value!r} is no host name (write a name alone, such as app.example.com)")
    return _dns_name(text, value)


def host_pattern(value: str) -> str:
    """The same, or `*.` and a name, which stands for one label or more."""
    if value.startswith("*."):
        rest = value[2:]
        if _ip(rest) is not None:
            raise ValueError(f"{value!r}: an address has no names below it")
        return f"*.{host_name(rest)}"
    if value == "*":
        raise ValueError("'*' is written by leaving `host` out: then every host matches")
    if "*" in value:
        raise ValueError(f"{value!r}: a `*` stands for whole labels in front (write *.example.com)")
    return host_name(value)


def server_name(value: str) -> str:
    """A TLS server name, exact or `*.` and a name; addresses are never sent as one."""
    if _ip(value) is not None:
        raise ValueError(f"{value!r}: a TLS server name is never an address")
    return host_pattern(value)


def _ip(text: str) -> IPv4Address | IPv6Address | None:
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    try:
        return ip_address(text)
    except ValueError:
        return None


def _dns_name(text: str, shown: str) -> str:
    name = text.removesuffix(".")
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode()
        except idna.IDNAError as error:
            raise ValueError(f"{shown!r} is no host name: {error}") from None
    name = name.lower()
    if not name or len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(f"{shown!r} is no host name (letters, digits, - and _ between dots)")
    if name.rsplit(".", 1)[-1].isdigit():
        raise ValueError(f"{shown!r} is neither a host name nor an IP address")
    return name


def request_path(value: str) -> str:
    """A path as it is sent: it begins with `/`, without a query."""
    if not value.startswith("/"):
        raise ValueError(f"{value!r}: a path begins with /")
    if "?" in value or "#" in value:
        raise ValueError(f"{value!r}: a path is written without a query or fragment")
    if not value.isascii() or not header_text(value) or " " in value:
        raise ValueError(f"{value!r}: a path is written as it is sent, percent-encoded (a space is %20)")
    return value


def normal_path(path: str) -> str:
    """The form in which the engine compares paths (its `route::path::normal`), bytes as characters."""
    return _PATH_UNIT.sub(_path_unit, path)


def _path_unit(found: re.Match[str]) -> str:
    unit = chr(int(found[1], 16)) if found[1] else found[0]
    return f"%{ord(unit):02X}" if unit in "/\\;%" else unit


def method(value: str) -> str:
    """A method of HTTP; methods are told apart by case."""
    if not _TOKEN.fullmatch(value):
        raise ValueError(f"{value!r} is no method (write GET, POST, ...)")
    if value != value.upper():
        raise ValueError(f"{value!r}: methods are upper case (did you mean `{value.upper()}`?)")
    return value


def field_name(value: str) -> str:
    """The name of a header field, in lower case."""
    if not _TOKEN.fullmatch(value):
        raise ValueError(f"{value!r} is no name of a header field")
    return value.lower()


def edited_field(value: str) -> str:
    """The name of a field that a configuration may write or remove."""
    name = field_name(value)
    if name in _CONNECTION:
        raise ValueError(f"{name!r} belongs to the connection and cannot be edited")
    if name.startswith(_OURS):
        raise ValueError(f"{name!r} is tidegate's own and cannot be edited")
    if name == "host":
        raise ValueError("'host' is set by `host_header`")
    return name


def field_value(value: object) -> str:
    """The value of a header field; numbers are taken as they are written."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError("the value of a header field is text (quote it)")
    text = str(value).strip()
    if not text.isascii() or any(character != "\t" and not " " <= character <= "~" for character in text):
        raise ValueError("the value of a header field is visible ASCII, in one line")
    return text


def redirect_target(value: str) -> str:
    """Where a redirect leads: an absolute URL or a path, with placeholders."""
    for found in _PLACEHOLDER.findall(value):
        if found not in PLACEHOLDERS:
            raise ValueError(f"{found!r} is no placeholder (known: {', '.join(PLACEHOLDERS)})")
    if not re.match(r"(?:https?|\{scheme\})://[^/]|/|\{path\}", value):
        raise ValueError(f"{value!r} is no place to go (write https://HOST{{path}}{{query}}, or a path)")
    if not header_text(value) or " " in value:
        raise ValueError(f"{value!r}: a URL is visible ASCII without spaces")
    return value


def upstream_name(value: str) -> str:
    """The name itself, when it is one: the characters of endpoints and listeners."""
    try:
        return listener_name(value)
    except ValueError:
        raise ValueError(f"{value!r} is no name (1 to 128 of the characters A-Z a-z 0-9 . _ -)") from None


@dataclass(frozen=True)
class Address:
    """One address of an upstream."""

    host: str
    """A name or an IP address, without brackets."""
    port: int
    """Its port, at least 1."""
    scheme: str
    """`http`, `https`, `h2c` or `h2`."""

    @property
    def tls(self) -> bool:
        """It speaks TLS."""
        return self.scheme in ("https", "h2")

    @property
    def http2(self) -> bool:
        """It speaks HTTP/2."""
        return self.scheme in ("h2c", "h2")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def address(value: str) -> Address:
    """An address from `HOST:PORT`, or with `http://`, `https://`, `h2c://` or `h2://` before it."""
    text = value.strip()
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    elif scheme not in _PORTS:
        raise ValueError(f"{value!r} has a scheme that is not known here (write http://, https://, h2c:// or h2://)")
    rest = rest.removesuffix("/")
    if any(sign in rest for sign in "/?#@"):
        raise ValueError(f"{value!r} holds more than a host and a port (paths belong to routes)")
    host, colon, port = rest.rpartition(":")
    if not colon or rest.endswith("]"):
        if not separator:
            raise ValueError(f"{value!r} is no address (write HOST:PORT)")
        host, port = rest, str(_PORTS[scheme])
    elif ":" in host and not host.startswith("["):
        raise ValueError(f"{value!r}: an IPv6 address goes in brackets ([::1]:80)")
    if not host:
        raise ValueError(f"{value!r} is no address (write HOST:PORT)")
    return Address(host_name(host).strip("[]"), port_number(port, least=1), scheme)


def network(value: str) -> str:
    """A network such as `10.0.0.0/8`, or one address; one of IPv4 that is written as IPv6 is that of IPv4."""
    try:
        found = ip_network(value)
    except ValueError:
        pass
    else:
        mapped = getattr(found.network_address, "ipv4_mapped", None)
        return str(found if mapped is None or found.prefixlen < 96 else ip_network((mapped, found.prefixlen - 96)))
    try:
        wider = ip_network(value, strict=False)
    except ValueError:
        raise ValueError(f"{value!r} is no network (write 10.0.0.0/8, or one IP address)") from None
    raise ValueError(f"{value!r} is no network (did you mean `{wider}`?)")
