"""Connections that wait for the rest of what they began to say make room for others, as silent ones do."""

from __future__ import annotations

import contextlib
import ssl

import pytest

from tests.support.certificates import Authority
from tests.support.http import request
from tests.support.http2 import PREFACE, SETTINGS, Two, frame
from tests.support.process import until
from tests.support.raw import Raw
from tests.support.tidegate import Gateway

PLACES = 16


def config(**more: object) -> dict[str, object]:
    """A configuration with few places and no other reason to end a connection."""
    timeouts = {"head": 3600, "keep_alive": 3600}
    return {"limits": {"connections": PLACES}, "timeouts": timeouts, "routes": [{"respond": 204}], **more}


def ended(raw: Raw) -> bool:
    """True at the end of a connection on which nothing was answered."""
    raw.socket.setblocking(False)
    try:
        said = raw.socket.recv(65536)
    except BlockingIOError:
        return False
    assert b"HTTP/1.1" not in said
    return not said


@pytest.mark.parametrize(
    "words",
    [
        b"G",
        b"GET / HTTP/1.1\r\nHost: two.ex\r\n",
        PREFACE[:18],
        PREFACE[:20],
        PREFACE,
        PREFACE + frame(SETTINGS, 0)[:8],
    ],
    ids=["a byte", "half a head", "the head of a preface", "half a preface", "a preface", "half a SETTINGS"],
)
def test_case_11_a_head_that_does_not_end_makes_room_and_gets_no_answer(words: bytes) -> None:
    with Gateway(config(), "--workers", "1") as gateway, contextlib.ExitStack() as stack:
        halves = [stack.enter_context(Raw(gateway.proxy)) for _ in range(PLACES)]
        for raw in halves:
            raw.send(words)
        until(lambda: request(gateway.proxy).status == 204, "one that waits has ended")
        until(lambda: any(ended(raw) for raw in halves), "it sees its end")


def test_a_tls_connection_that_says_nothing_of_http2_makes_room(authority: Authority) -> None:
    cert, key = authority.issue("a.example.com")
    secure = {"bind": "127.0.0.1:0", "tls": {"certificates": [{"cert": str(cert), "key": str(key)}]}}
    agreed = ssl.create_default_context(cafile=str(authority.ca))
    agreed.set_alpn_protocols(["h2"])
    listeners = {"web": {"bind": "127.0.0.1:0"}, "secure": secure}
    with Gateway(config(listeners=listeners), "--workers", "1") as gateway, contextlib.ExitStack() as stack:
        for _ in range(PLACES):
            stack.enter_context(Raw(gateway.address("secure"), tls=agreed, name="a.example.com"))
        until(lambda: request(gateway.address("web")).status == 204, "one that waits has ended")


def test_whoever_asks_the_whole_of_it_is_not_disturbed_by_those_who_do_not() -> None:
    with Gateway(config(), "--workers", "1") as gateway, contextlib.ExitStack() as stack:
        polite = stack.enter_context(Two(gateway.proxy))
        for _ in range(3 * PLACES):
            with contextlib.suppress(ConnectionError):
                stack.enter_context(Raw(gateway.proxy)).send(b"GET / HTTP/1.1\r\nHost: two.ex\r\n")
            # One that asks again and again has never waited for long.
            assert polite.get().status == 204
