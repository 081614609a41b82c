"""What may stand between an agent and a gateway: a line that dies in silence, an HTTP proxy, an end of TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading

from tests.support.raw import at
from tests.support.service import TcpService, read_head


class Relay(TcpService):
    """Passes every connection on to one address; with `tls` it ends TLS first."""

    def __init__(self, to: str, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        self._to = to
        self._tls = tls
        self._dead = threading.Event()
        super().__init__(self._relay, host, port)

    def freeze(self) -> None:
        """From now on nothing passes on the connections there are, and neither end learns of it; new ones work."""
        self._dead.set()
        self._dead = threading.Event()

    def _relay(self, near: socket.socket) -> None:
        dead = self._dead
        try:
            near = self._tls.wrap_socket(near, server_side=True) if self._tls else near
        except (ssl.SSLError, OSError):
            return
        with near, socket.create_connection(at(self._to)) as far:
            pass_on(near, far, dead)


class ConnectProxy(TcpService):
    """An HTTP proxy that knows CONNECT, and every name as one of this machine."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        """The heads of all requests."""
        super().__init__(self._connect)

    def _connect(self, near: socket.socket) -> None:
        with near.makefile("rb") as reader:
            head = read_head(reader).decode()
        if not head:
            return
        self.asked.append(head)
        method, target, _ = head.split("\r\n")[0].split(" ")
        if method != "CONNECT":
            near.sendall(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
            return
        with socket.create_connection(("127.0.0.1", at(target)[1])) as far:
            near.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            pass_on(near, far, threading.Event())


def pass_on(near: socket.socket, far: socket.socket, dead: threading.Event) -> None:
    """Relays both ways until one end ends; nothing more once the line is dead."""

    def pump(source: socket.socket, to: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not dead.is_set():
                    to.sendall(data)
        if not dead.is_set():
            for end in (source, to):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    back = threading.Thread(target=pump, args=(far, near), daemon=True)
    back.start()
    pump(near, far)
    back.join()
