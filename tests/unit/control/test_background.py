"""The thread for what takes long."""

import asyncio
import os
import threading

import pytest

from tidegate.control.background import Background


@pytest.mark.parametrize(("own", "expected"), [(0, 10), (5, 15), (15, 19), (19, 19)])
def test_it_is_nicer_than_the_process_whatever_that_is(
    own: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[int, int, int]] = []
    monkeypatch.setattr(os, "getpriority", lambda *_: own)
    monkeypatch.setattr(os, "setpriority", lambda *given: found.append(given))
    background = Background("nice")
    thread = asyncio.run(background.run(threading.get_native_id))
    background.close()
    assert found == [(os.PRIO_PROCESS, thread, expected)]


def test_its_thread_ends_when_it_is_closed() -> None:
    background = Background("ends")
    thread = asyncio.run(background.run(threading.current_thread))
    background.close()
    thread.join(10)
    assert not thread.is_alive()
    with pytest.raises(RuntimeError):
        asyncio.run(background.run(int))
