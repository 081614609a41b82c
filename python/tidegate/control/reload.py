"""
Puts a new configuration in force while the role runs: whole, or not at all and with every reason.

Flow: a file looks different and then stays as it is for a moment, or somebody asks by SIGHUP or through the admin
listener; everything is read again on a thread; what takes a restart is refused; the engine applies it, on that thread
too; then Python's own part follows, for which nothing is refused any more. One reload at a time.
"""

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tidegate.config.looks import Looks, differing, look
from tidegate.control import wording
from tidegate.control.background import Background
from tidegate.control.changes import changes, needs_restart
from tidegate.control.logs import Log
from tidegate.control.state import Configuration, Outcome, Role
from tidegate.errors import ConfigError, EngineError, TidegateError, without_userinfo

__all__ = ["Again", "Reloads", "metrics"]

INTERVAL = 0.5
"""How often files are looked at."""
QUIET = 0.5
"""A file that has changed is read when it has looked the same for so long: it may be half written."""
LONGEST_WAIT = 3.0
"""A file that never stays the same is read after so long all the same."""
MOST_READS = 5
"""What changes while it is read is read again, so often at most."""

Again = Callable[[Looks], Configuration]
Prepare = Callable[[Configuration], Callable[[], None]]


@dataclass(frozen=True)
class _Fresh:
    """A configuration that has been read and can be put in force."""

    configuration: Configuration
    snapshot: dict[str, Any]
    hash: str
    changes: dict[str, Any]
    commit: Callable[[], None]
    """Puts Python's part of it in force, which does not fail unless by a mistake of ours."""


class _RacedError(ConfigError):
    """Files changed while they were read: what was read may belong to no configuration that anybody wrote."""


class Reloads:
    """The configuration of a running role, and whatever becomes of it."""

    def __init__(
        self,
        role: Role,
        kind: str,
        configuration: Configuration,
        log: Log,
        *,
        again: Again | None = None,
        files: Looks | None = None,
        prepare: Prepare = lambda _: lambda: None,
    ) -> None:
        self.configuration = configuration
        self.snapshot: dict[str, Any] = json.loads(configuration.snapshot)
        self.hash = _hash(configuration)
        self.since = time.time()
        self.counts = {"applied": 0, "refused": 0}
        self.last_refused: Outcome | None = None
        self.pending = False
        """The last reload was refused: what is in force is not what is written."""
        self.closed = False
        """The role is leaving, and takes nothing new."""
        self._role = role
        self._kind = kind
        self._log = log
        self._again = again
        self._files: Looks = dict(files or {})
        self._prepare = prepare
        self._background = Background("reload")
        self._one = asyncio.Lock()
        self._asked = asyncio.Event()

    def close(self) -> None:
        """Ends the thread that reads; for when the role has ended."""
        self._background.close()

    def ask(self) -> None:
        """Asks for a reload, as SIGHUP does; what becomes of it is said in the log."""
        self._asked.set()

    async def watch(self) -> None:
        """Reloads whenever a file has changed or somebody has asked, until it is cancelled."""
        while True:
            if await self._was_asked():
                await self.reload("signal")
            elif bool(self._files) and await self._background.run(differing, self._files):
                await self._until_quiet()
                await self.reload("file")

    async def reload(self, trigger: str) -> Outcome:
        """Reads everything again and puts it in force, or changes nothing."""
        async with self._one:
            begun, clock = time.time(), time.monotonic()
            files: Looks = {}
            try:
                fresh = await self._read(files)
                if trigger == "file" and not self.pending and fresh.configuration == self.configuration:
                    self._files = files
                    return Outcome(trigger, begun, time.monotonic() - clock)
                await self._background.run(self._role.apply, fresh.configuration.snapshot)
            except Exception as error:
                # Whatever it is, the role goes on with what it has.
                self._files = {name: look(name) for name in self._files} | dict(files)
                return self._refused(Outcome(trigger, begun, time.monotonic() - clock, reasons=_reasons(error)))
            self.configuration, self.snapshot, self.hash = fresh.configuration, fresh.snapshot, fresh.hash
            self._files, self.since = files, time.time()
            return self._applied(Outcome(trigger, begun, time.monotonic() - clock, fresh.changes), fresh.commit)

    def status(self) -> dict[str, Any]:
        """What is in force and since when, and what was refused last."""
        refused = self.last_refused
        return {
            "source": self.configuration.source,
            "since": self.since,
            "hash": self.hash,
            "in_force": not self.pending,
            "reloads": dict(self.counts),
            "last_refused": refused
            and {
                "at": refused.at,
                "trigger": refused.trigger,
                "reasons": list(refused.reasons),
            },
            "files": sorted(self._files) if self._again is not None else [],
        }

    def problems(self) -> list[str]:
        """What an operator should look at."""
        if not self.pending or self.last_refused is None:
            return []
        return [f"the last configuration was refused, the one before is in force: {self.last_refused.reasons[0]}"]

    def metrics(self) -> bytes:
        """What became of new configurations, in Prometheus' text format."""
        if self._again is None:
            return b""
        return metrics(self.counts["applied"], self.counts["refused"], self.since)

    async def _was_asked(self) -> bool:
        try:
            async with asyncio.timeout(INTERVAL):
                await self._asked.wait()
        except TimeoutError:
            return False
        self._asked.clear()
        return True

    async def _until_quiet(self) -> None:
        end = time.monotonic() + LONGEST_WAIT
        while time.monotonic() < end:
            before = {name: look(name) for name in self._files}
            await asyncio.sleep(QUIET)
            if not await self._background.run(differing, before):
                return

    async def _read(self, files: Looks) -> "_Fresh":
        for _ in range(MOST_READS - 1):
            with contextlib.suppress(_RacedError):
                return await self._background.run(self._fresh, files)
            await asyncio.sleep(QUIET)
            files.clear()
        return await self._background.run(self._fresh, files)

    def _fresh(self, files: Looks) -> "_Fresh":
        """What is written now, ready to be put in force. Long for thousands of routes."""
        if self.closed:
            raise EngineError(f"this {self._kind} is leaving, and takes no new configuration")
        if self._again is None:
            raise ConfigError(f"this {self._kind} takes a new configuration when it is started again")
        read = self._again(files)
        raced = [name for name, before in files.items() if look(name) != before]
        if raced:
            raise _RacedError([f"{name}: was changed while it was read" for name in raced])
        snapshot: dict[str, Any] = json.loads(read.snapshot)
        restart = [*needs_restart(self.snapshot, snapshot), *_needs_restart(self.configuration, read)]
        if restart:
            raise ConfigError(restart)
        before = {**self.snapshot, **_not_the_engines(self.configuration)}
        different = changes(before, {**snapshot, **_not_the_engines(read)})
        return _Fresh(read, snapshot, _hash(read), different, self._prepare(read))

    def _applied(self, outcome: Outcome, commit: Callable[[], None]) -> Outcome:
        self.counts["applied"] += 1
        self.pending = False
        fields = {
            "source": self.configuration.source,
            "trigger": outcome.trigger,
            "seconds": outcome.seconds,
            "changes": outcome.changes,
        }
        try:
            commit()
            self._log.say("info", "configuration applied", wording.applied(fields), **fields)
        except Exception as error:
            # The engine has it in force already: the role goes on with that.
            reason = "; ".join(_reasons(error))
            self._log.say("error", "configuration half applied", source=fields["source"], reason=reason)
        return outcome

    def _refused(self, outcome: Outcome) -> Outcome:
        self.counts["refused"] += 1
        self.last_refused = outcome
        self.pending = self._again is not None and not self.closed
        fields = {
            "source": self.configuration.source,
            "trigger": outcome.trigger,
            "seconds": outcome.seconds,
            "reasons": list(outcome.reasons),
        }
        self._log.say("error", "configuration refused", wording.not_applied(fields), **fields)
        return outcome


def metrics(applied: int, refused: int, since: float) -> bytes:
    """The metrics of reloads, in Prometheus' text format."""
    return (
        "# HELP tidegate_config_reloads_total New configurations, by what became of them.\n"
        "# TYPE tidegate_config_reloads_total counter\n"
        f'tidegate_config_reloads_total{{result="applied"}} {applied}\n'
        f'tidegate_config_reloads_total{{result="refused"}} {refused}\n'
        "# HELP tidegate_config_last_applied_seconds When the configuration in force was applied, seconds since 1970.\n"
        "# TYPE tidegate_config_last_applied_seconds gauge\n"
        f"tidegate_config_last_applied_seconds {since:.3f}\n"
    ).encode()


def _hash(configuration: Configuration) -> str:
    return hashlib.sha256(configuration.snapshot).hexdigest()[:16]


def _not_the_engines(configuration: Configuration) -> dict[str, Any]:
    """What people may change besides the snapshot, by its key."""
    return {
        "grace_period": configuration.grace_period,
        "log.level": configuration.log.level,
        "admin.hosts": configuration.admin and configuration.admin.hosts,
        "admin.tls": configuration.admin and configuration.admin.tls,
    }


def _reasons(error: Exception) -> tuple[str, ...]:
    if isinstance(error, ConfigError):
        return error.mistakes
    if isinstance(error, TidegateError):
        return (without_userinfo(str(error)),)
    return (without_userinfo(f"a mistake of ours: {error!r}"),)


def _needs_restart(before: Configuration, after: Configuration) -> list[str]:
    sentences = []
    bound, wanted = (each.admin.bind if each.admin else "none" for each in (before, after))
    if bound != wanted:
        sentences.append(f"admin.bind: {bound} is bound, and {wanted} takes a restart")
    if before.log.format != after.log.format:
        sentences.append(f"log.format: {after.log.format} takes a restart")
    return sentences
