"""
Serves the admin application on sockets of its own, in the loop of the running role.

Sockets are bound when the server is made, so that a port in use ends the start and not something later. Signals are
`control.roles`'s: the HTTP server must not touch them.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import uvicorn

from tidegate import engine
from tidegate.admin.app import create_app
from tidegate.config.values import bind_parts
from tidegate.control.state import Admin, State
from tidegate.errors import ConfigError

__all__ = ["Server"]

# Answers take microseconds; who is slower than this at the end has gone to sleep.
CLOSING_SECONDS = 1


class Server:
    """An admin listener, bound from the start."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin
        self._sockets = bind(admin.bind)
        self.addresses = [shown(sock) for sock in self._sockets]

    def close(self) -> None:
        """Gives the port back. Idempotent."""
        for sock in self._sockets:
            sock.close()

    @asynccontextmanager
    async def serve(self, state: State) -> AsyncIterator[None]:
        """Answers as long as the context lasts."""
        config = uvicorn.Config(
            create_app(state, self._admin),
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=CLOSING_SECONDS,
        )
        server = _Quiet(config)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.serve(sockets=self._sockets), name="admin")
            try:
                yield
            finally:
                server.should_exit = True


class _Quiet(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to the role."""
        yield


def bind(address: str) -> list[socket.socket]:
    """Binds `HOST:PORT`: an empty host means every interface, a name every address it stands for."""
    try:
        host, port = bind_parts(address)
    except ValueError as exc:
        raise ConfigError(f"admin: {exc}") from exc
    try:
        if not host:
            return [_bound(_everywhere(port))]
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as exc:
        raise engine.bind_error(exc, "admin", address) from exc
    # IPv4 first, and with port 0 nothing else: two families would get two ports.
    places = sorted({(family, sockaddr) for family, _, _, _, sockaddr in found}, key=lambda place: place[0])
    sockets: list[socket.socket] = []
    try:
        sockets.extend(map(_bound, places[:1] if port == 0 else places))
    except OSError as exc:
        for sock in sockets:
            sock.close()
        raise engine.bind_error(exc, "admin", address) from exc
    return sockets


def shown(sock: socket.socket) -> str:
    """The address of a bound socket as people write it."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _everywhere(port: int) -> tuple[int, tuple[object, ...]]:
    if socket.has_dualstack_ipv6():
        return socket.AF_INET6, ("::", port)
    return socket.AF_INET, ("0.0.0.0", port)  # noqa: S104  asked for by `:PORT`


def _bound(place: tuple[int, tuple[object, ...]]) -> socket.socket:
    family, sockaddr = place
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # `[::]` written out, like everywhere else in the configuration, takes IPv4 along.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if sockaddr[0] == "::" else 1)
        sock.bind(sockaddr)
        sock.listen(128)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock
