"""ClientHellos: of the test's own TLS library, whole, cut into records, or made by hand as no library would."""

from __future__ import annotations

import ssl
import struct
from collections.abc import Iterable, Sequence

ALERTS = {10: "unexpected_message", 22: "record_overflow", 47: "illegal_parameter", 50: "decode_error"} | {
    70: "protocol_version",
    80: "internal_error",
    112: "unrecognized_name",
}


def hello(name: str | None) -> bytes:
    """The ClientHello of OpenSSL for a name, in one record."""
    context = ssl.create_default_context()
    context.check_hostname = False
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        connection.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake with nobody")


def records(whole: bytes, cuts: Sequence[int]) -> bytes:
    """A hello of one record in several, cut at these places of its message."""
    message = whole[5:]
    ends = [*cuts, len(message)]
    return b"".join(record(message[start:end]) for start, end in zip([0, *cuts], ends, strict=True))


def record(content: bytes) -> bytes:
    """A handshake record."""
    return b"\x16\x03\x01" + _long(content)


def made(extensions: Iterable[tuple[int, bytes]], size: int = 16384) -> bytes:
    """A ClientHello with these extensions, in records of so many bytes."""
    body = b"\x03\x03" + b"\t" * 32 + b"\x20" + b"\x07" * 32 + b"\x00\x02\x13\x01" + b"\x01\x00"
    body += _long(b"".join(struct.pack(">H", kind) + _long(content) for kind, content in extensions))
    message = b"\x01" + struct.pack(">I", len(body))[1:] + body
    pieces = [message[start : start + size] for start in range(0, len(message), size)]
    return b"".join(map(record, pieces))


def names(*wanted: bytes) -> tuple[int, bytes]:
    """The extension server_name."""
    return 0, _long(b"".join(b"\x00" + _long(name) for name in wanted))


def alert(answer: bytes) -> str:
    """The fatal alert that is all of an answer; empty for no answer."""
    if not answer:
        return ""
    assert (len(answer), answer[:1], answer[3:6]) == (7, b"\x15", b"\x00\x02\x02"), answer
    return ALERTS[answer[6]]


def _long(content: bytes) -> bytes:
    return struct.pack(">H", len(content)) + content
