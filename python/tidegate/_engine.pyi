"""
The engine, as Python sees it. The extension module is built from `crates/binding`.

Only `tidegate.engine` imports it. `make lint` proves this file against the built module.
"""

from typing import final

__all__ = ["EngineError", "ListenError", "Role", "SnapshotError", "error_codes", "explain", "start", "version"]

version: str
"""The engine's version, the same as the package's."""

class EngineError(Exception):
    """The engine could not do what was asked; the message says what and what to do."""

class ListenError(EngineError):
    """An address could not be bound. `args` is (message, listener name, address, errno)."""

class SnapshotError(EngineError):
    """The snapshot was refused whole; nothing changed."""

@final
class Role:
    """A running gateway, agent or forward. Every method returns at once and may be called from any thread."""

    @property
    def event_fd(self) -> int:
        """Readable while events wait. Owned by the role: never close it."""

    def events(self) -> list[bytes]:
        """Takes the events that wait, each a JSON object with `event`, `level` and `time` (seconds since 1970)."""

    def apply(self, snapshot: bytes) -> None:
        """Replaces the whole configuration. Raises `SnapshotError` or `ListenError` and then has changed nothing."""

    def status(self) -> bytes:
        """The state of everything, one JSON object."""

    def lists(self) -> bytes:
        """`routes` and `upstreams`, which may be thousands of entries long, one JSON object."""

    def metrics(self) -> bytes:
        """All metrics in Prometheus' text format."""

    def explain(self, question: bytes) -> bytes:
        """What becomes of a request, and why, one JSON object. Raises `EngineError` for what cannot be asked."""

    def next_question(self, kind: str, timeout: float) -> bytes | None:
        """
        Waits for the next question about a credential, of kind `token` or `password`, one JSON object.

        The one method that takes its time; the GIL is free meanwhile. None: there was none within `timeout` seconds,
        or, at once, there will be none any more.
        """

    def answer(self, number: int, verdict: bytes) -> None:
        """Answers a question. Raises `EngineError` for what is no verdict; one that nobody waits for is nothing."""

    def revoke(self, keys: list[str]) -> int:
        """Ends what these keys have verified, now, and forgets refusals; how many credentials that were."""

    def set_token(self, token: bytes) -> None:
        """Agent and forward: shows this token to gateways from the next connection on. `EngineError` elsewhere."""

    def set_level(self, level: str) -> None:
        """Keeps events up to this level: error, warn, info (at the start), debug or trace."""

    def drain(self, grace: float) -> None:
        """Begins to leave, within `grace` seconds. The event `stopped` says when it has ended."""

    def stop(self) -> None:
        """Ends everything now. Idempotent."""

def start(snapshot: bytes) -> Role:
    """
    Starts what the snapshot describes (its `role`), with its listeners bound when this returns.

    Raises `SnapshotError` for a snapshot that does not fit and `ListenError` for an address that cannot be bound.
    """

def explain(snapshot: bytes, question: bytes) -> bytes:
    """
    What would become of a request under a snapshot, and why, one JSON object. Nothing is started.

    Raises `SnapshotError` for a snapshot that does not fit and `EngineError` for what cannot be asked.
    """

def error_codes() -> list[tuple[str, int, str, str]]:
    """Every error code: name, HTTP status, message, meaning."""
