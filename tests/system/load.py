"""Visitors that keep asking while something else happens, and count what goes wrong."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.support.http import Response, request
from tests.support.process import until


class Visitors:
    """Threads that send one request after the other, each on a connection of its own."""

    def __init__(self, ask: Callable[[], Response], number: int = 4) -> None:
        self._ask = ask
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.statuses: Counter[int] = Counter()
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(number)]

    @classmethod
    def of(cls, proxy: str, endpoint: str, number: int = 4) -> Visitors:
        """Visitors of one endpoint, who expect a 200."""
        return cls(lambda: request(proxy, "/visit", endpoint=endpoint), number)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.until_served(20)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def until_served(self, more: int) -> None:
        """Waits until so many more requests have been answered."""
        wanted = self.answered + more
        until(lambda: self.answered >= wanted, f"{more} more answers")

    @property
    def answered(self) -> int:
        """Requests that came to an end, whichever."""
        with self._lock:
            return sum(self.statuses.values()) + len(self.failures)

    @property
    def lost(self) -> list[str]:
        """What went wrong."""
        with self._lock:
            return self.failures + [
                str(status) for status, count in self.statuses.items() for _ in range(count) if status != 200
            ]

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                status = self._ask().status
            except Exception as error:
                with self._lock:
                    self.failures.append(repr(error))
            else:
                with self._lock:
                    self.statuses[status] += 1
