"""
A network of the test's own, where every port and address is free: Linux network namespaces. Needs root.

What is opened inside `with namespace.inside():` belongs to it, programs run in it with `namespace.command`.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.tools import need, run

_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count(1)
_LISTENS = "0A"


class Namespace:
    """A network with a loopback interface; `hosts` are the names that its programs know besides localhost."""

    def __init__(self, hosts: Mapping[str, str] | None = None) -> None:
        self.name = f"tidegate-{os.getpid()}-{next(_numbers)}"
        # `ip netns exec` puts the files of this folder in the place of those of /etc.
        self._etc = Path("/etc/netns") / self.name
        self._etc.mkdir(parents=True)
        known = {"localhost": "127.0.0.1", **(hosts or {})}
        (self._etc / "hosts").write_text("".join(f"{address} {name}\n" for name, address in known.items()))
        _ip("netns", "add", self.name)
        _ip("-n", self.name, "link", "set", "lo", "up")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _ip("netns", "delete", self.name)
        shutil.rmtree(self._etc)

    def link(self, own: str, other: Namespace, others: Sequence[str]) -> None:
        """A cable to another one; addresses are like `192.168.1.1/24`."""
        _ip("-n", self.name, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", other.name)
        for namespace, addresses in ((self, [own]), (other, others)):
            for address in addresses:
                _ip("-n", namespace.name, "address", "add", address, "dev", "cable")
            _ip("-n", namespace.name, "link", "set", "cable", "up")

    def command(self, words: Sequence[str | Path]) -> list[str]:
        """The command line that runs a program in it."""
        return [need("ip"), "netns", "exec", self.name, *map(str, words)]

    def lose_datagrams(self, percent: int) -> None:
        """From now on so many of a hundred datagrams of UDP do not arrive; TCP is as before."""
        _ip("netns", "exec", self.name, need("nft"), "add table inet loss; delete table inet loss")
        if percent > 0:
            some = f"numgen random mod 100 < {percent} " if percent < 100 else ""
            rule = f"meta l4proto udp {some}drop"
            chain = f"chain input {{ type filter hook input priority 0; {rule}; }};"
            _ip("netns", "exec", self.name, need("nft"), f"table inet loss {{ {chain} }}")

    def largest_packet(self, octets: int) -> None:
        """From now on no packet of more octets passes."""
        _ip("-n", self.name, "link", "set", "lo", "mtu", str(octets))

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Sockets that this thread opens belong to it, and so do those of threads that it starts."""
        with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{self.name}") as here:
            _enter(here.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())


def listening(pid: int) -> set[int]:
    """The TCP ports that somebody listens on in the network of a process."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == _LISTENS:
                found.add(int(local.rpartition(":")[2], 16))
    return found


def _ip(*words: str) -> None:
    run(need("ip"), *words)


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot enter a network namespace (these tests need root)")
