"""Gateways that take tunnels and forwards over QUIC, and agents and forwards that come by it."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import Any

from tests.support.certificates import Authority
from tests.support.http import request
from tests.support.raw import Raw
from tests.support.tidegate import Agent, Forward


class Quic:
    """What both ends need to know; `listener` is that of agents."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        cert, key = authority.issue("gate", "DNS:localhost", "IP:127.0.0.1")
        self.tls: dict[str, Any] = {"certificates": [{"cert": str(cert), "key": str(key)}]}

    def listener(self, **more: Any) -> dict[str, Any]:
        """A tunnel listener; `more` goes on top of it."""
        return {"bind": "127.0.0.1:0", "kind": "tunnel", "tls": self.tls, **more}

    def config(self, **more: Any) -> dict[str, Any]:
        """A configuration with it as `agents`; `more` of the listener goes on top."""
        return {"listeners": {"agents": self.listener(**more)}}

    def reached(self, **more: Any) -> dict[str, Any]:
        """A listener of kind http that takes forwards over QUIC; `more` goes on top of it."""
        return {"bind": "127.0.0.1:0", "tls": self.tls, "transports": ["websocket", "quic"], **more}

    def forward(self, gate: str, endpoint: str, *options: str | Path, transport: str = "quic", **more: Any) -> Forward:
        """A forward that trusts the gateway at `gate`, which is `host:port`."""
        trust = ("--transport", transport, "--connect-ca", str(self.authority.ca))
        return Forward(gate, endpoint, *trust, *map(str, options), scheme="https", **more)

    def agent(
        self, gate: str, kind: str, endpoint: str, to: str, *options: str | Path, transport: str = "quic", **more: Any
    ) -> Agent:
        """An agent that trusts the gateway at `gate`, which is `host:port`."""
        trust = ("--transport", transport, "--connect-ca", str(self.authority.ca))
        return Agent(gate, kind, endpoint, to, *trust, *map(str, options), scheme="https", **more)


def echo(connection: socket.socket) -> None:
    """Says back what it hears, and ends when it is told nothing more."""
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(65536):
            connection.sendall(data)


def says(line: Raw, words: bytes) -> None:
    """Checks that what answers at the other end of a line says this back."""
    line.send(words)
    assert line.take(len(words)) == words


def way(forward: Forward) -> tuple[str, str]:
    """Which way new connections of a forward go to its first gateway, and why not by QUIC; needs its admin port."""
    admin = forward.event("listening", listener="admin")["address"]
    gateway = request(admin, "/status").json()["gateways"][0]
    return gateway["transport"], gateway["not_quic"]
