"""A role from its start to its end: events, signals, exit codes."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.unit.control.doubles import FakeRole
from tidegate.auth.verify import VerifierSet
from tidegate.control import roles
from tidegate.control.state import Admin, AdminServer, Configuration, LogOptions, State
from tidegate.errors import EngineError

WEB = {"name": "web", "kind": "http", "to": {"host": "localhost", "port": 3000}}
AGENT = {"role": "agent", "version": "1.2.3", "endpoints": [WEB]}
GATEWAY: dict[str, Any] = {"role": "gateway", "version": "1.2.3", "listeners": []}


class Script(FakeRole):
    """Does one thing each time it is asked for an event and has none."""

    def __init__(self, *deeds: Callable[["Script"], None], status: dict[str, Any] | None = None) -> None:
        super().__init__(status)
        self._deeds = list(deeds)

    async def next_event(self) -> dict[str, Any]:
        if self.queue.empty() and self._deeds:
            self._deeds.pop(0)(self)
        return await super().next_event()


class Reports(Script):
    """Tells how long it drains when asked to, and ends when `done` says so."""

    def __init__(self, *deeds: Callable[[Script], None], clean: bool | None = True) -> None:
        super().__init__(*deeds)
        self._clean = clean

    def drain(self, grace: float) -> None:
        super().drain(grace)
        self.say("draining", requests=3, streams=0)
        if self._clean is not None:
            self.say("stopped", clean=self._clean)


def send(number: int) -> Callable[[Script], None]:
    return lambda _: os.kill(os.getpid(), number)


def no_admin(_: Admin) -> AdminServer:
    raise AssertionError("nobody asked for an admin listener")


def run(
    role: FakeRole,
    snapshot: dict[str, Any],
    format: str = "json",
    *,
    admin: Admin | None = None,
    grace_period: float = 60.0,
    **options: Any,
) -> int:
    text = json.dumps(snapshot).encode()
    configuration = Configuration(text, "tidegate.yaml", grace_period, LogOptions(format=format), admin)
    arguments: dict[str, Any] = {"open_admin": no_admin, **options}
    return roles.run(
        str(snapshot["role"]),
        configuration,
        describe={"node": "here"},
        start=lambda _snapshot, _level: role,
        **arguments,
    )


def events(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_drains_and_the_end_is_clean(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    role = Reports(send(number))
    assert run(role, GATEWAY) == 0
    assert role.asked == ["drain 60", "stop"]
    assert [event["event"] for event in events(capsys)] == ["started", "draining", "stopped"]


def test_a_drain_that_cut_something_off_is_no_clean_end() -> None:
    assert run(Reports(send(signal.SIGTERM), clean=False), GATEWAY) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_second_signal_ends_at_once(number: int, code: int) -> None:
    role = Reports(send(number), lambda _: None, clean=None)

    def again(_: Script) -> None:
        # The first signal has been heard when its drain has been asked for.
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), number)

    role._deeds[1:] = [again]
    assert run(role, GATEWAY) == code
    assert role.asked[:2] == ["drain 60", "stop"]


def test_a_flood_of_events_does_not_hold_up_signals() -> None:
    class Flood(FakeRole):
        told = 0

        async def next_event(self) -> dict[str, Any]:
            self.told += 1
            if self.told == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return {"event": "stopped" if "drain 60" in self.asked else "noise", "level": "debug"}

    assert run(Flood(), GATEWAY) == 0


def test_signals_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    run(Reports(send(signal.SIGTERM)), GATEWAY)
    assert signal.getsignal(signal.SIGTERM) == before


def test_draining_tells_a_person_how_to_stop_waiting(capsys: pytest.CaptureFixture[str]) -> None:
    run(Reports(send(signal.SIGINT)), GATEWAY, format="text")
    assert "draining 3 requests, Ctrl-C again to stop now\n" in capsys.readouterr().err


def test_an_engine_that_ends_by_itself_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Script(lambda role: role.say("stopped", clean=True)), GATEWAY) == 1
    assert events(capsys)[-1]["level"] == "error"


def test_an_engine_that_never_ends_its_drain_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roles, "ENGINE_LATE", 0.0)
    role = Reports(send(signal.SIGTERM), clean=None)
    assert run(role, GATEWAY, grace_period=0.01) == 1
    assert role.asked == ["drain 0.01", "stop"]


def test_an_agent_gives_up_when_every_tunnel_was_refused(capsys: pytest.CaptureFixture[str]) -> None:
    tunnels = [{"slot": 0, "state": "refused", "reason": "401 invalid token"}]
    status = {"state": "running", "endpoints": [{"name": "web", "tunnels": tunnels}]}
    refusal = {"endpoint": "web", "gateway": "http://gate", "status": 401, "reason": "invalid token"}
    assert run(Script(lambda role: role.say("refused", **refusal), status=status), AGENT) == 1
    last = events(capsys)[-1]
    assert (last["event"], last["reason"]) == ("giving up", "401 invalid token")


def test_an_agent_lives_on_while_one_tunnel_may_come_up() -> None:
    tunnels = [{"slot": 0, "state": "refused"}, {"slot": 1, "state": "connecting"}]

    class Partly(Reports):
        def status(self) -> dict[str, Any]:
            return {"state": "running", "endpoints": [{"name": "web", "tunnels": tunnels}]}

    assert run(Partly(lambda role: role.say("refused", endpoint="web"), send(signal.SIGTERM)), AGENT) == 0


def test_the_start_line_names_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    run(Reports(send(signal.SIGTERM)), GATEWAY)
    started = events(capsys)[0]
    assert started["configuration"] == "tidegate.yaml"
    assert (started["role"], started["version"], started["node"]) == ("gateway", "1.2.3", "here")


def test_the_address_of_an_application_is_said_once_for_all_its_tunnels(capsys: pytest.CaptureFixture[str]) -> None:
    def connected(role: Script) -> None:
        for slot in (0, 1):
            role.say("connected", endpoint="web", gateway="http://gate", slot=slot, url="http://web.localhost:8000")

    run(Reports(connected, send(signal.SIGTERM)), AGENT, format="text")
    assert capsys.readouterr().err.count("http://web.localhost:8000 -> http://localhost:3000\n") == 1


def test_a_gateway_that_is_away_is_said_once_and_again_when_it_comes_back(capsys: pytest.CaptureFixture[str]) -> None:
    def away(role: Script) -> None:
        where = {"endpoint": "web", "gateway": "http://gate:8001"}
        for slot in (0, 1, 0, 1):
            role.say("disconnected", **where, slot=slot, reason="nothing listens on gate:8001", retry_in=0.1)
        for slot in (0, 1):
            role.say("connected", **where, slot=slot, url="http://web.localhost:8000")

    run(Reports(away, send(signal.SIGTERM)), AGENT, format="text")
    said = [line for line in capsys.readouterr().err.splitlines() if "web" in line and "configuration" not in line]
    assert [line.partition(" ")[2] for line in said] == [
        "a tunnel of endpoint web is down: nothing listens on gate:8001"
        " (tried again until it works; `--connect` names the gateway)",
        "http://web.localhost:8000 -> http://localhost:3000",
    ]


def test_an_endpoint_that_is_offered_again_is_told_again(capsys: pytest.CaptureFixture[str]) -> None:
    """Its service failed and works again: between that there was nothing to reach."""

    def ill(role: Script) -> None:
        up = {"endpoint": "web", "gateway": "http://gate:8001", "url": "http://web.localhost:8000"}
        role.say("connected", **up, slot=0)
        role.say("service unhealthy", endpoint="web", address="localhost:3000", reason="no answer within 2s")
        role.say("service healthy", endpoint="web", address="localhost:3000")
        role.say("connected", **up, slot=0)

    run(Reports(ill, send(signal.SIGTERM)), AGENT, format="text")
    said = [line for line in capsys.readouterr().err.splitlines() if "web" in line and "configuration" not in line]
    assert [line.partition(" ")[2] for line in said] == [
        "http://web.localhost:8000 -> http://localhost:3000",
        "endpoint web is not offered: its service at localhost:3000 fails its check: no answer within 2s",
        "http://web.localhost:8000 -> http://localhost:3000",
    ]


def test_strangers_at_a_tunnel_listener_are_warned_of_once(capsys: pytest.CaptureFixture[str]) -> None:
    listener = {"name": "agents", "kind": "tunnel", "bind": ["0.0.0.0:8001"]}
    run(Reports(send(signal.SIGTERM)), {**GATEWAY, "listeners": [listener]})
    warnings = [event for event in events(capsys) if event["level"] == "warn"]
    assert [(event["listener"], event["port"]) for event in warnings] == [("agents", 8001)]


class FakeAdmin:
    def __init__(self) -> None:
        self.addresses = ["127.0.0.1:8003"]
        self.seen: list[str | None] = []

    def close(self) -> None:
        self.seen.append("closed")

    def prepare(self, admin: Admin) -> Callable[[], None]:
        return lambda: self.seen.append(f"hosts {admin.hosts}")

    @asynccontextmanager
    async def serve(self, state: State) -> AsyncIterator[None]:
        self.seen.append(state.not_ready())
        yield
        self.seen.append(state.not_ready())


def test_the_admin_listener_is_served_until_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    admin = FakeAdmin()
    run(Reports(send(signal.SIGTERM)), GATEWAY, admin=Admin("127.0.0.1:8003"), open_admin=lambda _: admin)
    assert admin.seen == [None, "draining", "closed"]
    assert {"listener": "admin", "address": "127.0.0.1:8003"}.items() <= events(capsys)[1].items()


@pytest.mark.parametrize("asks", [True, False])
def test_strangers_at_an_admin_listener_are_warned_of_where_it_asks_nobody(
    asks: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = FakeAdmin()
    opened.addresses = ["192.0.2.1:8003"]
    admin = Admin("192.0.2.1:8003", auth=VerifierSet([]) if asks else None)
    run(Reports(send(signal.SIGTERM)), GATEWAY, admin=admin, open_admin=lambda _: opened)
    warnings = [(event["listener"], event["port"]) for event in events(capsys) if event["level"] == "warn"]
    assert warnings == ([] if asks else [("admin", 8003)])


def test_an_engine_that_does_not_start_gives_the_admin_port_back() -> None:
    admin = FakeAdmin()

    def start(_: bytes, level: str) -> FakeRole:
        raise EngineError("no")

    with pytest.raises(EngineError, match="no"):
        roles.run(
            "gateway",
            Configuration(b"{}", "", 1.0, LogOptions(), Admin(":0")),
            describe={},
            open_admin=lambda _: admin,
            start=start,
        )
    assert admin.seen == ["closed"]
