"""PostgreSQL through tunnels: by `tidegate forward`, and by a listener of the gateway without one."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.postgres import Postgres, psql, try_psql
from tests.support.process import until
from tests.support.tidegate import Agent, Forward, Gateway


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """The database server of this file."""
    with Postgres() as server:
        yield server


LEDGER = {"bind": "127.0.0.1:0", "kind": "tcp", "to": {"endpoint": "ledger"}}
"""A listener of the gateway that leads to the endpoint `ledger`."""


@pytest.fixture(scope="module")
def gateway(postgres: Postgres) -> Iterator[Gateway]:
    """A gateway with the endpoint `shop`, and `ledger` behind a listener of its own."""
    with (
        Gateway({"listeners": {"ledger": LEDGER}}) as running,
        Agent(running.agents, "tcp", "shop", postgres.address),
        Agent(running.agents, "tcp", "ledger", postgres.address),
    ):
        running.until_offered("shop")
        running.until_offered("ledger")
        yield running


@pytest.fixture(scope="module", params=["forward", "listener"])
def address(request: pytest.FixtureRequest, gateway: Gateway) -> Iterator[str]:
    """Where psql connects."""
    if request.param == "listener":
        yield gateway.address("ledger")
        return
    with Forward(gateway.proxy, "shop") as forward:
        yield forward.address


def test_a_query_is_answered(address: str) -> None:
    assert psql(address, "select 6 * 7") == "42"


def test_megabytes_go_in_and_come_out(address: str) -> None:
    rows = b"".join(b"%d\t%s\n" % (number, b"x" * 1000) for number in range(5000))

    psql(address, "create table if not exists bulk (id int, text text); truncate bulk")
    psql(address, "copy bulk from stdin", stdin=rows)

    assert psql(address, "select count(*), sum(length(text)) from bulk") == "5000|5000000"
    assert len(psql(address, "copy bulk to stdout")) == len(rows) - 1
    psql(address, "drop table bulk")


def test_many_connections_at_once_do_not_mix(address: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda number: psql(address, f"select {number}, pg_sleep(0.05)"), range(24))
        assert [answer.split("|")[0] for answer in answers] == [str(number) for number in range(24)]


def test_a_forward_does_not_reach_what_a_listener_leads_to(gateway: Gateway) -> None:
    with Forward(gateway.proxy, "ledger") as forward:
        ended = try_psql(forward.address, "select 1")
        assert ended.returncode != 0
        until(lambda: "no available upstreams" in forward.log, "the forward says why")


def allowing(*names: str) -> dict[str, Any]:
    """Listeners of a gateway whose proxy lets a request name these endpoints."""
    proxy = {"bind": "127.0.0.1:0", "dynamic_endpoints": {"allow": list(names)}}
    return {"listeners": {"proxy": proxy, "ledger": LEDGER}}


def test_a_forward_reaches_it_once_it_is_allowed_and_then_nothing_else(postgres: Postgres) -> None:
    with (
        Gateway(allowing("ledger")) as gateway,
        Agent(gateway.agents, "tcp", "shop", postgres.address),
        Agent(gateway.agents, "tcp", "ledger", postgres.address),
        Forward(gateway.proxy, "shop") as to_shop,
        Forward(gateway.proxy, "ledger") as to_ledger,
    ):
        gateway.until_offered("shop")
        gateway.until_offered("ledger")
        assert psql(to_ledger.address, "select 1") == "1"
        assert psql(gateway.address("ledger"), "select 2") == "2"
        assert try_psql(to_shop.address, "select 3").returncode != 0
