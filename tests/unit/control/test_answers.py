"""Who answers the engine's questions goes on, whatever happens."""

import io
import json
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

import pytest

from tests.support.process import until
from tidegate.auth.credentials import Credentials
from tidegate.auth.verdict import Granted, Verdict
from tidegate.control import answers
from tidegate.control.answers import Answers
from tidegate.control.logs import Log
from tidegate.control.state import LogOptions

QUESTION = {"number": 7, "kind": "token", "set": "main/1", "token": "x"}


class Asks:
    """A role with one question, which may fail before it asks."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.left = [QUESTION]
        self.answered: list[int] = []

    def next_question(self, kind: str, timeout: float) -> dict[str, Any] | None:
        if kind == "password":
            threading.Event().wait(0.01)
            return None
        if self.failures:
            self.failures -= 1
            raise RuntimeError("no question")
        return self.left.pop() if self.left else None

    def answer(self, number: int, verdict: bytes) -> None:
        self.answered.append(number)

    def revoke(self, keys: Collection[str]) -> int:
        return 0


class Believed:
    """Credentials whose keys cannot be tended."""

    def __init__(self) -> None:
        self.tended = 0

    def __contains__(self, name: object) -> bool:
        return name == "main/1"

    def answer(self, question: Mapping[str, Any], done: Callable[[Verdict], None]) -> None:
        done(Granted("main/key"))

    def tend(self) -> None:
        self.tended += 1
        raise RuntimeError("no thread")

    def on_change(self, told: object) -> None: ...

    def problems(self) -> list[str]:
        return []

    def lacks(self) -> list[str]:
        return []


class Troubled(Believed):
    """Credentials whose keys are in trouble, as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: list[str] = []
        self.withdrawn: list[str] = []

    def tend(self) -> None:
        self.tended += 1

    def problems(self) -> list[str]:
        return self.failing

    def lacks(self) -> list[str]:
        return self.withdrawn


def test_a_failure_does_not_end_the_thread_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "WAIT", 0.01)
    stream = io.StringIO()
    role, believed = Asks(failures=2), Believed()
    asked = Answers(role, Log(LogOptions(format="json"), stream))
    with asked.until_end():
        asked.believe(cast("Credentials", believed))
        until(lambda: role.answered == [7], "the question is answered")
        until(lambda: believed.tended > 1, "keys are tended again")
    assert stream.getvalue().count("credential not judged") >= 3


def test_keys_that_cannot_be_fetched_and_keys_that_are_withdrawn_are_told_apart_and_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answers, "WAIT", 0.01)
    stream = io.StringIO()
    believed = Troubled()
    asked = Answers(Asks(failures=0), Log(LogOptions(format="json"), stream))

    def said() -> list[tuple[str, str]]:
        lines = map(json.loads, stream.getvalue().splitlines())
        return [(line["event"], line["reason"]) for line in lines if line.get("reason")]

    with asked.until_end():
        asked.believe(cast("Credentials", believed))
        believed.failing = ["a: away"]
        until(lambda: len(said()) == 1, "the outage is told")
        believed.failing, believed.withdrawn = [], ["a: no key"]
        until(lambda: len(said()) == 2, "the withdrawal is told")
        assert asked.problems() == ["a: no key"]
        tended = believed.tended
        until(lambda: believed.tended > tended + 2, "time passes")
        assert "keys fetched again" not in stream.getvalue()
        believed.withdrawn = []
        until(lambda: "keys fetched again" in stream.getvalue(), "all is well")
    assert said() == [("keys not fetched", "a: away"), ("keys all withdrawn", "a: no key")]
