"""
Runs one role from its start to its end: the engine, its events, the signals, the exit code.

Flow: the admin listener and the engine's listeners are bound, the start line says which configuration is in force,
then events are written until the engine says `stopped`. The first SIGINT or SIGTERM drains, the second one ends at
once. The admin server is handed in, because `admin` stands above this module.
"""

import asyncio
import json
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import Any

from tidegate import engine
from tidegate.control import wording
from tidegate.control.logs import Bridge, Log
from tidegate.control.state import Admin, AdminServer, LogOptions, Role, State

__all__ = ["run"]

CLEAN, FAILED = 0, 1

# The engine keeps the grace period itself; this much later we no longer believe that it will.
ENGINE_LATE = 5.0


def run(
    role: str,
    snapshot: bytes,
    *,
    admin: Admin | None,
    log: LogOptions,
    grace_period: float,
    source: str,
    describe: dict[str, Any],
    open_admin: Callable[[Admin], AdminServer],
    start: Callable[[bytes, str], Role] = engine.start,
) -> int:
    """
    Runs a role until it ends and returns the exit code.

    `source` names the configuration that is in force, `describe` is added to the start event. Raises what `start` and
    `open_admin` raise: a snapshot or an address that will not do.
    """

    async def main() -> int:
        with closing(open_admin(admin)) if admin is not None else nullcontext() as server:
            running = Running(start(snapshot, log.level), role, json.loads(snapshot), written, grace_period)
            with running.signals():
                running.announce(source, describe, server.addresses if server is not None else [])
                async with server.serve(running.state) if server is not None else nullcontext():
                    return await running.until_end()

    written = Log(log)
    bridge = Bridge(written)
    logging.getLogger().addHandler(bridge)
    try:
        return asyncio.run(main())
    finally:
        logging.getLogger().removeHandler(bridge)


class Running:
    """A role that runs: what its events and our signals lead to."""

    def __init__(self, role: Role, kind: str, snapshot: dict[str, Any], log: Log, grace: float) -> None:
        self.state = State(role, kind)
        self._role = role
        self._snapshot = snapshot
        self._offers = {offer.get("name"): offer for offer in snapshot.get("endpoints", [])}
        self._log = log
        self._grace = grace
        self._first_signal: int | None = None
        self._told: dict[str, str] = {}
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Makes SIGINT and SIGTERM ours, and leaves nothing of the role running afterwards."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            self._loop.add_signal_handler(number, self.on_signal, number)
        try:
            yield
        finally:
            for number in numbers:
                self._loop.remove_signal_handler(number)
            self._role.stop()

    def announce(self, source: str, describe: dict[str, Any], admin_addresses: list[str]) -> None:
        """Says what runs with which configuration, and warns of what strangers reach."""
        version = str(self._snapshot.get("version", ""))
        fields = {"role": self.state.kind, "version": version, "configuration": source, **describe}
        self._log.say("info", "started", wording.started(self.state.kind, version, source), **fields)
        for address in admin_addresses:
            event = {"listener": "admin", "kind": "admin", "address": address}
            self._log.say("info", "listening", wording.listening(event), **event)
        for found in wording.exposed(self._snapshot, admin_addresses):
            fields = {"listener": found.listener, "port": found.port, "detail": found.sentence}
            self._log.say("warn", "no authentication", found.sentence, **fields)

    async def until_end(self) -> int:
        """Writes events until the role has ended; the exit code."""
        async with asyncio.TaskGroup() as tasks:
            events = tasks.create_task(self._pump(), name="events")
            code = await self._ended
            events.cancel()
        return code

    async def _pump(self) -> None:
        while not self._ended.done():
            event = await self._role.next_event()
            self._log.event(event, self._sentence(event))
            self._act(event)
            # A flood of events must not hold up signals and the admin listener.
            await asyncio.sleep(0)

    def _act(self, event: dict[str, Any]) -> None:
        match event.get("event"):
            case "stopped":
                if self._first_signal is None:
                    self._log.say("error", "ended by itself", "the engine ended without being asked to")
                    self._end(FAILED)
                else:
                    self._end(CLEAN if event.get("clean", True) else FAILED)
            case "refused":
                reason = self.state.refused_for_good()
                if reason is not None:
                    self._log.say("error", "giving up", f"giving up: every tunnel was refused: {reason}", reason=reason)
                    self._end(FAILED)

    def _sentence(self, event: dict[str, Any]) -> str | None:
        match event.get("event"):
            case "listening":
                return wording.listening(event)
            case "connected" if event.get("endpoint") in self._offers:
                return self._news(event, wording.arrow(event, self._offers[event["endpoint"]]))
            case "disconnected" if event.get("endpoint") in self._offers:
                return self._news(event, wording.disconnected(event))
            case "draining":
                return wording.draining(event, self._first_signal == signal.SIGINT, self._grace)
            case "service unreachable":
                return wording.service_unreachable(event)
            case "service unhealthy" if event.get("endpoint") in self._offers:
                # So that the tunnels that come up after this are told.
                return self._news(event, wording.unhealthy(event))
            case "service healthy":
                return ""
            case "refused":
                return wording.refused(event)
        return None

    def _news(self, event: dict[str, Any], sentence: str) -> str:
        """The sentence, or none: each of several tunnels of an endpoint says the same, and says it at every attempt."""
        told = self._told.get(event["endpoint"])
        self._told[event["endpoint"]] = sentence
        return "" if told == sentence else sentence

    def on_signal(self, number: int) -> None:
        """Drains at the first signal and ends at the second."""
        if self._ended.done():
            return
        if self._first_signal is not None:
            self._role.stop()
            self._log.say("warn", "stopped at once", signal=signal.Signals(number).name)
            self._end(128 + number)
            return
        self._first_signal = number
        self.state.draining = True
        self._role.drain(self._grace)
        self._loop.call_later(self._grace + ENGINE_LATE, self._too_late)

    def _too_late(self) -> None:
        if not self._ended.done():
            sentence = f"the engine did not end within {self._grace:g} s; stopping it"
            self._log.say("error", "drain overdue", sentence, grace=self._grace)
            self._end(FAILED)

    def _end(self, code: int) -> None:
        if not self._ended.done():
            self._ended.set_result(code)
