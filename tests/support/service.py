"""
Local services of the test process: what stands behind an agent.

`Service` speaks HTTP and keeps what it received byte for byte; `TcpService` leaves everything to its handler. Both
have a thread for each connection. What to answer is the test's.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, BinaryIO, Self

Fields = list[tuple[str, str]]


class TcpService:
    """Accepts connections on a port, of the system's choice by default, and hands each to `handle`."""

    def __init__(self, handle: Callable[[socket.socket], None], host: str = "127.0.0.1", port: int = 0) -> None:
        self._handle = handle
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.connections = 0
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, port), family=family, backlog=256)
        self.port = int(self._listening.getsockname()[1])
        self.address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops listening and ends every connection."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._accepting.join(5)
        with self._lock:
            running = list(self._open)
        for connection in running:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(connection)
                self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # What a peer does to its connection is the test's to notice.
            with contextlib.suppress(OSError):
                self._handle(connection)
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()


@dataclass
class Exchange:
    """One request, and the means to answer it."""

    head: bytes
    """As it came, without the empty line."""
    connection: int
    """The number of its connection, from 1."""
    socket: socket.socket
    _reader: BinaryIO
    body: bytes = b""
    """What has been read of its body."""
    trailers: Fields = field(default_factory=list)

    @property
    def method(self) -> str:
        """The method."""
        return self._words[0]

    @property
    def target(self) -> str:
        """The request target."""
        return self._words[1]

    @property
    def version(self) -> str:
        """`HTTP/1.1`, most of the time."""
        return self._words[2]

    @property
    def fields(self) -> Fields:
        """The fields in their order and case."""
        return parse(self.head.split(b"\r\n")[1:])

    def values(self, name: str) -> list[str]:
        """All values of a field."""
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def value(self, name: str) -> str | None:
        """The value of a field that came once, or not."""
        found = self.values(name)
        assert len(found) < 2, found
        return found[0] if found else None

    def chunks(self) -> Iterator[bytes]:
        """The body as it comes, asked for where the downstream waits for that; trailers are there afterwards."""
        if (self.value("expect") or "").lower() == "100-continue":
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "chunked" in (self.value("transfer-encoding") or "").lower():
            while size := int(self._line().split(b";")[0], 16):
                yield self._exactly(size)
                self._line()
            lines = []
            while line := self._line():
                lines.append(line)
            self.trailers = parse(lines)
            return
        left = int(self.value("content-length") or 0)
        while left:
            data = self._reader.read1(min(left, 262144))  # type: ignore[attr-defined]
            if not data:
                raise ConnectionError("the body ended early")
            left -= len(data)
            yield data

    def read(self) -> bytes:
        """The whole body."""
        for data in self.chunks():
            self.body += data
        return self.body

    def answer(self, status: str = "200 OK", body: bytes = b"", *fields: tuple[str, str]) -> None:
        """Sends a whole response; its length is added."""
        given = [*fields, ("Content-Length", str(len(body)))]
        head = "".join(f"{key}: {value}\r\n" for key, value in given)
        self.send(f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1") + (b"" if self.method == "HEAD" else body))

    def answer_json(self, value: Any) -> None:
        """Sends a value."""
        self.answer("200 OK", json.dumps(value).encode(), ("Content-Type", "application/json"))

    def send(self, data: bytes) -> None:
        """Sends bytes."""
        self.socket.sendall(data)

    def receive(self, most: int = 65536) -> bytes:
        """What comes next on the connection, after an upgrade."""
        return self._reader.read1(most)  # type: ignore[attr-defined,no-any-return]

    @property
    def _words(self) -> list[str]:
        return self.head.split(b"\r\n")[0].decode("latin-1").split(" ")

    def _line(self) -> bytes:
        line = self._reader.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the body ended early")
        return line[:-2]

    def _exactly(self, size: int) -> bytes:
        data = self._reader.read(size)
        if len(data) < size:
            raise ConnectionError("the body ended early")
        return data


def echo(exchange: Exchange) -> None:
    """Answers with what came."""
    body = exchange.read()
    exchange.answer_json(
        {
            "method": exchange.method,
            "target": exchange.target,
            "fields": exchange.fields,
            "body": body.decode("latin-1"),
            "trailers": exchange.trailers,
        }
    )


class Service(TcpService):
    """An HTTP/1.1 service that keeps connections alive and every request it got."""

    def __init__(self, answer: Callable[[Exchange], None] = echo, host: str = "127.0.0.1", port: int = 0) -> None:
        self.answer = answer
        self.requests: list[Exchange] = []
        self.received = bytearray()
        """Every byte of every head."""
        super().__init__(self._speak, host, port)

    def named(self, text: str) -> list[Exchange]:
        """The requests whose target holds this text."""
        return [exchange for exchange in list(self.requests) if text in exchange.target]

    def _speak(self, connection: socket.socket) -> None:
        number = self.connections
        with connection.makefile("rb") as reader:
            while head := read_head(reader):
                self.received += head
                exchange = Exchange(head[:-4], number, connection, reader)
                self.requests.append(exchange)
                self.answer(exchange)
                closing = (exchange.value("connection") or "").lower()
                if closing == "close" or "upgrade" in closing:
                    return


def read_head(reader: BinaryIO) -> bytes:
    """The bytes of a head with the empty line; nothing where the connection ends before it."""
    head = b""
    while line := reader.readline():
        head += line
        if line == b"\r\n":
            return head
    return b""


def parse(lines: list[bytes]) -> Fields:
    """The fields of lines."""
    pairs = (line.decode("latin-1").partition(":") for line in lines)
    return [(key, value.strip()) for key, _, value in pairs]
