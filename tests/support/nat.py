"""Something between a peer and a UDP port that gives the peer another port whenever it likes, as routers do."""

from __future__ import annotations

import select
import socket
import threading
from types import TracebackType
from typing import Self


class Nat:
    """Passes datagrams of one peer on to `to`, which is `host:port`; the peer finds it at `address`."""

    def __init__(self, to: str) -> None:
        host, _, port = to.rpartition(":")
        self._to = (host, int(port))
        self._near = self._socket()
        self._far = self._socket()
        self._old: list[socket.socket] = []
        self._peer: tuple[str, int] | None = None
        self._stop = threading.Event()
        self.blocked = threading.Event()
        """Nothing passes while it is set."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.address = f"127.0.0.1:{self._near.getsockname()[1]}"

    @staticmethod
    def _socket() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        made.bind(("127.0.0.1", 0))
        return made

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(30)
        for each in (self._near, self._far, *self._old):
            each.close()

    def move(self) -> str:
        """From now on the peer is seen at another port, where it is told; what comes for the old one is lost."""
        self._old.append(self._far)
        self._far = self._socket()
        return f"127.0.0.1:{self._far.getsockname()[1]}"

    def _run(self) -> None:
        while not self._stop.is_set():
            far = self._far
            ready, _, _ = select.select([self._near, far], [], [], 0.05)
            for each in ready:
                data, source = each.recvfrom(65536)
                if self.blocked.is_set():
                    continue
                if each is self._near:
                    self._peer = source
                    far.sendto(data, self._to)
                elif self._peer is not None:
                    self._near.sendto(data, self._peer)
