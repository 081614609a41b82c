"""Upstreams with several addresses: who gets a request, who is left out, and what visitors notice of that."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.http import ask, request
from tests.support.ports import reserved
from tests.support.process import until
from tests.support.servers import Apache, Nginx, WebServer
from tests.support.service import Exchange, Service
from tests.support.tidegate import Gateway
from tests.support.tools import need
from tests.system.load import Visitors

SOON = {"interval": "100ms", "timeout": "1s", "fall": 2, "rise": 2}
"""A health check that makes up its mind within a test."""


def named(name: str) -> Callable[[Exchange], None]:
    """A service that answers with its name."""

    def answer(exchange: Exchange) -> None:
        exchange.read()
        exchange.answer("200 OK", name.encode())

    return answer


@contextmanager
def gateway(addresses: list[Any], **upstream: Any) -> Iterator[Gateway]:
    """A gateway of one worker whose only route leads to these addresses."""
    config = {
        "workers": 1,
        "upstreams": {"shop": {"addresses": addresses, **upstream}},
        "routes": [{"name": "all", "to": {"upstream": "shop"}}],
    }
    with Gateway(config) as running:
        yield running


def answers(gateway: Gateway, number: int, **headers: str) -> Counter[str]:
    """Who answered so many requests, each on a connection of its own; anything but a 200 fails."""
    counted: Counter[str] = Counter()
    for _ in range(number):
        response = request(gateway.proxy, headers=headers)
        assert response.status == 200, (response.status, response.text)
        counted[response.text.strip()] += 1
    return counted


def addresses_of(gateway: Gateway) -> dict[str, dict[str, Any]]:
    """What the status says of the addresses of the upstream, by address."""
    (upstream,) = gateway.status()["upstreams"]
    return {each["address"]: each for each in upstream["addresses"]}


def metric(gateway: Gateway, name: str, **labels: str) -> float:
    """The value of a metric."""
    wanted = name + "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "} "
    lines = request(gateway.admin, "/metrics").text.splitlines()
    (line,) = [line for line in lines if line.startswith(wanted)]
    return float(line.rpartition(" ")[2])


def test_requests_are_shared_by_weight() -> None:
    with (
        Service(named("one")) as one,
        Service(named("three")) as three,
        gateway([one.address, {"address": three.address, "weight": 3}]) as running,
    ):
        assert answers(running, 40) == {"one": 10, "three": 30}
        status = running.status()
        assert status["upstreams"][0]["balance"] == "round-robin"
        assert [(each["weight"], each["requests"]) for each in status["upstreams"][0]["addresses"]] == [
            (1, 10),
            (3, 30),
        ]
        assert status["routes"] == [{"name": "all", "match": "every host", "to": "upstream shop", "requests": 40}]
        assert metric(running, "tidegate_upstream_requests_total", upstream="shop", address=three.address) == 30


def test_the_one_with_the_fewest_requests_is_next() -> None:
    go_on = threading.Event()

    def slow(exchange: Exchange) -> None:
        assert go_on.wait(20)
        named("slow")(exchange)

    with (
        Service(slow) as one,
        Service(named("fast")) as other,
        gateway([one.address, other.address], balance="least-requests") as running,
    ):
        # One of the two waits at the slow one: everybody after that goes to the other.
        asked = [ask(running.proxy) for _ in range(2)]
        until(lambda: len(one.requests) == 1 and any(each.done() for each in asked), "one answer")
        assert answers(running, 10) == {"fast": 10}
        go_on.set()
        assert sorted(each.result().text for each in asked) == ["fast", "slow"]


def test_a_cookie_keeps_a_visitor_at_one_address() -> None:
    with (
        Service(named("a")) as a,
        Service(named("b")) as b,
        Service(named("c")) as c,
        gateway([a.address, b.address, c.address], balance="cookie", cookie="sid") as running,
    ):
        reached: set[str] = set()
        for visitor in range(20):
            (name,) = answers(running, 3, cookie=f"theme=dark; sid=visitor-{visitor}")
            reached.add(name)
        assert reached == {"a", "b", "c"}
        # Without the cookie it is the source address that counts.
        assert len(answers(running, 5)) == 1


def test_a_source_stays_at_one_address_and_moves_only_when_that_fails() -> None:
    with (
        Service(named("a")) as a,
        Service(named("b")) as b,
        gateway([a.address, b.address], balance="source") as running,
    ):
        (name,) = answers(running, 5)
        {"a": a, "b": b}[name].close()
        assert answers(running, 5) == {"b" if name == "a" else "a": 5}


def test_web_servers_of_different_kinds_stand_for_each_other() -> None:
    with Nginx("nginx") as nginx, Apache("apache") as apache, gateway([nginx.address, apache.address]) as running:
        assert answers(running, 10) == {"nginx": 5, "apache": 5}


@pytest.mark.parametrize("kind", [Nginx, Apache])
def test_visitors_notice_nothing_when_a_server_dies_and_comes_back(kind: type[WebServer]) -> None:
    ejection = {"failures": 3, "time": "300ms"}
    with (
        kind("mortal") as mortal,
        Nginx("other") as other,
        gateway([mortal.address, other.address], ejection=ejection) as running,
    ):
        with Visitors(lambda: request(running.proxy)) as visitors:
            mortal.kill()
            ejected = running.event("upstream ejected", upstream="shop", address=mortal.address)
            assert ejected["seconds"] == 0.3
            visitors.until_served(50)
            mortal.start()
            running.event("upstream up", upstream="shop", address=mortal.address)
            visitors.until_served(50)
        assert visitors.lost == []
        assert answers(running, 10) == {"mortal": 5, "other": 5}
        assert addresses_of(running)[mortal.address]["failures"] >= 3


@pytest.mark.parametrize("health", [{"path": "/healthz", **SOON}, {"path": "/healthz", "host": "shop.test", **SOON}])
def test_a_server_that_says_it_is_not_well_gets_no_request(health: dict[str, Any]) -> None:
    with Nginx("a") as a, Apache("b") as b, gateway([a.address, b.address], health=health) as running:
        b.well(False)
        down = running.event("upstream down", upstream="shop", address=b.address)
        assert down["reason"] == "it answered 404 to GET /healthz"
        assert answers(running, 6) == {"a": 6}
        state = addresses_of(running)[b.address]
        assert (state["state"], state["reason"]) == ("down", down["reason"])
        assert all(abs(each["since"] - time.time()) < 60 for each in addresses_of(running).values())
        assert metric(running, "tidegate_upstream_up", upstream="shop", address=b.address) == 0
        assert "upstream shop: 1 of 2 addresses do not work" in running.status()["problems"]

        b.well(True)
        running.event("upstream up", upstream="shop", address=b.address)
        assert answers(running, 6) == {"a": 3, "b": 3}
        assert addresses_of(running)[b.address]["state"] == "up"
        assert metric(running, "tidegate_upstream_up", upstream="shop", address=b.address) == 1


def test_a_check_may_be_a_connection() -> None:
    with (
        Service(named("a")) as a,
        Nginx("b") as b,
        gateway([a.address, b.address], health=SOON, ejection=False) as running,
    ):
        b.kill()
        assert "nothing listens on" in running.event("upstream down", address=b.address)["reason"]
        assert answers(running, 5) == {"a": 5}
        b.start()
        running.event("upstream up", address=b.address)


def test_the_first_check_decides_alone() -> None:
    slow = {**SOON, "interval": "60s", "fall": 10}
    with Service(named("a")) as a, reserved() as nobody, gateway([nobody, a.address], health=slow) as running:
        running.event("upstream down", address=nobody)
        assert answers(running, 5) == {"a": 5}


def test_where_all_are_said_to_be_down_all_are_tried() -> None:
    with Nginx("a") as a, Nginx("b") as b:
        a.well(False)
        b.well(False)
        with gateway([a.address, b.address], health={"path": "/healthz", **SOON}) as running:
            running.event("upstream down", address=a.address)
            running.event("upstream down", address=b.address)
            assert answers(running, 6) == {"a": 3, "b": 3}
            assert "upstream shop: none of its addresses works" in running.status()["problems"]


def test_one_that_fails_again_and_again_is_left_out_but_never_the_last() -> None:
    def broken(exchange: Exchange) -> None:
        exchange.answer("503 Service Unavailable")

    with (
        Service(broken) as bad,
        Service(named("good")) as good,
        gateway([bad.address, good.address], ejection={"failures": 3, "time": "60s"}) as running,
    ):
        statuses = [request(running.proxy).status for _ in range(6)]
        assert sorted(statuses) == [200] * 3 + [503] * 3
        event = running.event("upstream ejected", upstream="shop", address=bad.address)
        assert (event["reason"], event["seconds"]) == ("it answered 503", 60)
        assert answers(running, 5) == {"good": 5}
        assert addresses_of(running)[bad.address]["state"] == "ejected"
        good.answer = broken
        assert {request(running.proxy).status for _ in range(10)} == {503}
        assert addresses_of(running)[good.address]["state"] == "up"


def test_ejection_can_be_switched_off() -> None:
    def broken(exchange: Exchange) -> None:
        exchange.answer("503 Service Unavailable")

    with (
        Service(broken) as bad,
        Service(named("good")) as good,
        gateway([bad.address, good.address], ejection=False) as running,
    ):
        assert sorted(request(running.proxy).status for _ in range(20)) == [200] * 10 + [503] * 10


def hosts_of_its_own(hosts: Path) -> list[str | Path]:
    """A command that starts another with this file as /etc/hosts."""
    own = [] if os.geteuid() == 0 else ["--map-root-user"]
    return [need("unshare"), *own, "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', hosts]


def test_a_name_is_looked_up_again_and_every_address_behind_it_is_used(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost shop.test\n::1 shop.test\n")
    with (
        Service(named("v6"), "::1") as v6,
        Service(named("v4"), "127.0.0.1", v6.port) as v4,
        Service(named("new"), "127.0.0.2", v6.port) as new,
    ):
        config = {
            "workers": 1,
            "upstreams": {"shop": {"addresses": [f"shop.test:{v6.port}"], "resolve_interval": "200ms"}},
            "routes": [{"to": {"upstream": "shop"}}],
        }
        with Gateway(config, under=hosts_of_its_own(hosts)) as running:
            running.event("upstream resolved", upstream="shop", name="shop.test")
            assert answers(running, 10) == {"v4": 5, "v6": 5}
            before = addresses_of(running)
            assert {each["name"] for each in before.values()} == {f"shop.test:{v6.port}"}

            hosts.write_text("127.0.0.1 localhost shop.test\n127.0.0.2 shop.test\n")
            running.event("upstream resolved", addresses="127.0.0.1 127.0.0.2")
            assert answers(running, 10) == {"v4": 5, "new": 5}
            # What stays goes on counting: nobody is new who was there before.
            assert addresses_of(running)[v4.address]["requests"] == 10

            # A name that is gone keeps its last addresses, and says so.
            hosts.write_text("127.0.0.1 localhost\n")
            running.event("upstream not resolved", upstream="shop", name="shop.test")
            assert answers(running, 4) == {"v4": 2, "new": 2}
            assert any("shop.test cannot be looked up" in problem for problem in running.status()["problems"])

            hosts.write_text("127.0.0.2 localhost shop.test\n")
            running.event("upstream resolved", addresses="127.0.0.2")
            assert answers(running, 4) == {"new": 4}
            assert running.status()["problems"] == []
            # Nothing is kept open to an address that is gone.
            assert [each for each in addresses_of(running) if each != new.address] == []


def test_a_name_that_nobody_knows_holds_up_no_start_and_is_a_502() -> None:
    with gateway(["no-such-name.invalid:80"]) as running:
        response = request(running.proxy)
        assert (response.status, response.headers["x-tidegate-error"]) == (502, "upstream_unreachable")
        running.event("upstream not resolved", name="no-such-name.invalid")


def test_localhost_is_this_machine_whichever_loopback_answers() -> None:
    with Service(named("v4"), "127.0.0.1") as v4, gateway([f"localhost:{v4.port}"]) as running:
        assert answers(running, 10) == {"v4": 10}
        assert addresses_of(running)[f"localhost:{v4.port}"]["failures"] == 0


def test_a_new_configuration_goes_on_with_what_did_not_change() -> None:
    with (
        Nginx("a") as a,
        Nginx("b") as b,
        gateway([a.address, b.address], health={"path": "/healthz", **SOON}) as running,
    ):
        b.well(False)
        running.event("upstream down", address=b.address)
        assert answers(running, 4) == {"a": 4}
        before = addresses_of(running)

        running.write({**running.config, "routes": [{"name": "all", "path": "/", "to": {"upstream": "shop"}}]})
        running.event("configuration applied")
        assert addresses_of(running) == before
        assert answers(running, 4) == {"a": 4}
        b.well(True)
        running.event("upstream up", address=b.address)

        # An upstream that is gone is asked no more.
        running.write({**running.config, "upstreams": {}, "routes": [{"respond": 204}]})
        running.event("configuration applied", nth=2)
        assert running.status()["upstreams"] == []
        a.well(False)
        b.well(False)
        running.write(
            {
                **running.config,
                "upstreams": {"shop": {"addresses": [a.address]}},
                "routes": [{"to": {"upstream": "shop"}}],
            }
        )
        running.event("configuration applied", nth=3)
        assert answers(running, 4) == {"a": 4}
        assert len(running.seen("upstream down")) == 1


def test_an_upstream_that_changes_keeps_what_is_known_of_its_other_addresses() -> None:
    health = {"path": "/healthz", **SOON, "interval": "60s"}
    with Nginx("a") as a, Nginx("b") as b, Nginx("c") as c, gateway([a.address, b.address], health=health) as running:
        assert answers(running, 4) == {"a": 2, "b": 2}
        shop = {"addresses": [b.address, c.address], "health": health, "balance": "least-requests"}
        running.write({**running.config, "upstreams": {"shop": shop}})
        running.event("configuration applied")
        assert {at: each["requests"] for at, each in addresses_of(running).items()} == {b.address: 2, c.address: 0}
        assert answers(running, 4) == {"b": 2, "c": 2}


def test_failed_checks_are_counted_on_when_the_upstream_changes() -> None:
    health = {"path": "/healthz", **SOON, "interval": "60s"}
    downs: list[int] = []

    def service(exchange: Exchange) -> None:
        # Well once, at the start; who was said to be down at each check.
        exchange.read()
        well = not downs
        downs.append(0 if well else len(running.seen("upstream down")))
        exchange.answer("200 OK" if well else "404 Not Found")

    with Service(service) as a, Nginx("b") as b, Nginx("c") as c, gateway([a.address], health=health) as running:
        until(lambda: downs, "the first check")
        for nth, more in enumerate((b, c), 1):
            shop = {"addresses": [a.address, more.address], "health": health}
            running.write({**running.config, "upstreams": {"shop": shop}})
            running.event("configuration applied", nth=nth)
            until(lambda: len(downs) > nth, "a check")  # noqa: B023
        running.event("upstream down", address=a.address)
    assert downs == [0, 0, 0]
