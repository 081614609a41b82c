"""
Serves the admin application on sockets of its own, in the loop of the running role.

Sockets are bound when the server is made, so that a port in use ends the start and not something later. Signals are
`control.roles`'s: the HTTP server must not touch them.
"""

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from tidegate import engine
from tidegate.admin.app import create_app
from tidegate.admin.gate import KNOWN
from tidegate.admin.tls import Shown, is_known
from tidegate.config.binds import resolve_bind
from tidegate.config.values import bind_parts
from tidegate.control.background import Background
from tidegate.control.state import Admin, State
from tidegate.errors import ConfigError

__all__ = ["Server"]

# Answers take microseconds; who is slower than this at the end has gone to sleep.
CLOSING_SECONDS = 1
CONNECTION_SECONDS = 30.0
BACKLOG = 128
# What accept() says when nothing is left for another connection.
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Server:
    """An admin listener, bound from the start."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin
        self._tls = Shown(admin.tls) if admin.tls is not None else None
        self._sockets = bind(admin.bind)
        self.addresses = [shown(sock) for sock in self._sockets]

    def close(self) -> None:
        """Gives the port back. Idempotent."""
        for sock in self._sockets:
            sock.close()

    def prepare(self, admin: Admin) -> Callable[[], None]:
        """Checks new names and certificates, or raises `ConfigError`; what is returned puts them in force."""
        if self._tls is None and admin.tls is not None:
            raise ConfigError("admin.tls: takes a restart where there was none")
        renewed = self._tls.prepare(admin.tls) if self._tls is not None else None

        def commit() -> None:
            self._admin = admin
            if renewed is not None:
                renewed()

        return commit

    @asynccontextmanager
    async def serve(self, state: State) -> AsyncIterator[None]:
        """Answers as long as the context lasts."""
        with closing(Background("admin-token")) as background:
            async with self._serving(create_app(state, lambda: self._admin, background)):
                yield

    @asynccontextmanager
    async def _serving(self, app: ASGIApp) -> AsyncIterator[None]:
        config = uvicorn.Config(
            app,
            loop="asyncio",
            http=_Brief,
            headers=[("Connection", "close")],
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=CLOSING_SECONDS,
        )
        config.load()
        config.ssl = self._tls.context if self._tls is not None else None
        server = _Quiet(config)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.serve(sockets=self._sockets), name="admin")
            try:
                yield
            finally:
                server.should_exit = True


class _Listening(socket.socket):
    """
    A listening socket that fails once a round where nothing is left for another connection.

    asyncio rests for a second at such a failure, but first asks again as often as the queue is long, and plans a
    round of its own for every failure: soon nothing else runs.
    """

    _failed = False

    def accept(self) -> tuple[socket.socket, Any]:
        """A connection; after a failure, the end of the round."""
        if self._failed:
            self._failed = False
            raise BlockingIOError(errno.EAGAIN, "nothing is left for another connection")
        try:
            return super().accept()
        except OSError as error:
            self._failed = error.errno in EXHAUSTED
            raise


class _Brief(H11Protocol):
    """A connection that ends after one request, or when its time is over: strangers cannot hoard them."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if is_known(transport):
            self.app = _known(self.app)
        self._end = self.loop.call_later(CONNECTION_SECONDS, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end.cancel()
        super().connection_lost(exc)


def _known(app: Any) -> Any:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, KNOWN: True}, receive, send)

    return answer


class _Quiet(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to the role."""
        yield


def bind(address: str) -> list[socket.socket]:
    """Binds every address that `HOST:PORT` stands for, or none."""
    try:
        places = resolve_bind(address)
    except ValueError as exc:
        raise ConfigError(f"admin: {exc}") from None
    sockets: list[socket.socket] = []
    for place in places:
        try:
            sockets.append(_bound(place))
        except OSError as exc:
            for sock in sockets:
                sock.close()
            raise engine.bind_error(exc, "admin", place) from None
    return sockets


def shown(sock: socket.socket) -> str:
    """The address of a bound socket as people write it."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bound(place: str) -> socket.socket:
    host, port = bind_parts(place)
    sock = _Listening(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if ":" in host:
            # `[::]` takes IPv4 along, as the other listeners do.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host == "::" else 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock
