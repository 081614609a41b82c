"""A role without an engine: tests say its status and its events, and see what it was asked."""

import asyncio
from collections.abc import Collection, Mapping
from typing import Any


class FakeRole:
    """What `tidegate.engine` would give."""

    def __init__(self, status: dict[str, Any] | None = None) -> None:
        self.reported: dict[str, Any] = status or {"state": "running"}
        self.asked: list[str] = []
        self.queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def say(self, event: str, **fields: Any) -> None:
        """Puts an event into the queue."""
        self.queue.put_nowait({"event": event, "level": "info", "time": 1_700_000_000.0, **fields})

    async def next_event(self) -> dict[str, Any]:
        return await self.queue.get()

    def status(self) -> dict[str, Any]:
        return self.reported

    def lists(self) -> dict[str, Any]:
        return {}

    def metrics(self) -> bytes:
        return b"tidegate_requests_total 1\n"

    def explain(self, question: Mapping[str, Any]) -> dict[str, Any]:
        return {"asked": dict(question)}

    def apply(self, snapshot: bytes) -> None:
        self.asked.append("apply")

    def next_question(self, kind: str, timeout: float) -> dict[str, Any] | None:
        return None

    def answer(self, number: int, verdict: bytes) -> None:
        self.asked.append(f"answer {number} {verdict.decode()}")

    def revoke(self, keys: Collection[str]) -> int:
        self.asked.append(f"revoke {' '.join(keys)}")
        return 0

    def set_token(self, token: str) -> None:
        self.asked.append(f"token {token}")

    def set_level(self, level: str) -> None:
        self.asked.append(f"level {level}")

    def drain(self, grace: float) -> None:
        self.asked.append(f"drain {grace:g}")

    def stop(self) -> None:
        self.asked.append("stop")
