"""How long a downstream of HTTP/2 may be silent, or not read, before its connection or stream ends."""

from __future__ import annotations

import pytest

from tests.support.http2 import PREFACE, SETTINGS, Two, closed, frame
from tests.support.process import until
from tests.support.raw import Raw
from tests.support.service import Exchange
from tests.system.site import Site


@pytest.mark.parametrize("words", [PREFACE[:20], PREFACE, PREFACE + frame(SETTINGS, 0)[:8]])
def test_case_12_first_words_that_do_not_end_are_cut_and_keep_alive_is_for_the_others(words: bytes) -> None:
    timeouts = {"head": 0.3, "keep_alive": 3600}
    with Site(config={"timeouts": timeouts}) as site, Two(site.proxy) as polite, Raw(site.proxy) as silent:
        assert polite.get().status == 200
        silent.send(words)

        assert b"HTTP/1.1" not in silent.rest()
        until(lambda: closed(site.gateway, "preface") == 1, "it is counted")
        # It has been idle for as long.
        assert polite.get().status == 200


def test_an_idle_connection_is_told_to_go() -> None:
    with Site(config={"timeouts": {"keep_alive": 0.3}}) as site, Two(site.proxy) as two:
        assert two.get().status == 200
        two.end()

    assert two.goaway == 0


def test_case_20_streams_with_a_window_of_zero_are_cut_and_hold_up_nobody() -> None:
    def large(exchange: Exchange) -> None:
        exchange.answer("200 OK", b"x" * 5_000_000)

    with Site(large, {"timeouts": {"idle": 1}}) as site:
        with Two(site.proxy, window=0) as stuck, Two(site.proxy) as neighbour:
            streams = [stuck.request() for _ in range(100)]
            assert len(neighbour.get().body) == 5_000_000
            for stream in streams:
                assert stuck.answer(stream).reset is not None, (stuck.closed, stuck.goaway)
        # A hundred times the body would be 500 MB.
        assert site.gateway.peak_memory() < 250_000_000


def test_case_20_a_connection_that_is_not_read_is_cut() -> None:
    def large(exchange: Exchange) -> None:
        exchange.answer("200 OK", b"x" * 20_000_000)

    with Site(large, {"timeouts": {"idle": 1}}) as site, Two(site.proxy, window=2**31 - 1) as stuck:
        stuck.connection.increment_flow_control_window(2**30)
        for _ in range(20):
            stuck.request()

        until(lambda: closed(site.gateway, "stuck") == 1, "the connection is cut")
        assert site.gateway.peak_memory() < 250_000_000
