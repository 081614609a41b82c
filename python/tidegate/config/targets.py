"""
What an agent may connect to, as people write it: networks and names, each with ports or without.

Text in, a value or `ValueError` out. What an entry lets through is the engine's `target::allowed`.
"""

from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from tidegate.config.names import host_pattern, network
from tidegate.config.values import port_number

__all__ = ["Allow", "allow", "allow_text"]

_EVERY = (1, 65535)


@dataclass(frozen=True)
class Allow:
    """One entry of such a list."""

    network: str | None
    """The addresses of a network, whatever name leads to them."""
    name: str | None
    """A name; `*.` and a name stands for one label or more."""
    low: int
    """The first port."""
    high: int
    """The last port."""

    def __str__(self) -> str:
        what = self.name or str(self.network).removesuffix("/128" if ":" in str(self.network) else "/32")
        if (self.low, self.high) == _EVERY:
            return what
        host = f"[{what}]" if ":" in what else what
        return f"{host}:{self.low}" if self.low == self.high else f"{host}:{self.low}-{self.high}"

    def dump(self) -> dict[str, Any]:
        """As the engine takes it."""
        whole = str(ip_network(self.network)) if self.network is not None else None
        return {"network": whole, "name": self.name, "low": self.low, "high": self.high}


def allow(value: str) -> Allow:
    """An entry from `10.0.0.0/8:10250`, `[fd00::/8]:443`, `host:1-1024`, `*.name:443`, `10.1.2.3`."""
    text = value.strip()
    if "://" in text or "@" in text:
        raise ValueError(f"{value!r} is no target (write HOST:PORT, without a scheme and without a user)")
    host, (low, high) = _ports(text, value)
    if host == "*":
        raise ValueError(f"{value!r} is no target (every address is 0.0.0.0/0 and [::/0])")
    if "/" in host or ":" in host or host.replace(".", "").isdigit():
        return Allow(network(host), None, low, high)
    return Allow(None, host_pattern(host), low, high)


def allow_text(value: str) -> str:
    """The same entry in its normal form."""
    return str(allow(value))


def _ports(text: str, shown: str) -> tuple[str, tuple[int, int]]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or not (rest == "" or rest.startswith(":")) or ":" not in host:
            raise ValueError(f"{shown!r} is no target (an IPv6 network is written [fd00::/8]:443)")
        return host, _range(rest[1:], shown) if rest else _EVERY
    if text.count(":") > 1:
        return text, _EVERY
    host, colon, ports = text.partition(":")
    if not host:
        raise ValueError(f"{shown!r} is no target (write NETWORK:PORT, NAME:PORT, or one without a port)")
    return host, _range(ports, shown) if colon else _EVERY


def _range(ports: str, shown: str) -> tuple[int, int]:
    first, dash, last = ports.partition("-")
    low = port_number(first, least=1)
    high = port_number(last, least=1) if dash else low
    if high < low:
        raise ValueError(f"{shown!r}: the first port is higher than the last one")
    return low, high
