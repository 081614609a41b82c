"""The engine's wrapper, around an engine that is played by the test."""

import asyncio
import errno
import importlib
import json
import os
import socket
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from tidegate.errors import EngineError, ListenError


class Native:
    """What the extension module gives: an eventfd and a queue behind it."""

    def __init__(self) -> None:
        self.event_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.queue: list[bytes] = []

    def push(self, event: str) -> None:
        self.queue.append(json.dumps({"event": event}).encode())
        os.eventfd_write(self.event_fd, 1)

    def events(self) -> list[bytes]:
        if self.queue:
            os.eventfd_read(self.event_fd)
        taken, self.queue = self.queue, []
        return taken


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`tidegate.engine` over a module that stands in for the extension."""
    fake = ModuleType("tidegate._engine")
    fake.version = "0"  # type: ignore[attr-defined]
    base = type("EngineError", (Exception,), {})
    fake.EngineError = base  # type: ignore[attr-defined]
    fake.ListenError = type("ListenError", (base,), {})  # type: ignore[attr-defined]
    fake.SnapshotError = type("SnapshotError", (base,), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tidegate._engine", fake)
    monkeypatch.setattr("tidegate._engine", fake, raising=False)
    monkeypatch.delitem(sys.modules, "tidegate.engine", raising=False)
    yield importlib.import_module("tidegate.engine")
    sys.modules.pop("tidegate.engine", None)


def refuse(engine: Any, kind: str, *args: object) -> EngineError:
    """What `start` raises when the engine raises `kind`."""
    native = sys.modules["tidegate._engine"]

    def start(_: bytes) -> None:
        raise getattr(native, kind)(*args)

    native.start = start  # type: ignore[attr-defined]
    with pytest.raises(EngineError) as refused:
        engine.start(b"{}")
    return refused.value


async def script(engine: Any) -> None:
    native = Native()
    role = engine.Role(native)
    native.push("one")
    native.push("two")
    assert [(await role.next_event())["event"] for _ in range(2)] == ["one", "two"]

    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(role.next_event(), 0.001)

    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(role.next_event())
        tasks.create_task(asyncio.to_thread(native.push, "three"))
    assert waiting.result()["event"] == "three"
    os.close(native.event_fd)


def test_events_come_in_order_wake_the_loop_and_survive_a_cancelled_wait(engine: Any) -> None:
    asyncio.run(script(engine))


def test_a_port_in_use_names_the_process_that_holds_it(engine: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        address = f"127.0.0.1:{held.getsockname()[1]}"
        error = refuse(engine, "ListenError", "address in use", "web", address, errno.EADDRINUSE)
    assert isinstance(error, ListenError)
    assert str(error).startswith(f'listener "web": {address} is in use by PID {os.getpid()} (')


def test_a_wildcard_holder_is_found_for_a_loopback_address(engine: Any) -> None:
    with socket.create_server(("0.0.0.0", 0)) as held:
        address = f"127.0.0.1:{held.getsockname()[1]}"
        error = refuse(engine, "ListenError", "address in use", "web", address, errno.EADDRINUSE)
    assert f"PID {os.getpid()}" in str(error)


def test_a_listener_that_python_binds_is_told_in_the_same_words(engine: Any) -> None:
    error = engine.bind_error(OSError(errno.EACCES, "no"), "admin", "127.0.0.1:80")
    assert str(error).startswith('listener "admin": cannot bind 127.0.0.1:80: permission denied')


def test_a_port_that_nobody_visible_holds_is_in_use_by_another_process(engine: Any) -> None:
    error = refuse(engine, "ListenError", "address in use", "web", "127.0.0.1:0", errno.EADDRINUSE)
    assert str(error) == 'listener "web": 127.0.0.1:0 is in use by another process'


@pytest.mark.parametrize(
    ("number", "hint"), [(errno.EACCES, "CAP_NET_BIND_SERVICE"), (errno.EADDRNOTAVAIL, "ip addr"), (None, "odd")]
)
def test_an_address_that_cannot_be_bound_says_what_to_do(engine: Any, number: int | None, hint: str) -> None:
    error = refuse(engine, "ListenError", "odd", "web", "10.0.0.9:80", number)
    assert str(error).startswith('listener "web": cannot bind 10.0.0.9:80: ')
    assert hint in str(error)


def test_a_refused_snapshot_is_an_engine_error(engine: Any) -> None:
    assert str(refuse(engine, "SnapshotError", "no field `role`")) == "no field `role`"


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [("error", "info"), ("warn", "info"), ("info", "info"), ("debug", "debug"), ("trace", "trace")],
)
def test_events_that_a_role_is_run_by_come_at_every_level(engine: Any, wanted: str, kept: str) -> None:
    levels: list[str] = []
    native = type("Native", (), {"set_level": lambda _, level: levels.append(level)})
    sys.modules["tidegate._engine"].start = lambda _: native()  # type: ignore[attr-defined]
    engine.start(b"{}", wanted)
    assert levels == [kept]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["/usr/bin/python3", "/opt/bin/tidegate", "gateway", "--proxy"], "tidegate gateway"),
        (["tidegate", "--version"], "tidegate"),
        (["nginx: master process"], "nginx: master process"),
        ([], "unknown"),
    ],
)
def test_a_process_is_called_what_a_person_calls_it(engine: Any, words: list[str], name: str, tmp_path: Any) -> None:
    (tmp_path / "cmdline").write_bytes("\0".join(words).encode())
    assert engine._program(tmp_path) == name
