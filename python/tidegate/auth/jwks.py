"""
A set of keys that changes: fetched from a URL or a file, kept, and fetched again before it is too old.

What cannot be fetched or read leaves the keys as they were. What can be read takes their place, also where it holds no
good key: then its issuer has withdrawn them all. Whoever looks up a key never waits for a refresh. Only an unknown
`kid` is worth waiting for, once an interval; the fetches run on threads that live as long as one fetch. What is fetched
comes from the configuration alone, never from a token.
"""

import contextlib
import ssl
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field

import httpx

from tidegate import __version__
from tidegate.auth.keys import LARGEST_SET, Key, KeySet, key_set
from tidegate.config.values import shown_url
from tidegate.errors import ConfigError

__all__ = ["WAIT", "Changed", "Fetch", "Jwks", "KeysUnavailableError", "file_fetch", "url_fetch"]

WAIT = 5.0
"""Seconds that a token with an unknown `kid` waits for the fetch that it causes."""

_LONGEST_FETCH = 60.0
"""After so many seconds a fetch that has not ended is not waited for any more, and another one may begin."""

_HEADERS = {
    "accept": "application/jwk-set+json, application/json",
    "accept-encoding": "identity",  # what is packed could be small here and large in memory
    "user-agent": f"tidegate/{__version__}",
}

_MOST_WAITING = 1000
"""Tokens that wait for one fetch. Forged ones come by the thousand, and each takes up to 16 KiB."""

Fetch = Callable[[], bytes]
"""Gets the text of a JWKS, or raises `OSError` or `ValueError` with words for a person."""

Changed = Callable[[Collection[str]], None]
"""Is told that keys are others now: the fingerprints of those that are gone, which may be none."""


class KeysUnavailableError(Exception):
    """Whether a key is good cannot be known now."""


@dataclass(eq=False)
class _Fetching:
    began: float
    settled: "Future[None]" = field(default_factory=Future)
    waiting: int = 0


class Jwks:
    """The keys of one verifier. Any thread may ask."""

    def __init__(
        self,
        verifier: str,
        fetch: Fetch,
        *,
        refresh: float = 300.0,
        retry: float = 30.0,
        max_stale: float = 86400.0,
        place: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        start: Callable[[Callable[[], None]], None] | None = None,
        after: Callable[[float, Callable[[], None]], None] | None = None,
    ) -> None:
        """The keys of `verifier`. `place` is where `fetch` gets them, for what is told as wrong with them."""
        self._verifier = verifier
        self._fetch, self._place = fetch, place
        self._refresh, self._retry, self._max_stale = refresh, retry, max_stale
        self._clock = clock
        self._start = start or _on_a_thread
        self._after = after or _later
        self._lock = threading.RLock()
        self._set = KeySet(())
        self._loaded: float | None = None
        self._strained: float | None = None  # when the last fetch began that a token asked for, or that has failed
        self._failed: str | None = None
        self._running: _Fetching | None = None
        self.changed: Changed = lambda _: None
        """Is called when keys have come or gone, on the thread that fetched."""

    def load(self) -> None:
        """Fetches the keys for the first time, or raises `ConfigError`."""
        with self._lock:
            fetching = self._running = _Fetching(self._clock())
        self._run(fetching)
        if (wrong := self._failed or self.lack) is not None:
            raise ConfigError(f"verifiers.{self._verifier}.jwks: {wrong}")

    @property
    def problem(self) -> str | None:
        """Why the last fetch has failed, where it has."""
        return self._failed

    @property
    def lack(self) -> str | None:
        """Why no token is good by the set in force, where it was published so."""
        lack = self._set.lack if self._loaded is not None else None
        return self._placed(lack) if lack is not None else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out of the set in force, and why."""
        return self._set.notes

    def ids(self) -> frozenset[str]:
        """The fingerprints of all keys in force."""
        return frozenset(key.id for key in self._set.keys)

    def tend(self) -> None:
        """Begins to refresh the keys where it is time; returns at once."""
        with self._lock:
            now = self._clock()
            due = self._loaded is None or now - self._loaded >= self._refresh
            if due and not self._busy(now) and (self._failed is None or self._rested(now)):
                self._begin(now)

    def find(self, kid: str | None, *, wait: bool) -> "tuple[Key, ...] | Future[None]":
        """
        The keys that a token with this `kid` may be signed with.

        Where the next fetch may bring one and `wait` is true: a future that is settled by its end, or after `WAIT`
        seconds at the latest, after which to ask again. `KeysUnavailableError` where nobody can say.
        """
        self.tend()
        with self._lock:
            now = self._clock()
            known = self._loaded is not None and now - self._loaded <= self._max_stale
            keys = self._set.keys if known else ()
            found = keys if kid is None else tuple(key for key in keys if key.kid == kid)
            if found:
                return found
            if wait and (fetching := self._worth_waiting(now)) is not None:
                if fetching.waiting >= _MOST_WAITING:
                    raise KeysUnavailableError("too many wait for its keys")
                fetching.waiting += 1
                if fetching.waiting == 1:
                    self._after(max(0.0, fetching.began + WAIT - now), lambda: _settle(fetching.settled))
                return fetching.settled
            given_up = self._running is not None and self._running.settled.done()
            if not known or self._failed is not None or given_up:
                raise KeysUnavailableError(self._failed or "its keys have not come yet")
            # A key without a name stands for tokens of any.
            return tuple(key for key in keys if key.kid is None)

    def patience(self) -> float:
        """Seconds until an unknown `kid` may cause another fetch, or a refresh may bring it."""
        with self._lock:
            rested = 0.0 if self._strained is None else self._strained + self._retry
            due = rested if self._loaded is None or self._failed is not None else self._loaded + self._refresh
            return max(0.0, min(rested, due) - self._clock())

    def _worth_waiting(self, now: float) -> _Fetching | None:
        if self._running is not None and not self._running.settled.done():
            return self._running
        if self._busy(now) or not self._rested(now):
            return None
        self._strained = now
        return self._begin(now)

    def _busy(self, now: float) -> bool:
        return self._running is not None and now - self._running.began < _LONGEST_FETCH

    def _rested(self, now: float) -> bool:
        return self._strained is None or now - self._strained >= self._retry

    def _begin(self, now: float) -> _Fetching:
        fetching = self._running = _Fetching(now)
        self._start(lambda: self._run(fetching))
        return fetching

    def _fresh(self) -> KeySet:
        text = self._fetch()
        try:
            return key_set(text)
        except ValueError as error:
            raise ValueError(self._placed(str(error))) from None

    def _placed(self, said: str) -> str:
        return f"{self._place}: {said}" if self._place else said

    def _run(self, fetching: _Fetching) -> None:
        fresh: KeySet | None = None
        problem: str | None = None
        try:
            fresh = self._fresh()
        except Exception as error:  # whatever a library raises, who waits gets an answer
            problem = str(error) if isinstance(error, (OSError, ValueError)) else type(error).__name__
        before = after = frozenset[str]()
        with self._lock:
            if self._running is fetching:  # else it was given up, and another one has taken its place
                self._running = None
                self._failed = problem
                if problem is not None:
                    self._strained = fetching.began
                if fresh is not None:
                    before = self.ids()
                    self._set, self._loaded = fresh, fetching.began
                    after = self.ids()
        try:
            if before != after:
                self.changed(sorted(before - after))
        finally:
            _settle(fetching.settled)


def _settle(future: "Future[None]") -> None:
    # The end of a fetch and the end of patience may come at the same time.
    with contextlib.suppress(InvalidStateError):
        future.set_result(None)


def _on_a_thread(run: Callable[[], None]) -> None:
    threading.Thread(target=run, name="jwks", daemon=True).start()


def _later(seconds: float, run: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, run)
    timer.daemon = True
    timer.start()


def file_fetch(name: str) -> Fetch:
    """Reads a JWKS from a file."""

    def fetch() -> bytes:
        try:
            with open(name, "rb") as file:
                return file.read(LARGEST_SET + 1)
        except OSError as error:
            raise ValueError(f"{name}: cannot read it: {(error.strerror or str(error)).lower()}") from None

    return fetch


def url_fetch(url: str, ca: str | None = None, seconds: float = 10.0) -> Fetch:
    """Fetches a JWKS from a URL: this one and no other, whatever it answers."""
    shown = shown_url(url)

    def fetch() -> bytes:
        deadline = time.monotonic() + seconds
        # A redirect would let whoever answers choose where the keys come from.
        client = httpx.Client(verify=_trust(ca), follow_redirects=False, timeout=seconds)
        # The client has a timeout for each read only, and who answers a byte at a time keeps within that.
        ending = threading.Timer(seconds, client.close)
        ending.daemon = True
        ending.start()
        try:
            with client, client.stream("GET", url, headers=_HEADERS) as answer:
                return _body(answer, shown, deadline)
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError, RuntimeError) as error:
            late = time.monotonic() >= deadline
            raise ValueError(f"{shown}: {'takes too long' if late else _reason(error)}") from None
        finally:
            ending.cancel()

    return fetch


def _trust(ca: str | None) -> ssl.SSLContext:
    # Read for every fetch, so that a renewed file counts. Without one the system's authorities count, as everywhere.
    try:
        return ssl.create_default_context(cafile=ca)
    except ssl.SSLError:
        raise ValueError(f"{ca}: holds no certificate") from None
    except OSError as error:
        raise ValueError(f"{ca}: cannot read it: {(error.strerror or str(error)).lower()}") from None


def _body(answer: httpx.Response, shown: str, deadline: float) -> bytes:
    if answer.is_redirect:
        raise ValueError(f"{shown}: answers with a redirect, which is not followed (write the address it leads to)")
    if answer.status_code != 200:
        raise ValueError(f"{shown}: answers {answer.status_code}")
    if answer.headers.get("content-encoding", "identity").lower() != "identity":
        raise ValueError(f"{shown}: answers in an encoding that was not asked for")
    body = b""
    for chunk in answer.iter_raw():
        body += chunk
        if len(body) > LARGEST_SET:
            raise ValueError(f"{shown}: answers more than {LARGEST_SET // 1024} KiB")
        if time.monotonic() > deadline:
            raise ValueError(f"{shown}: takes too long")
    return body


def _reason(error: Exception) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "takes too long"
    text = str(error) or type(error).__name__
    return text[:1].lower() + text[1:]
