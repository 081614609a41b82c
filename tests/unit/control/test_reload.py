"""A new configuration: read on a thread, applied whole or refused whole, told either way."""

import asyncio
import io
import json
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.control.doubles import FakeRole
from tidegate.config.looks import Looks, look
from tidegate.control import reload as reloading
from tidegate.control.logs import Log
from tidegate.control.reload import Reloads
from tidegate.control.state import Admin, Configuration, LogOptions, Tls
from tidegate.errors import ConfigError, ListenError


def configuration(word: str = "old", **more: Any) -> Configuration:
    """A gateway's whole configuration that says this word."""
    snapshot = {"role": "gateway", "workers": 2, "listeners": [], "node": word, **more.pop("snapshot", {})}
    parts = {"source": "tidegate.yaml", "grace_period": 60.0, "log": LogOptions(), "admin": Admin(":8003"), **more}
    return Configuration(json.dumps(snapshot).encode(), **parts)


class Refusing(FakeRole):
    def apply(self, snapshot: bytes) -> None:
        raise ListenError('listener "web": :80 is in use by PID 4711 (nginx)')


class Bench:
    """Reloads of a role, with what they read and what they said."""

    def __init__(self, role: FakeRole | None = None, **options: Any) -> None:
        self.role = role or FakeRole()
        self.written: Callable[[Looks], Configuration] = lambda _: configuration("new")
        self.said = io.StringIO()
        options.setdefault("again", self._again)
        self.reloads = Reloads(
            self.role, "gateway", configuration(), Log(LogOptions(format="json"), self.said), **options
        )

    def _again(self, files: Looks) -> Configuration:
        return self.written(files)

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.said.getvalue().splitlines()]


def run(what: Callable[[Bench], Awaitable[None]], *arguments: Any, **options: Any) -> Bench:
    async def main() -> Bench:
        bench = Bench(*arguments, **options)
        await what(bench)
        return bench

    return asyncio.run(main())


async def once(bench: Bench) -> None:
    await bench.reloads.reload("api")


def test_a_good_one_is_applied_and_told() -> None:
    bench = run(once)
    assert bench.role.asked == ["apply"]
    assert bench.reloads.configuration == configuration("new")
    [event] = bench.events()
    assert (event["event"], event["trigger"], event["source"]) == ("configuration applied", "api", "tidegate.yaml")
    assert event["changes"] == {"settings": {"changed": {"count": 1, "names": ["node"]}}}
    assert bench.reloads.counts == {"applied": 1, "refused": 0}


@pytest.mark.parametrize("kind", [ConfigError, ListenError, ValueError])
def test_why_it_was_refused_is_told_without_passwords(kind: type[Exception]) -> None:
    async def refused(bench: Bench) -> None:
        bench.written = refuse(kind("f:1: 'http://user:PWSECRET@h:1' holds more than a host and a port"))
        outcome = await bench.reloads.reload("api")
        shown = [*outcome.reasons, *bench.reloads.problems(), json.dumps(bench.reloads.status())]
        assert all("***@h:1" in each and "PWSECRET" not in each for each in shown)

    run(refused)


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"grace_period": 5.0}, "grace_period"),
        ({"log": LogOptions(level="debug")}, "log.level"),
        ({"admin": Admin(":8003", hosts=("admin.example",))}, "admin.hosts"),
        ({"admin": Admin(":8003", tls=Tls("cert.pem", "key.pem", "ca.pem"))}, "admin.tls"),
        ({"admin": Admin(":8003", tls=Tls("cert.pem", "key.pem", digest="renewed"))}, "admin.tls"),
    ],
)
def test_what_is_not_the_engine_s_is_told_too(more: dict[str, Any], key: str) -> None:
    async def changed(bench: Bench) -> None:
        tls = Admin(":8003", tls=Tls("cert.pem", "key.pem")) if key == "admin.tls" else Admin(":8003")
        bench.written = lambda _: configuration(admin=tls)
        await once(bench)
        bench.written = lambda _: configuration(**{"admin": tls, **more})
        told = (await bench.reloads.reload("api")).changes
        assert told == {"settings": {"changed": {"count": 1, "names": [key]}}}

    run(changed)


def refuse(error: Exception) -> Callable[[Looks], Configuration]:
    def read(_: Looks) -> Configuration:
        raise error

    return read


def test_every_mistake_is_a_reason_and_nothing_has_changed() -> None:
    async def both(bench: Bench) -> None:
        bench.written = refuse(ConfigError(["a: 1", "b: 2"]))
        await once(bench)
        assert bench.reloads.problems() != []
        assert bench.reloads.status()["last_refused"]["reasons"] == ["a: 1", "b: 2"]
        bench.written = lambda _: configuration("new")
        await once(bench)
        assert bench.reloads.problems() == []

    bench = run(both)
    refused, applied = bench.events()
    assert (refused["event"], refused["reasons"], refused["level"]) == (
        "configuration refused",
        ["a: 1", "b: 2"],
        "error",
    )
    assert applied["event"] == "configuration applied"
    assert bench.reloads.counts == {"applied": 1, "refused": 1}


@pytest.mark.parametrize("error", [RecursionError("deep"), ValueError("odd"), OSError(5, "broken")])
def test_a_fault_of_ours_does_not_end_the_role(error: Exception) -> None:
    async def broken(bench: Bench) -> None:
        bench.written = refuse(error)
        assert not (await bench.reloads.reload("api")).applied

    assert run(broken).role.asked == []


def test_a_fault_of_ours_after_the_engine_has_applied_does_not_end_the_role() -> None:
    def fail() -> None:
        raise OSError(24, "Too many open files")

    async def broken(bench: Bench) -> None:
        assert (await bench.reloads.reload("api")).applied

    bench = run(broken, prepare=lambda _: fail)
    assert bench.reloads.configuration == configuration("new")
    assert bench.reloads.counts == {"applied": 1, "refused": 0}
    [event] = bench.events()
    assert (event["event"], event["level"]) == ("configuration half applied", "error")
    assert "Too many open files" in event["reason"]


def test_what_the_engine_refuses_is_not_in_force_and_pythons_part_neither() -> None:
    committed: list[str] = []
    bench = run(once, Refusing(), prepare=lambda _: lambda: committed.append("committed"))
    assert bench.reloads.configuration == configuration()
    assert bench.events()[0]["reasons"] == ['listener "web": :80 is in use by PID 4711 (nginx)']
    assert committed == []


def test_pythons_part_can_refuse_before_the_engine_is_asked() -> None:
    def prepare(_: Configuration) -> Callable[[], None]:
        raise ConfigError("admin.tls: no certificate")

    assert run(once, prepare=prepare).role.asked == []


@pytest.mark.parametrize(
    ("fresh", "key"),
    [
        (configuration(snapshot={"workers": 3}), "workers"),
        (configuration(admin=Admin(":9000")), "admin.bind"),
        (configuration(log=LogOptions(format="text")), "log.format"),
    ],
)
def test_what_takes_a_restart_is_refused_by_name(fresh: Configuration, key: str) -> None:
    async def restart(bench: Bench) -> None:
        bench.written = lambda _: fresh
        [reason] = (await bench.reloads.reload("api")).reasons
        assert reason.startswith(f"{key}: ")
        assert "restart" in reason

    assert run(restart).role.asked == []


def test_a_role_that_cannot_is_told_and_has_no_problem_by_it() -> None:
    bench = run(once, again=None)
    assert bench.events()[0]["reasons"] == ["this gateway takes a new configuration when it is started again"]
    assert bench.reloads.problems() == []
    assert bench.reloads.metrics() == b""


def test_a_role_that_is_leaving_takes_nothing_new() -> None:
    async def leaving(bench: Bench) -> None:
        bench.reloads.closed = True
        await once(bench)

    assert "leaving" in run(leaving).events()[0]["reasons"][0]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at all the time."""
    monkeypatch.setattr(reloading, "INTERVAL", 0.01)
    monkeypatch.setattr(reloading, "QUIET", 0.03)


async def watched(bench: Bench, change: Callable[[], object], until: Callable[[], bool]) -> None:
    """Watches while something changes, until a condition holds."""
    async with asyncio.timeout(10):
        watching = asyncio.create_task(bench.reloads.watch())
        await asyncio.sleep(0.02)
        change()
        while not until():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        watching.cancel()


def reading(path: Path) -> Callable[[Looks], Configuration]:
    def read(files: Looks) -> Configuration:
        files[str(path)] = look(str(path))
        return configuration(path.read_text())

    return read


@pytest.mark.usefixtures("soon")
def test_a_file_is_read_when_it_has_been_quiet(tmp_path: Path) -> None:
    path = tmp_path / "tidegate.yaml"
    path.write_text("old")

    async def edited(bench: Bench) -> None:
        bench.written = reading(path)
        await watched(bench, lambda: path.write_text("new"), lambda: bench.reloads.counts["applied"] == 1)
        assert bench.reloads.configuration == configuration("new")

    run(edited, files={str(path): look(str(path))})


@pytest.mark.usefixtures("soon")
def test_a_file_that_says_the_same_is_not_applied(tmp_path: Path) -> None:
    path = tmp_path / "tidegate.yaml"
    path.write_text("old")
    reads: list[str] = []

    async def touched(bench: Bench) -> None:
        def read(files: Looks) -> Configuration:
            reads.append("read")
            return reading(path)(files)

        bench.written = read
        await watched(bench, path.touch, lambda: len(reads) == 1)

    bench = run(touched, files={str(path): look(str(path))})
    assert (bench.role.asked, bench.events()) == ([], [])


@pytest.mark.usefixtures("soon")
def test_what_changes_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "tidegate.yaml"
    path.write_text("first")

    async def raced(bench: Bench) -> None:
        def read(files: Looks) -> Configuration:
            found = reading(path)(files)
            if path.read_text() == "first":
                path.write_text("second, and longer")
            return found

        bench.written = read
        await once(bench)
        assert bench.reloads.configuration == configuration("second, and longer")

    assert run(raced).role.asked == ["apply"]


@pytest.mark.usefixtures("soon")
def test_a_file_that_is_missing_in_a_refused_one_is_waited_for(tmp_path: Path) -> None:
    path, key = tmp_path / "tidegate.yaml", tmp_path / "key.pem"
    path.write_text("new")

    def read(files: Looks) -> Configuration:
        files[str(key)] = look(str(key))
        if not key.exists():
            raise ConfigError("key.pem: cannot read it")
        return configuration("new")

    async def late(bench: Bench) -> None:
        bench.written = read
        await once(bench)
        await watched(bench, lambda: key.write_text("key"), lambda: bench.reloads.counts["applied"] == 1)

    run(late)


@pytest.mark.usefixtures("soon")
def test_sighup_asks_once() -> None:
    async def asked(bench: Bench) -> None:
        await watched(bench, bench.reloads.ask, lambda: bench.reloads.counts["applied"] == 1)

    assert run(asked).events()[0]["trigger"] == "signal"


def test_the_loop_goes_on_while_a_file_is_read() -> None:
    turns: list[int] = []

    async def slow(bench: Bench) -> None:
        gate = threading.Event()

        def read(_: Looks) -> Configuration:
            assert gate.wait(10)
            return configuration("new")

        bench.written = read
        running = asyncio.create_task(bench.reloads.reload("api"))
        for turn in range(10):
            await asyncio.sleep(0)
            turns.append(turn)
        gate.set()
        assert (await running).applied

    run(slow)
    assert len(turns) == 10


def test_metrics_count_what_became_of_them() -> None:
    page = run(once).reloads.metrics().decode()
    assert 'tidegate_config_reloads_total{result="applied"} 1\n' in page
    assert 'tidegate_config_reloads_total{result="refused"} 0\n' in page
