"""Peers on the tunnel port that break WebSocket or yamux: their session ends with a reason, the others go on."""

from __future__ import annotations

import base64
import contextlib
import os
import struct
from collections.abc import Iterator

import pytest

from tests.support.http import request
from tests.support.raw import Raw
from tests.support.service import Exchange
from tests.support.tidegate import Gateway
from tests.system.load import Visitors
from tests.system.site import Site

MOST = 100 * 1024 * 1024
"""Bytes of memory that all of this may cost the gateway."""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A gateway whose visitors meet no error whatever peers do on its tunnel port."""

    def answer(exchange: Exchange) -> None:
        exchange.read()
        exchange.answer("200 OK", b"ok")

    with Site(answer) as running:
        before = running.gateway.peak_memory()
        with Visitors.of(running.proxy, "web", 2) as visitors:
            yield running
            visitors.until_served(10)
        assert visitors.lost == []
        assert running.gateway.peak_memory() - before < MOST


def handshake(gateway: Gateway, endpoint: str) -> Raw:
    """A tunnel of an endpoint, upgraded."""
    peer = Raw(gateway.agents)
    key = base64.b64encode(os.urandom(16)).decode()
    head = (
        f"GET /piko/v1/upstream/{endpoint} HTTP/1.1\r\nHost: {gateway.agents}\r\nConnection: Upgrade\r\n"
        f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    )
    peer.send(head.encode())
    answer = peer.until(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 101 "), answer
    assert b"permessage-deflate" not in answer, "compression is never agreed on"
    return peer


def frame(payload: bytes, *, opcode: int = 2, final: bool = True, masked: bool = True) -> bytes:
    """A WebSocket frame; the mask is zero, which is one."""
    length = len(payload)
    mark = 0x80 if masked else 0
    if length < 126:
        size = bytes([mark | length])
    elif length < 65536:
        size = bytes([mark | 126]) + struct.pack(">H", length)
    else:
        size = bytes([mark | 127]) + struct.pack(">Q", length)
    return bytes([(0x80 if final else 0) | opcode]) + size + (bytes(4) if masked else b"") + payload


def yamux(kind: int, flags: int, stream: int, length: int, *, version: int = 0) -> bytes:
    """A yamux header."""
    return struct.pack(">BBHII", version, kind, flags, stream, length)


DATA, WINDOW, PING, GOAWAY = 0, 1, 2, 3
SYN, ACK = 1, 2

BROKEN = {
    "unmasked": frame(yamux(PING, SYN, 0, 1), masked=False),
    "length-of-2-to-the-63": bytes([0x82, 0xFF]) + struct.pack(">Q", 1 << 63) + bytes(4),
    "fragmented-ping": frame(b"x", opcode=9, final=False),
    "giant-ping": frame(b"x" * 126, opcode=9),
    "reserved-bits": bytes([0xF2, 0x80, 0, 0, 0, 0]),
    "reserved-opcode": frame(b"", opcode=3),
    "text": frame(yamux(PING, SYN, 0, 1), opcode=1),
    "continuation-of-nothing": frame(b"x", opcode=0),
    "wrong-version": frame(yamux(PING, SYN, 0, 1, version=9)),
    "unknown-type": frame(yamux(7, 0, 0, 0)),
    "a-stream-id-never-used": frame(yamux(DATA, 0, 4711, 3) + b"abc"),
    "data-of-4-gib": frame(yamux(DATA, SYN, 1, 0xFFFFFFFF)),
    "syn-beyond-the-window": frame(yamux(DATA, SYN, 1, 300 * 1024)),
    "goaway-with-an-error": frame(yamux(GOAWAY, 0, 0, 2)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_the_protocol_ends_the_session_with_a_reason(site: Site, name: str) -> None:
    endpoint = f"broken-{name}"
    with handshake(site.gateway, endpoint) as peer:
        peer.send(BROKEN[name])
        peer.rest()

    event = site.gateway.event("agent disconnected", endpoint=endpoint)
    assert event["reason"]
    assert request(site.proxy, endpoint=endpoint).status == 502


def test_a_flood_of_pings_and_streams_leaves_the_others_alone(site: Site) -> None:
    flood = frame(yamux(PING, SYN, 0, 7) * 5000) * 20
    streams = frame(b"".join(yamux(WINDOW, SYN, number, 0) for number in range(1, 20001, 2)))
    for data in (flood, streams, streams * 3, frame(b"", final=False) + frame(b"", opcode=0, final=False) * 100_000):
        with handshake(site.gateway, "flood") as peer:
            peer.socket.settimeout(5)
            with contextlib.suppress(OSError):  # ended, or not read: both bound what it costs
                peer.send(data)
    assert request(site.proxy, endpoint="web").status == 200


@pytest.mark.parametrize(
    "head",
    [
        b"GET /piko/v1/upstream/web HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /piko/v1/upstream/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"GET /piko/v1/upstream/a%20b HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
    ids=["no-upgrade", "no-path", "no-name", "bad-name", "metrics", "nonsense"],
)
def test_who_does_not_ask_for_a_tunnel_gets_none(site: Site, head: bytes) -> None:
    with Raw(site.gateway.agents) as peer:
        peer.send(head)
        assert 400 <= peer.answer().status < 500


def test_a_giant_upgrade_head_is_refused(site: Site) -> None:
    with Raw(site.gateway.agents) as peer:
        with contextlib.suppress(OSError):  # refused before all of it was sent
            peer.send(b"GET /piko/v1/upstream/web HTTP/1.1\r\nHost: a\r\n" + b"X: yyyyyyyy\r\n" * 100_000)
        assert int(peer.rest().split()[1]) in (400, 431)


def test_a_peer_that_says_nothing_is_not_waited_for_forever() -> None:
    with Site(config={"timeouts": {"handshake": 1, "head": 1}}) as site, Raw(site.gateway.agents) as peer:
        peer.socket.settimeout(10)
        assert len(peer.rest()) < 1000
