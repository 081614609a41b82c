"""
A thread for what takes long, which yields to the threads that carry traffic.

What is done there is up to the caller; one thing at a time.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable

# asyncio would import it when it is first needed, which a process without a free descriptor cannot.
from concurrent.futures.thread import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

__all__ = ["Background"]

NICER = 10
"""So much nicer than the process: a tenth of the share of a thread that carries traffic, where both want the CPU."""
LEAST = 19
"""There is nothing nicer."""

P = ParamSpec("P")
T = TypeVar("T")


class Background:
    """One thread, started when it is first needed; whoever made it closes it."""

    def __init__(self, name: str) -> None:
        self._threads = ThreadPoolExecutor(1, thread_name_prefix=name, initializer=_yield_to_others)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `function` returns or raises, once all that was asked for before is done."""
        return await asyncio.wrap_future(self._threads.submit(function, *args, **kwargs))

    def close(self) -> None:
        """Takes nothing more; the thread ends once it has done what it is at."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _yield_to_others() -> None:
    # Linux has a priority for each thread; where it cannot be set, there is none.
    with contextlib.suppress(OSError):
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, min(os.getpriority(os.PRIO_PROCESS, thread) + NICER, LEAST))
