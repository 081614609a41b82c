"""A role that shows what it is told to show."""

from collections.abc import Collection, Mapping
from typing import Any

GATEWAY: dict[str, Any] = {
    "role": "gateway",
    "version": "1.2.3",
    "uptime": 3725.0,
    "state": "running",
    "workers": 2,
    "listeners": [{"name": "proxy", "kind": "http", "addresses": ["127.0.0.1:8000"], "connections": 4}],
    "endpoints": [
        {
            "tenant": "",
            "name": "web",
            "listeners": [
                {
                    "session": "s1",
                    "agent": "a1",
                    "address": "127.0.0.1:4711",
                    "transport": "websocket",
                    "since": 1_700_000_000.0,
                    "requests_in_flight": 2,
                    "streams": 1,
                    "rtt_ms": 0.42,
                }
            ],
        },
        {"tenant": "acme", "name": "web", "listeners": []},
    ],
    "totals": {"requests": 17},
    "problems": [],
}


class FixedRole:
    """A role whose status does not change by itself."""

    def __init__(self, status: dict[str, Any] | None = None) -> None:
        self.shown = GATEWAY if status is None else status

    async def next_event(self) -> dict[str, Any]:
        raise AssertionError("nobody waits for events here")

    def status(self) -> dict[str, Any]:
        return self.shown

    def next_question(self, kind: str, timeout: float) -> dict[str, Any] | None:
        return None

    def answer(self, number: int, verdict: bytes) -> None: ...

    def revoke(self, keys: Collection[str]) -> int:
        return len(keys)

    def lists(self) -> dict[str, Any]:
        return {}

    def metrics(self) -> bytes:
        return b"tidegate_requests_total 17\n"

    def explain(self, question: Mapping[str, Any]) -> dict[str, Any]:
        return {"asked": dict(question)}

    def apply(self, snapshot: bytes) -> None:
        raise AssertionError("nobody applies anything here")

    def set_token(self, token: str) -> None:
        raise AssertionError("nobody asks for this")

    def set_level(self, level: str) -> None:
        raise AssertionError("nobody asks for a level here")

    def drain(self, grace: float) -> None:
        raise AssertionError("nobody drains here")

    def stop(self) -> None:
        raise AssertionError("nobody stops here")
