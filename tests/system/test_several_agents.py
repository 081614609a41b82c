"""Several agents of one endpoint: shared load, the next one where one does not take a request, and replacements."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from tests.support import access
from tests.support.http import request
from tests.support.process import until
from tests.support.relay import Relay
from tests.support.service import Exchange, Service
from tests.support.tidegate import Agent, Gateway


class Named(Service):
    """A service that answers with its name, and slowly where it is told to."""

    def __init__(self, name: str, busy: threading.Event | None = None) -> None:
        self.name = name
        self.busy = busy
        super().__init__(self._answer)

    def _answer(self, exchange: Exchange) -> None:
        exchange.read()
        if self.busy is not None and exchange.target == "/stay":
            self.busy.wait(20)
        exchange.answer("200 OK", self.name.encode())


def test_agents_share_the_load_evenly() -> None:
    with ExitStack() as stack:
        gateway = stack.enter_context(Gateway())
        for name in "abc":
            service = stack.enter_context(Named(name))
            stack.enter_context(Agent(gateway.agents, "http", "web", service.address))
        gateway.until_offered("web", 3)

        answers = Counter(request(gateway.proxy, endpoint="web").text for _ in range(60))

    assert set(answers) == set("abc")
    assert min(answers.values()) >= 10, answers


def test_who_has_less_to_do_gets_the_next_request() -> None:
    release = threading.Event()
    with (
        Named("a", release) as one,
        Named("b", release) as other,
        Gateway() as gateway,
        Agent(gateway.agents, "http", "web", one.address),
        Agent(gateway.agents, "http", "web", other.address),
        ThreadPoolExecutor(4) as pool,
    ):
        gateway.until_offered("web", 2)
        stays = [pool.submit(request, gateway.proxy, "/stay", endpoint="web") for _ in range(4)]
        until(lambda: len(one.named("/stay")) + len(other.named("/stay")) == 4, "four requests stay")

        assert len(one.named("/stay")) == len(other.named("/stay")) == 2
        release.set()
        assert sorted(stay.result(20).text for stay in stays) == ["a", "a", "b", "b"]


def test_a_request_that_was_provably_not_delivered_goes_to_the_next() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
    with (
        Named("b") as other,
        Gateway() as gateway,
        Agent(gateway.agents, "http", "web", nobody),
        Agent(gateway.agents, "http", "web", other.address),
    ):
        gateway.until_offered("web", 2)
        # Not idempotent, with a body: tried again all the same, because nothing of it reached a service.
        for number in range(8):
            answer = request(gateway.proxy, f"/{number}", method="POST", body=b"x" * 1000, endpoint="web")
            assert (answer.status, answer.text) == (200, "b")
        until(lambda: len(access.lines(gateway)) >= 8, "eight lines in the access log")
        assert 2 in {line["attempts"] for line in access.lines(gateway)}


def test_a_post_whose_service_hangs_up_is_not_sent_to_another() -> None:
    def hang_up(exchange: Exchange) -> None:
        exchange.read()
        exchange.socket.shutdown(socket.SHUT_RDWR)

    with (
        Service(hang_up) as rude,
        Named("b") as other,
        Gateway() as gateway,
        Agent(gateway.agents, "http", "web", rude.address),
        Agent(gateway.agents, "http", "web", other.address),
    ):
        gateway.until_offered("web", 2)
        posts = [request(gateway.proxy, f"/post{number}", method="POST", endpoint="web") for number in range(8)]

        seen = Counter(exchange.target for exchange in rude.requests + other.requests)
        assert set(seen.values()) == {1}, seen
        assert Counter(answer.status for answer in posts) == {200: 4, 502: 4}


def test_an_agent_that_comes_again_replaces_its_old_session() -> None:
    """The old session is one whose end the gateway has not seen: its packets go nowhere."""
    pings = ["--tunnel-ping-interval", "0.5", "--tunnel-ping-timeout", "0.5"]
    with (
        Named("a") as service,
        Gateway() as gateway,
        Relay(gateway.agents) as line,
        Agent(line.address, "http", "web", service.address, *pings),
    ):
        gateway.until_offered("web")
        line.freeze()
        gateway.until_offered("web", 2)

        [endpoint] = gateway.status()["endpoints"]
        assert len(endpoint["listeners"]) == 1
        assert gateway.event("agent disconnected", endpoint="web")["session"] == 1
        assert request(gateway.proxy, endpoint="web").text == "a"
