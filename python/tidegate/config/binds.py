"""
Addresses to bind: which ones stand behind what somebody wrote, and which of them cannot be bound beside each other.

Nothing is bound here but to ask whether this machine has IPv6.
"""

import socket
from collections import defaultdict
from collections.abc import Iterable, Iterator
from ipaddress import ip_address

from tidegate.config.values import bind_parts

__all__ = ["collisions", "is_every_address", "is_loopback", "resolve_bind"]


def resolve_bind(address: str) -> list[str]:
    """Socket addresses of what somebody wrote: `:80` is all interfaces, `localhost` both loopbacks."""
    host, port = bind_parts(address)
    if not host:
        return [f"[::]:{port}"] if _has_ipv6("::") else [f"0.0.0.0:{port}"]
    if host == "localhost":
        # A port that the system picks cannot be the same on both.
        both = port != 0 and _has_ipv6("::1")
        return [f"127.0.0.1:{port}", *([f"[::1]:{port}"] if both else [])]
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise ValueError(f"{address!r}: no address is known for {host!r}") from None
    hosts = dict.fromkeys(str(entry[4][0]) for entry in found)
    return [f"[{each}]:{port}" if ":" in each else f"{each}:{port}" for each in hosts]


def collisions(places: Iterable[tuple[str, list[str] | None]]) -> Iterator[tuple[str, str, str, str]]:
    """
    Keys whose addresses cannot be bound, because of one before them: key, address, the other key, the other address.

    Each key is told once. `None` stands for what is wrong in itself.
    """
    bound: defaultdict[int, list[tuple[str, str, str]]] = defaultdict(list)
    for key, addresses in places:
        mine = [(*bind_parts(address), address) for address in addresses or []]
        found = next(
            (
                (key, address, other, theirs)
                for host, port, address in mine
                for held, theirs, other in bound[port]
                if _one(host, held)
            ),
            None,
        )
        if found is not None:
            yield found
        for host, port, address in mine:
            if port != 0:
                bound[port].append((host, address, key))


def is_every_address(address: str) -> bool:
    """Whether it stands for every address of the machine, at least of one family."""
    return bind_parts(address)[0] in ("::", "0.0.0.0")  # noqa: S104


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches a socket address."""
    host, _, _ = address.rpartition(":")
    try:
        return ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return False


def _one(host: str, other: str) -> bool:
    """Whether two addresses overlap: `::` is every address of both families, `0.0.0.0` every one of IPv4."""
    if host == other or "::" in (host, other):
        return True
    return "0.0.0.0" in (host, other) and ip_address(host).version == ip_address(other).version  # noqa: S104


def _has_ipv6(host: str) -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True
