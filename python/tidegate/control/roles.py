"""
Runs one role from its start to its end: the engine, its events, the signals, the exit code.

Flow: the admin listener and the engine's listeners are bound, the start line says which configuration is in force,
then events are written until the engine says `stopped`. The first SIGINT or SIGTERM drains, the second one ends at
once; SIGHUP asks for the configuration to be read again, which is `reload`'s. The admin server is handed in, because
`admin` stands above this module.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import Any

from tidegate import engine
from tidegate.config.looks import Looks
from tidegate.control import wording
from tidegate.control.answers import Answers
from tidegate.control.logs import Bridge, Log
from tidegate.control.reload import Again, Reloads
from tidegate.control.state import Admin, AdminServer, Configuration, Role, State
from tidegate.control.tokens import Renewal, TokenSource

__all__ = ["run"]

CLEAN, FAILED = 0, 1

# The engine keeps the grace period itself; this much later we no longer believe that it will.
ENGINE_LATE = 5.0


def run(
    role: str,
    configuration: Configuration,
    *,
    describe: dict[str, Any],
    open_admin: Callable[[Admin], AdminServer],
    start: Callable[[bytes, str], Role] = engine.start,
    again: Again | None = None,
    files: Looks | None = None,
    token: TokenSource | None = None,
) -> int:
    """
    Runs a role until it ends and returns the exit code.

    `describe` is added to the start event. `again` reads the configuration anew, `files` are those that it was read
    from. `token` is where an agent's or forward's token is read again. Raises what `start` and `open_admin` raise: a
    snapshot or an address that will not do.
    """
    admin = configuration.admin

    async def main() -> int:
        with closing(open_admin(admin)) if admin is not None else nullcontext() as server:
            started = start(configuration.snapshot, configuration.log.level)
            running = Running(
                started, role, configuration, log=written, admin=server, again=again, files=files, token=token
            )
            with running.answers.until_end(), running.signals():
                running.announce(describe)
                async with server.serve(running.state) if server is not None else nullcontext():
                    return await running.until_end()

    written = Log(configuration.log)
    bridge = Bridge(written)
    logging.getLogger().addHandler(bridge)
    try:
        return asyncio.run(main())
    finally:
        logging.getLogger().removeHandler(bridge)


class Running:
    """A role that runs: what its events and our signals lead to."""

    def __init__(
        self,
        role: Role,
        kind: str,
        configuration: Configuration,
        *,
        log: Log,
        admin: AdminServer | None = None,
        again: Again | None = None,
        files: Looks | None = None,
        token: TokenSource | None = None,
    ) -> None:
        self.state = State(role, kind)
        self._role = role
        self._log = log
        self._admin = admin
        self._reloads = Reloads(role, kind, configuration, log, again=again, files=files, prepare=self._prepare)
        self.state.reloads = self._reloads
        self._offers = {offer.get("name"): offer for offer in self._reloads.snapshot.get("endpoints", [])}
        shown = (self._reloads.snapshot.get("connect") or {}).get("token") or ""
        self._renewal = Renewal(token, shown, role.set_token, log) if token is not None else None
        self.answers = Answers(role, log)
        self.state.more_problems = self.answers.problems
        self._first_signal: int | None = None
        self._told: dict[str, str] = {}
        self._warned: set[wording.Exposed] = set()
        self._terminal = _has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Makes SIGINT, SIGTERM and SIGHUP ours, and leaves nothing of the role running afterwards."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in numbers:
            self._loop.add_signal_handler(number, self.on_signal, number)
        try:
            yield
        finally:
            for number in numbers:
                self._loop.remove_signal_handler(number)
            self._role.stop()
            self._reloads.close()

    def announce(self, describe: dict[str, Any]) -> None:
        """Says what runs with which configuration, and warns of what strangers reach."""
        source, version = self._reloads.configuration.source, str(self._reloads.snapshot.get("version", ""))
        fields = {"role": self.state.kind, "version": version, "configuration": source, **describe}
        self._log.say("info", "started", wording.started(self.state.kind, version, source), **fields)
        for address in self._admin.addresses if self._admin is not None else []:
            event = {"listener": "admin", "kind": "admin", "address": address}
            self._log.say("info", "listening", wording.listening(event), **event)
        self._warn(self._reloads.snapshot)
        self._believe(self._reloads.configuration)

    def _believe(self, configuration: Configuration) -> None:
        """Answers by these credentials from now on, and says what is unwise about them."""
        self.answers.believe(configuration.credentials)
        for each in configuration.credentials.warnings if configuration.credentials is not None else ():
            self._log.say("warn", "unwise credentials", each, detail=each)

    def _warn(self, snapshot: dict[str, Any]) -> None:
        """Warns of what strangers reach, once of each."""
        options = self._reloads.configuration.admin
        tls = options.tls if options is not None else None
        knows = options is not None and (options.auth is not None or (tls and tls.client_ca and tls.required))
        found = wording.exposed(snapshot, [] if self._admin is None or knows else self._admin.addresses)
        for each in found:
            if each not in self._warned:
                fields = {"listener": each.listener, "port": each.port, "detail": each.sentence}
                self._log.say("warn", "no authentication", each.sentence, **fields)
        self._warned = set(found)

    def _prepare(self, fresh: Configuration) -> Callable[[], None]:
        """Checks Python's part of a new configuration; what is returned puts it in force."""
        admin = self._admin.prepare(fresh.admin) if self._admin is not None and fresh.admin is not None else None
        self.answers.expect(fresh.credentials)

        def commit() -> None:
            if admin is not None:
                admin()
            self._log.set_level(fresh.log.level)
            self._role.set_level(fresh.log.level)
            self._believe(fresh)
            self._warn(self._reloads.snapshot)

        return commit

    async def until_end(self) -> int:
        """Writes events until the role has ended; the exit code."""
        async with asyncio.TaskGroup() as tasks:
            owned = [
                tasks.create_task(self._pump(), name="events"),
                tasks.create_task(self._reloads.watch(), name="reloads"),
            ]
            if self._renewal is not None:
                owned.append(tasks.create_task(self._renewal.watch(), name="token"))
            code = await self._ended
            for task in owned:
                task.cancel()
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
            case "nothing is allowed":
                return wording.nothing_allowed(event)
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
        """Drains at the first signal and ends at the second; SIGHUP is a reload."""
        if self._ended.done():
            return
        if number == signal.SIGHUP and not (self._terminal and not _has_terminal()):
            self._reloads.ask()
            return
        if self._first_signal is not None:
            self._role.stop()
            self._log.say("warn", "stopped at once", signal=signal.Signals(number).name)
            self._end(128 + number)
            return
        self._first_signal = number
        self.state.draining = self._reloads.closed = True
        self._role.drain(self._grace)
        self._loop.call_later(self._grace + ENGINE_LATE, self._too_late)

    @property
    def _grace(self) -> float:
        return self._reloads.configuration.grace_period

    def _too_late(self) -> None:
        if not self._ended.done():
            sentence = f"the engine did not end within {self._grace:g} s; stopping it"
            self._log.say("error", "drain overdue", sentence, grace=self._grace)
            self._end(FAILED)

    def _end(self, code: int) -> None:
        if not self._ended.done():
            self._ended.set_result(code)


def _has_terminal() -> bool:
    """Whether this process belongs to a terminal that is still there: its end is told by SIGHUP, too."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
