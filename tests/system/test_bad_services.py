"""Services that misbehave: the visitor is told, and gateway and agent stay as they were."""

from __future__ import annotations

import contextlib

from tests.support.http import request
from tests.support.raw import Raw
from tests.support.service import Exchange
from tests.system.site import Site

HINT = b"HTTP/1.1 103 Early Hints\r\nLink: </" + b"x" * 2000 + b">; rel=preload\r\n\r\n"
ASK = b"GET /flood HTTP/1.1\r\nHost: web.example.com\r\nConnection: close\r\n\r\n"
MEBIBYTE = 1024 * 1024


def flood(exchange: Exchange) -> None:
    """Sends interim answers for ever, or a real one."""
    if exchange.target != "/flood":
        exchange.answer("200 OK", b"ok")
        return
    with contextlib.suppress(OSError):
        while True:
            exchange.send(HINT)


def test_a_flood_of_interim_answers_is_cut_short() -> None:
    with Site(flood) as site:
        with site.connect() as visitor:
            visitor.send(ASK)
            assert b"upstream_malformed" in visitor.rest()
        assert request(site.proxy, endpoint="web").text == "ok"


def test_a_flood_of_interim_answers_for_a_visitor_that_does_not_read_costs_no_memory() -> None:
    with Site(flood) as site:
        assert request(site.proxy, endpoint="web").text == "ok"
        before = [program.peak_memory() for program in (site.gateway, site.agent)]
        silent = [Raw(site.proxy) for _ in range(20)]
        for visitor in silent:
            visitor.send(ASK)
        for _ in range(50):
            assert request(site.proxy, endpoint="web").text == "ok"
        after = [program.peak_memory() for program in (site.gateway, site.agent)]
        for visitor in silent:
            visitor.close()
        assert all(late - early < 30 * MEBIBYTE for early, late in zip(before, after, strict=True)), (before, after)
