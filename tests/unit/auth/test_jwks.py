"""Sets of keys that change, under a clock of the test's own; over HTTPS they are in `test_jwks_over_https`."""

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tests.unit.auth.making import NOW, jwk, jwks, signed, verifiers
from tidegate.auth.jwks import WAIT, Jwks, file_fetch
from tidegate.auth.keys import LARGEST_SET
from tidegate.auth.verdict import INVALID, Granted, Refused, Unavailable, Verdict
from tidegate.auth.verify import Verifier
from tidegate.errors import ConfigError

GOOD = {"exp": NOW + 60, "tidegate": {"endpoints": ["web"]}}


class Source:
    """A source of keys whose fetches begin when they are asked for and end when the test says so."""

    def __init__(self, *members: Any, **times: Any) -> None:
        self.body: bytes | Exception = jwks(*members)
        self.now = 0.0
        self.fetched = 0
        self.held = False
        self.begun: list[Callable[[], None]] = []
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.gone: list[str] = []
        self.keys = Jwks("main", self._fetch, clock=lambda: self.now, start=self._start, after=self._after, **times)
        self.keys.changed = self.gone.extend
        self.keys.load()

    def _fetch(self) -> bytes:
        self.fetched += 1
        if isinstance(self.body, Exception):
            raise self.body
        return self.body

    def _start(self, run: Callable[[], None]) -> None:
        if self.held:
            self.begun.append(run)
        else:
            run()

    def _after(self, seconds: float, run: Callable[[], None]) -> None:
        self.later.append((seconds, run))

    def publish(self, *members: Any) -> None:
        """From now on these are the keys."""
        self.body = jwks(*members)

    def found(self, kid: str | None) -> list[str | None]:
        """The names of the keys for a token, after whatever has to be waited for."""
        keys = self.keys.find(kid, wait=True)
        if isinstance(keys, Future):
            assert keys.done()
            keys = self.keys.find(kid, wait=False)
        assert not isinstance(keys, Future)
        return [key.kid for key in keys]

    def ask(self, token: str) -> Verdict:
        """What a verifier with these keys says."""
        return verifiers(Verifier("main", self.keys)).verify(token)


def test_a_key_is_found_by_its_name() -> None:
    source = Source(jwk("ES256", kid="a"), jwk("EdDSA", kid="b"))
    assert source.found("a") == ["a"]
    assert source.found(None) == ["a", "b"]
    assert isinstance(source.ask(signed("ES256", GOOD, kid="a")), Granted)
    assert isinstance(source.ask(signed("ES256", GOOD)), Granted)
    assert isinstance(source.ask(signed("ES256", GOOD, kid="b")), Refused)
    assert source.fetched == 1


def test_a_key_without_a_name_stands_for_tokens_of_any() -> None:
    source = Source(jwk("ES256"), jwk("EdDSA", kid="b"))
    assert source.found("x") == [None]


def test_keys_are_fetched_again_before_they_are_too_old_and_nobody_waits() -> None:
    source = Source(jwk("ES256", kid="a"), refresh=300)
    source.held = True
    source.now = 299
    source.keys.tend()
    assert source.begun == []
    source.now = 300
    assert source.found("a") == ["a"]
    assert source.found("a") == ["a"]
    assert len(source.begun) == 1
    source.begun.pop()()
    assert source.fetched == 2
    source.now = 599
    source.keys.tend()
    assert source.begun == []


def test_case_34_a_key_that_is_removed_is_told_and_finds_nobody() -> None:
    source = Source(jwk("ES256", kid="a"), jwk("EdDSA", kid="b"), refresh=300, retry=30)
    removed = next(key.id for key in source.keys._set.keys if key.kid == "a")
    source.publish(jwk("EdDSA", kid="b"))
    source.now = 300
    source.keys.tend()
    assert source.gone == [removed]
    verdict = source.ask(signed("ES256", GOOD, kid="a"))
    assert isinstance(verdict, Refused)
    assert verdict.code == INVALID


def test_a_key_that_comes_is_told_too() -> None:
    source = Source(jwk("ES256", kid="a"), refresh=300)
    told: list[list[str]] = []
    source.keys.changed = lambda gone: told.append(list(gone))
    source.now = 300
    source.keys.tend()
    assert told == []
    source.publish(jwk("ES256", kid="a"), jwk("EdDSA", kid="b"))
    source.now = 600
    source.keys.tend()
    assert told == [[]]


def test_case_34_an_outage_keeps_the_last_good_keys_until_they_are_too_old() -> None:
    source = Source(jwk("ES256", kid="a"), refresh=300, retry=30, max_stale=1000)
    source.body = ValueError("away")
    for source.now in (300, 400, 1000):
        assert isinstance(source.ask(signed("ES256", GOOD, kid="a")), Granted)
    source.now = 1001
    verdict = source.ask(signed("ES256", GOOD, kid="a"))
    assert verdict == Unavailable("main: away")
    assert source.gone == []
    source.publish(jwk("ES256", kid="a"))
    source.now = 1031
    assert isinstance(source.ask(signed("ES256", GOOD, kid="a")), Granted)


def test_while_fetching_fails_it_is_tried_once_an_interval() -> None:
    source = Source(jwk("ES256", kid="a"), refresh=300, retry=30)
    source.body = ValueError("away")
    for second in range(300, 400):
        source.now = second
        source.keys.tend()
    assert source.fetched == 1 + 4
    assert source.keys.problem == "away"


def test_a_refresh_that_is_due_waits_for_nothing_and_another_try_after_a_failure_does() -> None:
    source = Source(jwk("ES256", kid="a"), refresh=10, retry=30)
    for source.now in range(1, 101):
        source.keys.tend()
    assert source.fetched == 1 + 10
    source.body = ValueError("away")
    for source.now in range(101, 200):
        source.keys.tend()
    assert source.fetched == 1 + 10 + 3  # at 110, 140 and 170
    source.publish(jwk("ES256", kid="a"))
    for source.now in range(200, 231):
        source.keys.tend()
    assert source.fetched == 1 + 10 + 3 + 4


def test_refreshes_that_come_often_do_not_keep_an_unknown_key_from_being_fetched() -> None:
    source = Source(jwk("ES256", kid="a"), refresh=10, retry=30)
    for source.now in (10, 20, 30):
        source.keys.tend()
    source.publish(jwk("ES256", kid="b", which=1))
    source.now = 31
    assert source.found("b") == ["b"]
    assert source.found("x") == []
    assert source.fetched == 5
    # The next refresh may bring it, long before a token may cause another fetch.
    assert source.keys.patience() == 10
    for source.now in (41, 52, 60):
        assert source.found("x") == []
    assert source.fetched == 7
    source.now = 61
    assert source.found("x") == []
    assert source.fetched == 8


@pytest.mark.parametrize(
    "wrong", [b"<html>", b"", b"{}", b"{" + b" " * (10 << 20) + b"}", jwks(*[{}] * 201)], ids=range(5)
)
def test_case_34_wrong_content_keeps_the_last_good_keys(wrong: bytes) -> None:
    source = Source(jwk("ES256", kid="a"), refresh=300)
    source.body = wrong
    source.now = 300
    assert source.found("a") == ["a"]
    assert source.fetched == 2
    assert source.found("a") == ["a"]
    assert source.gone == []


@pytest.mark.parametrize(
    "members", [[], [jwk("ES256", kid="a", use="enc")], [{"kty": "RSA", "kid": "a"}]], ids=range(3)
)
def test_case_34_a_set_without_a_good_key_takes_the_place_of_the_one_before(members: list[Any]) -> None:
    source = Source(jwk("ES256", kid="a"), refresh=300)
    before = source.keys.ids()
    source.publish(*members)
    source.now = 300
    source.keys.tend()
    assert source.gone == sorted(before)
    assert source.keys.ids() == frozenset()
    for kid in ("a", None):
        verdict = source.ask(signed("ES256", GOOD, kid=kid))
        assert isinstance(verdict, Refused)
        assert verdict.code == INVALID
    assert source.keys.problem is None
    assert source.keys.lack is not None
    assert source.keys.lack.startswith("holds no key that verifies signatures")
    source.publish(jwk("ES256", kid="a"))
    source.now = 600
    assert isinstance(source.ask(signed("ES256", GOOD, kid="a")), Granted)
    assert source.keys.lack is None


@pytest.mark.parametrize("members", [[], [jwk("ES256", use="enc")]], ids=range(2))
def test_case_34_a_set_without_a_good_key_is_a_mistake_at_the_start(members: list[Any]) -> None:
    with pytest.raises(ConfigError, match=r"^verifiers\.main\.jwks: k\.json: holds no key that verifies signatures"):
        Jwks("main", lambda: jwks(*members), place="k.json").load()


def test_an_unknown_key_is_fetched_and_waited_for() -> None:
    source = Source(jwk("ES256", kid="a"), retry=30)
    source.publish(jwk("ES256", kid="a"), jwk("ES256", kid="b", which=1))
    source.now = 30
    assert isinstance(source.ask(signed("ES256", GOOD, kid="b", which=1)), Granted)
    assert source.fetched == 2


def test_case_34_a_storm_of_unknown_keys_causes_one_fetch_an_interval() -> None:
    source = Source(jwk("ES256", kid="a"), retry=30)
    source.now = 30
    for number in range(1000):
        verdict = source.ask(signed("EdDSA", GOOD, kid=f"k{number}"))
        assert isinstance(verdict, Refused)
        assert verdict.code == INVALID
        assert verdict.keep <= 30
    assert source.fetched == 2
    source.now = 60
    source.found("x")
    assert source.fetched == 3


def test_an_unknown_key_while_fetching_fails_is_nobodys_fault() -> None:
    source = Source(jwk("ES256", kid="a"), retry=30)
    source.body = ValueError("away")
    source.now = 30
    assert isinstance(source.ask(signed("EdDSA", GOOD, kid="x")), Unavailable)
    assert isinstance(source.ask(signed("EdDSA", GOOD, kid="x")), Unavailable)
    assert isinstance(source.ask(signed("ES256", GOOD, kid="a")), Granted)
    assert source.fetched == 2


def waiting(many: int) -> tuple[Source, list[Verdict]]:
    """A source whose fetch goes on, and what was told to so many who show a key that only it may bring."""
    source = Source(jwk("ES256", kid="a"), retry=30)
    source.held = True
    source.now = 30
    told: list[Verdict] = []
    asked = verifiers(Verifier("main", source.keys))
    for _ in range(many):
        asked.answer(signed("EdDSA", GOOD, kid="x"), "", told.append)
    return source, told


def test_nobody_waits_longer_than_five_seconds() -> None:
    source, told = waiting(3)
    assert told == []
    [(seconds, give_up)] = source.later
    assert seconds == WAIT
    give_up()
    assert [type(each) for each in told] == [Unavailable] * 3
    # Who comes later does not wait for a fetch that takes too long already.
    assert isinstance(source.ask(signed("EdDSA", GOOD, kid="x")), Unavailable)
    assert isinstance(source.ask(signed("ES256", GOOD, kid="a")), Granted)
    source.publish(jwk("EdDSA", kid="x"))
    source.begun.pop()()
    assert isinstance(source.ask(signed("EdDSA", GOOD, kid="x")), Granted)
    assert len(told) == 3


def test_who_comes_during_a_refresh_waits_for_the_rest_of_the_five_seconds() -> None:
    source = Source(jwk("ES256", kid="a"), refresh=300)
    source.held = True
    source.now = 300
    source.keys.tend()
    source.now = 302
    found = source.keys.find("x", wait=True)
    assert isinstance(found, Future)
    assert source.later[0][0] == WAIT - 2
    source.begun.pop()()
    assert found.done()


def test_the_memory_of_those_who_wait_is_bounded() -> None:
    _, told = waiting(1003)
    assert told == [Unavailable("main: too many wait for its keys")] * 3


def test_a_fetch_that_never_ends_does_not_end_fetching() -> None:
    source = Source(jwk("ES256", kid="a"), refresh=300)
    source.held = True
    source.now = 300
    source.keys.tend()
    source.now = 359
    source.keys.tend()
    assert len(source.begun) == 1
    source.now = 360
    source.keys.tend()
    assert len(source.begun) == 2
    source.publish(jwk("ES256", kid="b"))
    source.begun[1]()
    assert source.found("b") == ["b"]
    source.publish(jwk("ES256", kid="c"))
    source.begun[0]()  # it comes too late to count
    assert source.found("b") == ["b"]


def test_keys_that_cannot_be_had_at_the_start_are_a_mistake() -> None:
    def fetch() -> bytes:
        raise ValueError("https://id/jwks: answers 404")

    with pytest.raises(ConfigError, match=r"verifiers\.main\.jwks: https://id/jwks: answers 404"):
        Jwks("main", fetch).load()


def test_a_file_is_read_like_anything_else(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    with pytest.raises(ValueError, match="cannot read it: no such file"):
        file_fetch(str(file))()
    file.write_bytes(jwks(jwk("ES256")))
    assert file_fetch(str(file))() == file.read_bytes()
    file.write_bytes(b" " * (LARGEST_SET + 10))
    assert len(file_fetch(str(file))()) == LARGEST_SET + 1


def test_who_is_told_of_changes_cannot_stop_who_waits() -> None:
    source = Source(jwk("ES256", kid="a"), retry=30)

    def broken(_: object) -> None:
        raise RuntimeError

    source.keys.changed = broken
    source.held = True
    source.now = 30
    waiting = source.keys.find("x", wait=True)
    assert isinstance(waiting, Future)
    source.publish(jwk("EdDSA", kid="x"))
    with pytest.raises(RuntimeError):
        source.begun.pop()()
    assert waiting.done()
    assert source.found("x") == ["x"]
