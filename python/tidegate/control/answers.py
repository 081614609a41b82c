"""
Answers the engine's one question: is this credential good, and for what?

Flow: two threads wait in the engine for questions, one for tokens and certificates, one for passwords, whose hashes
take their time. What each is good for is `auth.credentials`'s to say, now or on the thread that fetches a key. When
another configuration is in force, what only the one before believed ends.
"""

import contextlib
import json
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from tidegate.auth.verdict import Unavailable, Verdict
from tidegate.control.background import yield_to_others
from tidegate.control.logs import Log
from tidegate.errors import EngineError

if TYPE_CHECKING:  # a gateway that asks for nothing has no use for what checks it
    from tidegate.auth.credentials import Credentials

__all__ = ["Answers", "Asking"]

WAIT = 1.0
"""Keys that are fetched are tended so often while nobody asks, and a thread ends within so long."""


class Asking(Protocol):
    """A running gateway, as far as it asks."""

    def next_question(self, kind: str, timeout: float) -> dict[str, Any] | None:
        """Waits for the next question; none where there was none in time, or there will be none any more."""
        ...

    def answer(self, number: int, verdict: bytes) -> None:
        """Answers a question."""
        ...

    def revoke(self, keys: Collection[str]) -> int:
        """Ends what these keys have verified."""
        ...


class Answers:
    """Who answers the questions of a running gateway."""

    def __init__(self, role: Asking, log: Log) -> None:
        self._role = role
        self._log = log
        self._credentials: Credentials | None = None
        self._expected: Credentials | None = None
        self._threads: list[threading.Thread] = []
        self._told: set[str] = set()
        self._ended = threading.Event()

    def expect(self, credentials: "Credentials | None") -> None:
        """Says what is going to be believed: the engine asks by a new configuration as soon as it is in force."""
        self._expected = credentials
        if credentials is not None:
            self._start()

    def believe(self, credentials: "Credentials | None") -> None:
        """Answers by these from now on. What keys have verified that are not among them ends."""
        before, self._credentials = self._credentials, credentials
        if credentials is not None:
            credentials.on_change(self._changed)
            self._start()
        if before is not None:
            self._changed(before.key_ids() - (credentials.key_ids() if credentials is not None else frozenset()))

    @contextmanager
    def until_end(self) -> Iterator[None]:
        """Ends the threads with the context, after the role."""
        try:
            yield
        finally:
            self._ended.set()
            for thread in self._threads:
                thread.join()

    def _start(self) -> None:
        for kind in ("token", "password") if not self._threads else ():
            thread = threading.Thread(target=self._answer_all, args=(kind,), name=f"{kind}s", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _answer_all(self, kind: str) -> None:
        # A flood of forged credentials is to be a burden to this thread, not to those that carry traffic.
        yield_to_others()
        while not self._ended.is_set():
            try:
                question = self._role.next_question(kind, WAIT)
                if question is not None:
                    self._answer(question)
                if kind == "token" and self._credentials is not None:
                    self._credentials.tend()
                    self._tell(self._credentials)
            except Exception as error:
                # Without this thread nobody would be let in any more.
                self._mistake(error)
                self._ended.wait(WAIT)

    def problems(self) -> list[str]:
        """What an operator should look at."""
        return self._credentials.problems() + self._credentials.lacks() if self._credentials is not None else []

    def _tell(self, credentials: "Credentials") -> None:
        """Says what cannot be fetched or holds nothing any more, and that all is well again, once each."""
        problems, lacks = set(credentials.problems()), set(credentials.lacks())
        for each in sorted(problems - self._told):
            self._log.say("warn", "keys not fetched", f"{each} (the last good ones count)", reason=each)
        for each in sorted(lacks - self._told):
            self._log.say("warn", "keys all withdrawn", each, reason=each)
        if self._told and not problems | lacks:
            self._log.say("info", "keys fetched again", "all keys could be fetched again")
        self._told = problems | lacks

    def _answer(self, question: dict[str, Any]) -> None:
        number, name = question["number"], question["set"]
        asked = [each for each in (self._credentials, self._expected) if each is not None and name in each]

        def done(verdict: Verdict) -> None:
            # The role may have ended, or nobody waits any more.
            with contextlib.suppress(EngineError):
                self._role.answer(number, json.dumps(verdict.as_verdict()).encode())

        try:
            if asked:
                asked[0].answer(question, done)
            else:
                done(Unavailable("the configuration has changed"))
        except Exception as error:
            # A mistake of ours is nobody's permission, and must not end the thread. What was asked is a secret.
            self._mistake(error)
            done(Unavailable("a mistake of ours"))

    def _mistake(self, error: Exception) -> None:
        self._log.say("error", "credential not judged", f"a mistake of ours: {error!r}", reason=repr(error))

    def _changed(self, keys: Collection[str]) -> None:
        ended = self._role.revoke(sorted(keys))
        if keys:
            known = ", ".join(sorted(keys))
            sentence = f"{known}: no longer believed" + (f", which ends {ended} credentials" if ended else "")
            self._log.say("info", "keys removed", sentence, keys=sorted(keys), ended=ended)
