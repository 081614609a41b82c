"""
HTTP/2 by the package `h2`, for both ends of the programs under test.

`Two` is a downstream, polite or hostile; `TwoService` an upstream whose answers are a function of the test. `frame`
makes what no library would send.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from tests.support.http import request
from tests.support.process import DEADLINE
from tests.support.raw import at
from tests.support.service import TcpService
from tests.support.tidegate import Gateway

Fields = list[tuple[str, str]]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
REFUSED_STREAM, ENHANCE_YOUR_CALM = 7, 11


def frame(kind: int, stream: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """One frame, whatever stands in it."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def closed(gateway: Gateway, reason: str) -> int:
    """How many connections were ended for this reason."""
    text = request(gateway.admin, "/metrics").body.decode()
    found = re.search(rf'^tidegate_http2_closed_total{{reason="{reason}"}} (\d+)$', text, re.MULTILINE)
    assert found is not None, text
    return int(found[1])


def config(client: bool) -> h2.config.H2Configuration:
    """Nothing of what is sent is checked or changed."""
    return h2.config.H2Configuration(
        client_side=client,
        header_encoding="latin-1",
        validate_outbound_headers=False,
        normalize_outbound_headers=False,
        validate_inbound_headers=False,
    )


@dataclass
class Stream:
    """What has come on one stream."""

    heads: list[Fields] = field(default_factory=list)
    """The heads of responses, interim ones first."""
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    ended: bool = False
    reset: int | None = None
    """The code of its RST_STREAM."""

    @property
    def status(self) -> int:
        """The status of the last head."""
        return int(self.field(":status") or 0)

    def field(self, name: str) -> str | None:
        """A field of the last head."""
        return dict(self.heads[-1]).get(name) if self.heads else None

    @property
    def over(self) -> bool:
        """Nothing more comes on it."""
        return self.ended or self.reset is not None


class Two:
    """A downstream's connection, by prior knowledge or with TLS in it; without `pongs` pings go unanswered."""

    def __init__(
        self,
        address: str,
        *,
        window: int | None = None,
        tls: ssl.SSLContext | None = None,
        name: str | None = None,
        pongs: bool = True,
    ) -> None:
        self.socket = socket.create_connection(at(address), timeout=DEADLINE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname=name)
        self._pongs = pongs
        self.connection = h2.connection.H2Connection(config(client=True))
        self.streams: dict[int, Stream] = {}
        self.goaway: int | None = None
        """The code of the GOAWAY that came."""
        self.closed = False
        self._arrived = b""
        self.connection.initiate_connection()
        if window is not None:
            self.connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def flush(self) -> None:
        """Writes what the library has queued."""
        self.raw(self.connection.data_to_send())

    def raw(self, data: bytes) -> None:
        """Writes these bytes; that the other end has left shows when it is read."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def request(
        self,
        *fields: tuple[str, str],
        method: str = "GET",
        scheme: str = "http",
        authority: str = "web.example.com",
        path: str = "/",
        body: bytes | None = None,
        end: bool = True,
    ) -> int:
        """Sends a request and returns its stream; what is empty of its line is left out."""
        stream = self.connection.get_next_available_stream_id()
        line = [(":method", method), (":scheme", scheme), (":authority", authority), (":path", path)]
        self.streams[stream] = Stream()
        self.connection.send_headers(
            stream, [*((n, v) for n, v in line if v), *fields], end_stream=end and body is None
        )
        if body is not None:
            self.connection.send_data(stream, body, end_stream=end)
        self.flush()
        return stream

    def until(self, condition: Callable[[], object]) -> None:
        """Reads until the condition is true or the connection ends."""
        while not condition() and not self.closed:
            self.read()

    def answer(self, stream: int) -> Stream:
        """Reads to the end of a stream."""
        got = self.streams[stream]
        self.until(lambda: got.over)
        return got

    def get(
        self,
        *fields: tuple[str, str],
        method: str = "GET",
        scheme: str = "http",
        authority: str = "web.example.com",
        path: str = "/",
    ) -> Stream:
        """One request and its answer."""
        return self.answer(self.request(*fields, method=method, scheme=scheme, authority=authority, path=path))

    def end(self) -> None:
        """Reads until the other end closes."""
        self.until(lambda: False)

    def read(self) -> None:
        """Reads once, and takes what has come."""
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            self.closed = True
            return
        self._arrived += data
        while len(self._arrived) >= 9:
            length = 9 + int.from_bytes(self._arrived[:3], "big")
            if len(self._arrived) < length:
                break
            whole, self._arrived = self._arrived[:length], self._arrived[length:]
            if whole[3] == GOAWAY:
                # The library would take nothing more after it.
                self.goaway = int.from_bytes(whole[13:17], "big")
                continue
            if whole[3] == PING and not self._pongs:
                continue
            # It knows nothing of what a test has sent past it.
            with contextlib.suppress(h2.exceptions.ProtocolError):
                for event in self.connection.receive_data(whole):
                    self._take(event)
        self.flush()

    def _take(self, event: h2.events.Event) -> None:
        stream = self.streams.get(getattr(event, "stream_id", None) or 0)
        if stream is None:
            return
        if isinstance(event, h2.events.ResponseReceived | h2.events.InformationalResponseReceived):
            stream.heads.append([(str(name), str(value)) for name, value in event.headers or []])
        elif isinstance(event, h2.events.TrailersReceived):
            stream.trailers = [(str(name), str(value)) for name, value in event.headers or []]
        elif isinstance(event, h2.events.DataReceived):
            stream.body += event.data or b""
            with contextlib.suppress(h2.exceptions.ProtocolError):
                self.connection.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
        elif isinstance(event, h2.events.StreamEnded):
            stream.ended = True
        elif isinstance(event, h2.events.StreamReset):
            stream.reset = int(event.error_code or 0)


class TwoService(TcpService):
    """A service that speaks h2c; `answer` gets the connection and each event, and writes what it wants."""

    def __init__(self, answer: Callable[[h2.connection.H2Connection, h2.events.Event], None]) -> None:
        self._answer = answer
        super().__init__(self._serve)

    def _serve(self, near: socket.socket) -> None:
        connection = h2.connection.H2Connection(config(client=False))
        connection.initiate_connection()
        with near, contextlib.suppress(OSError, h2.exceptions.ProtocolError):
            near.sendall(connection.data_to_send())
            while data := near.recv(65536):
                for event in connection.receive_data(data):
                    # Whoever asked may have given the stream up.
                    with contextlib.suppress(h2.exceptions.ProtocolError):
                        self._answer(connection, event)
                near.sendall(connection.data_to_send())
