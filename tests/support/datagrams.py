"""Services of UDP, and sources of datagrams that speak to them."""

from __future__ import annotations

import socket
import struct
import threading
from types import TracebackType
from typing import Self

from tests.support.process import until

_SECONDS = 10.0
"""Longest time to wait for a datagram that has to come."""


class Answering:
    """A port for datagrams; each is answered with what `answer` makes of it. Nothing is answered where that is None."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.bind((host, 0))
        self._socket.settimeout(0.1)
        self._host, self.port = host, int(self._socket.getsockname()[1])
        self.sources: list[tuple[str, int]] = []
        self.got: list[bytes] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"[{self._host}]:{self.port}" if ":" in self._host else f"{self._host}:{self.port}"

    def answer(self, asked: bytes) -> bytes | None:
        """What is said to it: the same, here."""
        return asked

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                asked, source = self._socket.recvfrom(65535)
            except TimeoutError:
                continue
            except OSError:
                continue  # about one that was sent
            self.got.append(asked)
            self.sources.append(source[:2])
            said = self.answer(asked)
            if said is not None:
                self._socket.sendto(said, source)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()


class Echo(Answering):
    """Says what it was told, behind a word of its own."""

    def __init__(self, word: bytes = b"", host: str = "127.0.0.1") -> None:
        self.word = word
        super().__init__(host)

    def answer(self, asked: bytes) -> bytes | None:
        return self.word + asked


class Names(Answering):
    """A DNS server that knows the addresses of `names`, and of nothing else."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names
        super().__init__()

    def answer(self, asked: bytes) -> bytes | None:
        number, flags, questions, *_ = struct.unpack("!HHHHHH", asked[:12])
        if questions != 1:
            return None
        labels, at = [], 12
        while asked[at]:
            labels.append(asked[at + 1 : at + 1 + asked[at]].decode())
            at += 1 + asked[at]
        question = asked[12 : at + 5]
        address = self.names.get(".".join(labels))
        code = 0 if address is not None else 3
        head = struct.pack("!HHHHHH", number, 0x8400 | flags & 0x0100 | code, 1, int(address is not None), 0, 0)
        if address is None:
            return head + question
        return head + question + struct.pack("!HHHIH", 0xC00C, 1, 1, 60, 4) + socket.inet_aton(address)


class Source:
    """A port that speaks to one address."""

    def __init__(self, address: str, bind: str = "") -> None:
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        if bind:
            self._socket.bind((bind, 0))
        self._socket.connect((host, int(port)))
        self._socket.settimeout(_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def send(self, payload: bytes) -> None:
        """Says something."""
        self._socket.send(payload)

    def receive(self, within: float = _SECONDS) -> bytes | None:
        """What comes next; None where nothing does."""
        self._socket.settimeout(within)
        try:
            return self._socket.recv(65535)
        except TimeoutError:
            return None

    def ask(self, payload: bytes) -> bytes:
        """Says something and waits for what is said to it, again and again: a datagram may be lost."""
        found: list[bytes] = []

        def answered() -> bool:
            self.send(payload)
            said = self.receive(0.5)
            if said is not None:
                found.append(said)
            return bool(found)

        until(answered, "a datagram is answered")
        return found[0]
