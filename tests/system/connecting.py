"""What the tests of CONNECT share: agents that serve it, requests, and addresses that nobody is to connect to."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.raw import Answer, Raw
from tests.support.tidegate import Gateway, Tidegate

THROUGH = b"HTTP/1.1 200 OK\r\n\r\n"
"""The answer that opens the way."""


def connector(gateway: Gateway, *allow: str, endpoint: str = "dc1", options: tuple[str, ...] = ()) -> Tidegate:
    """An agent that connects to what is allowed, once the gateway knows it."""
    allowed = [f"--allow={each}" for each in allow]
    arguments = ["agent", "connect", endpoint, *allowed, "--connect", f"http://{gateway.agents}", "--connections", "1"]
    agent = Tidegate(*arguments, *options)
    agent.ready("connected")
    gateway.until_offered(endpoint)
    return agent


def asked(target: str, *fields: str) -> bytes:
    """The request, as most clients write it."""
    more = "".join(f"{field}\r\n" for field in fields)
    return f"CONNECT {target} HTTP/1.1\r\nHost: gate.example\r\n{more}\r\n".encode("latin-1")


def refused(address: str, target: str, *fields: str) -> Answer:
    """The answer to a CONNECT that leads nowhere; nothing may come behind it."""
    with Raw(address) as client:
        client.send(asked(target, *fields) + b"GET / HTTP/1.1\r\nHost: smuggled.example\r\n\r\n")
        answer = client.answer()
        assert client.rest() == b""
        return answer


@contextmanager
def through(address: str, target: str, *fields: str) -> Iterator[Raw]:
    """A connection to a target."""
    with Raw(address) as client:
        client.send(asked(target, *fields))
        assert client.take(len(THROUGH)) == THROUGH
        yield client


class Untouched:
    """A listening address that sees whoever connects to it; accepting is the test's question."""

    def __init__(self, host: str, port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, port), family=family)
        self._listening.setblocking(False)
        self.port = int(self._listening.getsockname()[1])

    @property
    def is_untouched(self) -> bool:
        """Nobody has connected: the kernel would have a connection ready."""
        try:
            self._listening.accept()
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        """Gives the port back."""
        self._listening.close()
