"""
The engine as the rest of the package uses it: asyncio-shaped, with errors that say what to do.

The only importer of `_engine`. Everything that moves bytes is behind it.
"""

import asyncio
import contextlib
import errno
import ipaddress
import json
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tidegate import _engine
from tidegate.errors import EngineError, ListenError

__all__ = ["Role", "bind_error", "error_codes", "explain", "start", "version"]

version: str = _engine.version


class Role:
    """A running gateway, agent or forward. Rust carries the traffic; Python says where it should go."""

    def __init__(self, native: "_engine.Role") -> None:
        self._native = native
        self._waiting: deque[bytes] = deque()

    async def next_event(self) -> dict[str, Any]:
        """Waits for the next event, an object with `event`, `level` and `time`. Cancel-safe, for one task at a time."""
        while not self._waiting:
            self._waiting.extend(self._native.events())
            if not self._waiting:
                await self._readable()
        event: dict[str, Any] = json.loads(self._waiting.popleft())
        return event

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not readable.done():
                readable.set_result(None)

        descriptor = self._native.event_fd
        loop.add_reader(descriptor, wake)
        try:
            await readable
        finally:
            loop.remove_reader(descriptor)

    def apply(self, snapshot: bytes) -> None:
        """Replaces the whole configuration, or raises `EngineError` and changes nothing. Long: for a thread."""
        with _without_signals():
            try:
                self._native.apply(snapshot)
            except _engine.EngineError as error:
                raise _translated(error) from None

    def set_level(self, level: str) -> None:
        """What a person wants to see from now on; see `start`."""
        self._native.set_level(_least(level))

    def status(self) -> dict[str, Any]:
        """The state of everything."""
        status: dict[str, Any] = json.loads(self._native.status())
        return status

    def lists(self) -> dict[str, Any]:
        """What may be thousands of entries long, and is left out of the status: `routes` and `upstreams`."""
        lists: dict[str, Any] = json.loads(self._native.lists())
        return lists

    def explain(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """What becomes of a request, and why; raises `EngineError` for what cannot be asked."""
        return _explained(self._native.explain, json.dumps(question).encode())

    def metrics(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return self._native.metrics()

    def next_question(self, kind: str, timeout: float) -> dict[str, Any] | None:
        """
        Waits for the next question about a credential of kind `token` or `password`. Long: for a thread of its own.

        None: there was none within `timeout` seconds, or the role has ended and there will be none any more.
        """
        text = self._native.next_question(kind, timeout)
        if text is None:
            return None
        question: dict[str, Any] = json.loads(text)
        return question

    def answer(self, number: int, verdict: bytes) -> None:
        """Answers a question with what `tidegate.auth` makes of it."""
        try:
            self._native.answer(number, verdict)
        except _engine.EngineError as error:
            raise _translated(error) from None

    def revoke(self, keys: Iterable[str]) -> int:
        """
        Ends what these keys have verified, now: verdicts, sessions, requests. How many credentials that were.

        Refusals are forgotten, too, because keys may have been added.
        """
        return self._native.revoke(list(keys))

    def set_token(self, token: str) -> None:
        """Agent and forward: shows this token to gateways from the next connection on."""
        try:
            self._native.set_token(token.encode())
        except _engine.EngineError as error:
            raise _translated(error) from None

    def drain(self, grace: float) -> None:
        """Begins to leave, within `grace` seconds. The event `stopped` says when it has ended."""
        self._native.drain(grace)

    def stop(self) -> None:
        """Ends everything now. Idempotent."""
        self._native.stop()


def start(snapshot: bytes, level: str = "info") -> Role:
    """
    Starts what the snapshot describes; its listeners are bound when this returns.

    `level` is what a person wants to see: error, warn, info, debug or trace. Events up to info come in any case,
    because a role is run by them; who writes them leaves out what is not wanted.
    """
    with _without_signals():
        try:
            native = _engine.start(snapshot)
        except _engine.EngineError as error:
            raise _translated(error) from None
    native.set_level(_least(level))
    return Role(native)


@contextlib.contextmanager
def _without_signals() -> Iterator[None]:
    """Threads inherit the mask of whoever starts them, and signals are for the main thread alone."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _least(level: str) -> str:
    return level if level in ("debug", "trace") else "info"


def explain(snapshot: bytes, question: Mapping[str, Any]) -> dict[str, Any]:
    """What would become of a request under a snapshot, and why. Nothing is started."""
    return _explained(_engine.explain, snapshot, json.dumps(question).encode())


def _explained(ask: Callable[..., bytes], *arguments: bytes) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(ask(*arguments))
    except _engine.EngineError as error:
        raise _translated(error) from None
    return told


def error_codes() -> list[tuple[str, int, str, str]]:
    """Every error code: name, HTTP status, message, meaning."""
    return _engine.error_codes()


def bind_error(error: OSError, listener: str, address: str) -> ListenError:
    """The same sentence for a listener that Python binds itself: the admin listener."""
    return ListenError(_listen_message(str(error), listener, address, error.errno))


def _translated(error: Exception) -> EngineError:
    if isinstance(error, _engine.ListenError) and len(error.args) == 4:
        message, listener, address, number = error.args
        return ListenError(_listen_message(str(message), str(listener), str(address), number))
    return EngineError(str(error.args[0]) if error.args else str(error))


def _listen_message(message: str, listener: str, address: str, number: int | None) -> str:
    where = f'listener "{listener}": '
    if number == errno.EADDRINUSE:
        return f"{where}{address} is in use by {_holder(address) or 'another process'}"
    if number == errno.EACCES:
        hint = "permission denied (try a port above 1024, or CAP_NET_BIND_SERVICE)"
        return f"{where}cannot bind {address}: {hint}"
    if number == errno.EADDRNOTAVAIL:
        return f"{where}cannot bind {address}: this machine has no such address (`ip addr` lists those it has)"
    return message if listener in message else f"{where}cannot bind {address}: {message}"


def _holder(address: str) -> str | None:
    """Who listens where we wanted to: `PID 4711 (tidegate gateway)`."""
    host, _, port = address.rpartition(":")
    inodes = _listening_inodes(host.strip("[]"), int(port)) if port.isdigit() else set()
    if not inodes:
        return None
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        if _held(process) & inodes:
            return f"PID {process.name} ({_program(process)})"
    return None


def _held(process: Path) -> set[str]:
    """What the descriptors of a process lead to; nothing where it is not ours to look into."""
    held: set[str] = set()
    with contextlib.suppress(OSError):
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                held.add(str(descriptor.readlink()))
    return held


def _listening_inodes(host: str, port: int) -> set[str]:
    """The sockets in state LISTEN on this port whose address overlaps with `host`, as `/proc/PID/fd` names them."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            local, held_port = fields[1].split(":")
            if fields[3] == "0A" and int(held_port, 16) == port and _overlap(local, host):
                inodes.add(f"socket:[{fields[9]}]")
    return inodes


def _overlap(held: str, wanted: str) -> bool:

    raw = bytes.fromhex(held)
    if sys.byteorder == "little":  # the table shows 32-bit words as the machine holds them
        raw = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
    holder = ipaddress.ip_address(raw)
    try:
        ours = ipaddress.ip_address(wanted)
    except ValueError:
        return True
    mapped = holder.ipv4_mapped if isinstance(holder, ipaddress.IPv6Address) else None
    return holder.is_unspecified or ours.is_unspecified or ours in (holder, mapped)


def _program(process: Path) -> str:
    """What a person calls the process: a tidegate with its command, else the program's name."""
    try:
        words = [word for word in (process / "cmdline").read_bytes().decode(errors="replace").split("\0") if word]
    except OSError:
        words = []
    names = [Path(word).name for word in words]
    for position, name in enumerate(names[:4]):
        if name == "tidegate":
            return " ".join(["tidegate", *[word for word in words[position + 1 : position + 2] if word.isalpha()]])
    if names:
        return "".join(character for character in names[0] if character.isprintable())
    return "unknown"
