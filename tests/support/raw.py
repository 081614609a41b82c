"""A connection of a test, byte by byte."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
from http.client import HTTPException, HTTPResponse
from types import TracebackType
from typing import Any, Self

from tests.support.process import DEADLINE


def at(address: str) -> tuple[str, int]:
    """`host:port` as a socket wants it."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


class Answer:
    """One response."""

    def __init__(self, response: HTTPResponse) -> None:
        self.status = response.status
        self.fields = response.getheaders()
        self.body = response.read()

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    def field(self, name: str) -> str | None:
        """The value of a field."""
        found = [value for key, value in self.fields if key.lower() == name.lower()]
        assert len(found) < 2, found
        return found[0] if found else None


class Raw:
    """A TCP connection, with TLS in it where a context and the server's name are given."""

    def __init__(
        self, address: str, timeout: float = DEADLINE, tls: ssl.SSLContext | None = None, name: str | None = None
    ) -> None:
        self.socket = socket.create_connection(at(address), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname=name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        """Sends all of it."""
        self.socket.sendall(data)

    def end(self) -> None:
        """Ends our direction."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Closes with a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        """Closes."""
        self.socket.close()

    def take(self, number: int) -> bytes:
        """Reads so many bytes, fewer where the other end ends."""
        got = bytearray()
        while len(got) < number and (data := self.socket.recv(number - len(got))):
            got += data
        return bytes(got)

    def until(self, mark: bytes) -> bytes:
        """Reads up to and with the mark."""
        got = bytearray()
        while not got.endswith(mark):
            byte = self.socket.recv(1)
            assert byte, f"the connection ended after {bytes(got)!r}"
            got += byte
        return bytes(got)

    def rest(self) -> bytes:
        """Reads to the end of the connection, a reset included."""
        got = bytearray()
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while data := self.socket.recv(65536):
                got += data
        return bytes(got)

    def rest_or(self, mark: bytes) -> bytes:
        """Reads to the mark or, where it does not come, to the end of the connection."""
        got = bytearray()
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while mark not in got and (data := self.socket.recv(65536)):
                got += data
        return bytes(got)

    def answer(self, method: str = "GET") -> Answer:
        """Reads one response; not for answers that come several at once."""
        response = HTTPResponse(self.socket, method=method)
        try:
            response.begin()
            return Answer(response)
        except HTTPException as error:
            raise AssertionError(f"no response: {error!r}") from error
        finally:
            response.close()


def told_by(address: str) -> bytes:
    """All that an address says to who connects and says nothing, where it may reset before the connect has returned."""
    with contextlib.suppress(ConnectionResetError), Raw(address) as downstream:
        return downstream.rest()
    return b""
