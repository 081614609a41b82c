"""How programs leave: they finish what runs, say what they wait for, and go at once when asked twice."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

import pytest

from tests.support.http import ask, request
from tests.support.ports import reserved
from tests.support.process import Program, until
from tests.support.raw import Raw
from tests.support.service import Exchange, Service, TcpService
from tests.support.tidegate import Agent, Forward, Gateway, Tidegate, command
from tests.system.load import Visitors
from tests.system.site import Site


class Held:
    """A service whose answers to `/stay` wait for `release`."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.arrived: list[str] = []

    def __call__(self, exchange: Exchange) -> None:
        exchange.read()
        if exchange.target.startswith("/stay"):
            self.arrived.append(exchange.target)
            self.release.wait(20)
        exchange.answer("200 OK", b"finished")

    def until_arrived(self, number: int = 1) -> None:
        """Waits until so many have come."""
        until(lambda: len(self.arrived) >= number, f"{number} requests have arrived")


@contextmanager
def held() -> Iterator[tuple[Site, Held]]:
    """A site whose service can be made to wait."""
    answer = Held()
    with Site(answer) as site:
        try:
            yield site, answer
        finally:
            answer.release.set()


def test_a_gateway_that_leaves_finishes_a_running_request() -> None:
    with held() as (site, answer):
        running = ask(site.proxy, "/stay", endpoint="web")
        answer.until_arrived()

        site.gateway.signal(signal.SIGTERM)
        assert site.gateway.event("draining")["requests"] == 1
        until(lambda: request(site.gateway.admin, "/ready").status == 503, "the gateway is not ready any more")
        answer.release.set()

        assert running.result(20).text == "finished"
        assert site.gateway.wait() == 0
        assert site.gateway.event("stopped")["clean"] is True


def test_the_status_command_says_that_a_gateway_is_draining() -> None:
    with held() as (site, answer):
        running = ask(site.proxy, "/stay", endpoint="web")
        answer.until_arrived()
        site.gateway.signal(signal.SIGTERM)
        site.gateway.event("draining")

        words = command("status", "--url", f"http://{site.gateway.admin}")
        screen = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True).stdout
        assert "\nwrong:\n  draining: " in screen

        answer.release.set()
        assert running.result(20).text == "finished"


def test_an_agent_that_leaves_finishes_a_running_request() -> None:
    with held() as (site, answer):
        running = ask(site.proxy, "/stay", endpoint="web")
        answer.until_arrived()

        site.agent.signal(signal.SIGTERM)
        site.agent.event("draining")
        until(lambda: request(site.proxy, endpoint="web").status == 502, "nothing new is sent there")
        answer.release.set()

        assert running.result(20).text == "finished"
        assert site.agent.wait() == 0


def test_an_agent_that_leaves_under_load_loses_nothing() -> None:
    def answer(exchange: Exchange) -> None:
        exchange.read()
        exchange.answer("200 OK", b"x" * 1000)

    with (
        Service(answer) as service,
        Gateway() as gateway,
        Agent(gateway.agents, "http", "web", service.address, connections=2),
    ):
        gateway.until_offered("web", 2)
        with Visitors(lambda: request(gateway.proxy, method="POST", body=b"y" * 100, endpoint="web"), 8) as visitors:
            for _ in range(2):
                with Agent(gateway.agents, "http", "web", service.address, connections=2) as leaving:
                    visitors.until_served(100)
                    assert leaving.stop() == 0
            visitors.until_served(50)
        assert visitors.lost == []


def test_an_agent_that_leaves_loses_no_tcp_connection_that_has_another() -> None:
    listeners = {"db": {"bind": "127.0.0.1:0", "kind": "tcp", "to": {"endpoint": "db"}}}
    with (
        TcpService(lambda connection: connection.sendall(connection.recv(5))) as service,
        Gateway({"listeners": listeners}) as gateway,
        Agent(gateway.agents, "tcp", "db", service.address) as leaving,
        Agent(gateway.agents, "tcp", "db", service.address),
    ):
        gateway.until_offered("db", 2)

        def come_and_go() -> int:
            lost = 0
            for _ in range(150):
                with Raw(gateway.address("db")) as downstream:
                    downstream.send(b"hello")
                    lost += downstream.rest() != b"hello"
            return lost

        with ThreadPoolExecutor(4) as pool:
            counts = [pool.submit(come_and_go) for _ in range(4)]
            until(lambda: service.connections > 50, "connections come and go")
            assert leaving.stop() == 0
            assert [count.result() for count in counts] == [0, 0, 0, 0]


def test_a_tcp_stream_is_finished_too() -> None:
    with (
        TcpService(lambda connection: connection.sendall(connection.recv(5) + connection.recv(5))) as service,
        Gateway() as gateway,
        Agent(gateway.agents, "tcp", "db", service.address) as agent,
    ):
        gateway.until_offered("db")
        with Forward(gateway.proxy, "db") as forward, Raw(forward.address) as downstream:
            downstream.send(b"first")
            until(lambda: gateway.status()["endpoints"][0]["listeners"][0]["streams"], "the stream is open")
            for program in (agent, gateway, forward):
                program.signal(signal.SIGTERM)
                program.event("draining")
            downstream.send(b"later")
            assert downstream.rest() == b"firstlater"
            downstream.close()
            assert [program.wait() for program in (forward, gateway, agent)] == [0, 0, 0]


def test_the_grace_period_ends_what_does_not_end_by_itself() -> None:
    answer = Held()
    with Site(answer, {"grace_period": 1}) as site:
        running = ask(site.proxy, "/stay", endpoint="web")
        answer.until_arrived()
        site.gateway.signal(signal.SIGTERM)
        assert site.gateway.wait(10) in (0, 1)
        answer.release.set()
        assert running.exception(20) is not None or running.result(20).status != 200


def test_ctrl_c_drains_and_says_how_to_stop_now_and_a_second_one_does() -> None:
    with held() as (site, answer):
        running = [ask(site.proxy, f"/stay{number}", endpoint="web") for number in range(3)]
        answer.until_arrived(3)

        with text_agent(site) as agent:
            others = [ask(site.proxy, "/stay", endpoint="other") for _ in range(3)]
            answer.until_arrived(6)
            agent.signal(signal.SIGINT)
            agent.says("draining 3 requests, Ctrl-C again to stop now")
            agent.signal(signal.SIGINT)
            assert agent.wait(5) == 130
            assert {other.result(20).status for other in others} == {502}

        site.gateway.signal(signal.SIGINT)
        assert site.gateway.event("draining")["requests"] == 3
        site.gateway.signal(signal.SIGINT)
        assert site.gateway.wait(5) == 130
        assert all(ended.exception(20) or ended.result().status != 200 for ended in running)


@contextmanager
def text_agent(site: Site) -> Iterator[Program]:
    """An agent of the endpoint `other` with events for people."""
    words = ["agent", "http", "other", site.service.address, "--connect", f"http://{site.gateway.agents}"]
    with Program(command(*words, "--log-format", "text"), name="agent") as agent:
        site.gateway.event("agent connected", endpoint="other")
        yield agent


def test_a_gateway_without_anything_running_leaves_at_once() -> None:
    with Gateway() as gateway:
        assert gateway.stop(5) == 0


def test_ctrl_c_without_anything_running_is_a_clean_stop() -> None:
    with Site() as site:
        for program in (site.agent, site.gateway):
            program.signal(signal.SIGINT)
            assert program.wait(5) == 0


def test_a_second_sigterm_ends_at_once() -> None:
    with held() as (site, answer):
        running = ask(site.proxy, "/stay", endpoint="web")
        answer.until_arrived()
        site.gateway.signal(signal.SIGTERM)
        site.gateway.event("draining")
        site.gateway.signal(signal.SIGTERM)
        assert site.gateway.wait(5) == 143
        assert running.exception(20) or running.result().status != 200


@pytest.mark.parametrize("level", ["debug", "info", "warn", "error"])
def test_programs_leave_at_once_however_little_they_say(level: str) -> None:
    with ExitStack() as stack:
        proxy, agents, *admins = (stack.enter_context(reserved()) for _ in range(5))
        commands = [
            ("gateway", "--proxy", proxy, "--agents", agents),
            ("agent", "http", "web", "3000", "--connect", f"http://{agents}"),
            ("forward", "127.0.0.1:0", "web", "--connect", f"http://{proxy}"),
        ]
        programs = []
        for words, admin in zip(commands, admins, strict=True):
            programs.append(stack.enter_context(Tidegate(*words, "--admin", admin, "--log-level", level)))
            until(lambda admin=admin: is_ready(admin), f"{words[0]} is ready")  # type: ignore[misc]
        for program in reversed(programs):
            assert program.stop(5) == 0
            assert bool(program.seen("stopped")) == (level in ("debug", "info"))


def test_ctrl_c_ends_a_program_whose_log_nobody_reads() -> None:
    with reserved() as admin, ExitStack() as stack:
        reader, writer = os.pipe()
        stack.callback(os.close, reader)
        stack.callback(os.close, writer)
        words = command("gateway", "--proxy", "127.0.0.1:0", "--agents", "127.0.0.1:0", "--admin", admin)
        gateway = stack.enter_context(subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=writer))
        stack.callback(gateway.kill)
        until(lambda: is_ready(admin), "the gateway is ready")

        os.set_blocking(writer, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writer, b"x")
        os.set_blocking(writer, True)
        gateway.send_signal(signal.SIGINT)
        assert gateway.wait(10) == 0


def is_ready(admin: str) -> bool:
    """Whether a program takes traffic, and with it signals."""
    try:
        return request(admin, "/ready").status == 200
    except OSError:
        return False
