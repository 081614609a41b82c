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

    def set_level(self, level: str) -> None:
        """Keeps events up to this level: error, warn, info (at the start), debug or trace."""

    def set_token(self, token: str) -> None:
        """What is shown to gateways from the next connection on. Raises `EngineError` at a gateway."""

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
