"""
The Go programs of this folder under control: built once, started on ports of the system's choice.

They come from `hashicorp/yamux`, `gorilla/websocket` and `quic-go`, not from tidegate; what each does stands in its
`main.go`.
"""

from __future__ import annotations

import fcntl
import subprocess
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.support.certificates import Authority
from tests.support.http import request
from tests.support.process import Event, Program

SOURCE = Path(__file__).parent
BUILD = SOURCE.parents[1] / ".build" / "interop"

TUNNEL_SERVER = "quic-tunnel-server"
"""What agents of quic-reverse-http-tunnel expect in their server's certificate, whatever address they dial."""


@cache
def binaries() -> Path:
    """The folder of the built programs; the first process builds, the others wait for it."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(["go", "build", "-o", f"{BUILD}/", "./cmd/..."], cwd=SOURCE, check=True)
    return BUILD


class GoProgram(Program):
    """A program of `cmd/`."""

    def __init__(self, name: str, *arguments: str) -> None:
        super().__init__([binaries() / name, *arguments], name=name)


class Service(GoProgram):
    """A local service: HTTP, a TCP echo, and a TCP service that speaks first."""

    def __init__(self) -> None:
        super().__init__("service")
        listening = self.ready("listening")
        self.http = str(listening["http"])
        self.echo = str(listening["echo"])
        self.greet = str(listening["greet"])

    def counts(self) -> dict[str, int]:
        """How many HTTP requests are `active`, were at their `peak`, and came in `total`."""
        counts: dict[str, int] = request(self.http, "/counts").json()
        return counts


class PikoAgent(GoProgram):
    """A Piko-shaped agent; it has connected when the constructor returns."""

    def __init__(self, connect: str, kind: str, endpoint: str, to: str, *flags: str) -> None:
        super().__init__("piko-agent", "--connect", f"http://{connect}", *flags, kind, endpoint, to)
        self.ready("connected")


class PikoForward(GoProgram):
    """A Piko-shaped forward."""

    def __init__(self, connect: str, endpoint: str, *flags: str) -> None:
        super().__init__("piko-forward", "--connect", f"http://{connect}", *flags, "127.0.0.1:0", endpoint)
        self.address = str(self.ready("listening")["address"])


class PikoServer(GoProgram):
    """A Piko-shaped server whose sessions can be ended in every way."""

    def __init__(self, *flags: str) -> None:
        super().__init__("piko-server", *flags)
        listening = self.ready("listening")
        self.upstream = str(listening["upstream"])
        self.proxy = str(listening["proxy"])
        self.admin = str(listening["admin"])

    def until_offered(self, endpoint: str, tunnels: int = 1) -> None:
        """Waits until so many tunnels have come for an endpoint since the start."""
        self.event("agent connected", endpoint=endpoint, nth=tunnels)

    def end(self, endpoint: str, how: str) -> int:
        """Ends the sessions of an endpoint and returns how many there were."""
        return int(self._post("/end", endpoint=endpoint, how=how)["ended"])

    def refuse(self, status: int, times: int) -> None:
        """Refuses the next agents."""
        self._post("/refuse", status=status, times=times)

    def endpoints(self) -> dict[str, int]:
        """The listeners of every endpoint."""
        counts: dict[str, int] = request(self.admin, "/endpoints").json()
        return counts

    def _post(self, path: str, **form: object) -> Any:
        response = request(self.admin, f"{path}?{urlencode(form)}", method="POST")
        assert response.status == 200, response
        return response.json()


class QuicServer(GoProgram):
    """A server of quic-reverse-http-tunnel whose sessions can be ended or stalled."""

    def __init__(self, authority: Authority, *flags: str, host: str = "127.0.0.1", name: str = TUNNEL_SERVER) -> None:
        cert, key = authority.issue(name)
        ports = ("--listen-quic", f"{host}:0", "--listen-tcp", f"{host}:0")
        files = ("--client-ca-file", str(authority.ca), "--cert-file", str(cert), "--cert-key", str(key))
        super().__init__("quic-server", *ports, *files, *flags)
        listening = self.ready("listening")
        self.quic = str(listening["quic"])
        self.tcp = str(listening["tcp"])
        self.admin = str(listening["admin"])

    def until_offered(self, agents: int = 1) -> None:
        """Waits until so many sessions have come since the start."""
        self.event("agent connected", nth=agents)

    def end(self, how: str) -> int:
        """Ends all sessions, or lets them stand still, and returns how many there were."""
        response = request(self.admin, f"/end?{urlencode({'how': how})}", method="POST")
        assert response.status == 200, response
        return int(response.json()["ended"])

    def streams(self) -> list[int]:
        """The streams of every session, the oldest session first."""
        counts: list[int] = request(self.admin, "/streams").json()
        return counts


class QuicAgent(GoProgram):
    """An agent of quic-reverse-http-tunnel; it has connected when the constructor returns."""

    def __init__(
        self, server: str, authority: Authority, *flags: str, name: str = "quic-agent", wait: bool = True
    ) -> None:
        cert, key = authority.issue(name, use="clientAuth")
        files = ("--ca-file", str(authority.ca), "--cert-file", str(cert), "--cert-key", str(key))
        super().__init__("quic-agent", "--server", server, *files, *flags)
        if wait:
            self.ready("connected")


def all_come_back(*flags: str, deadline: float = 90) -> None:
    """Runs `parallel`; everything it sends must come back."""
    with GoProgram("parallel", *flags) as parallel:
        done = parallel.event("done", deadline=deadline)
        assert done["errors"] == {}, done


def leave(proxy: str, endpoint: str, moment: str, count: int = 50) -> None:
    """Lets downstreams come and leave at a moment."""
    with GoProgram("attack", "--proxy", proxy, "--endpoint", endpoint, "--count", str(count), moment) as attack:
        assert attack.event("done")["left"] == count


def attack_gateway(agents: str, proxy: str, script: str) -> Event:
    """Plays a script as an agent of the endpoint `bad`, and returns what became of the session."""
    flags = ("--agents", agents, "--proxy", proxy, "--endpoint", "bad")
    with GoProgram("attack", *flags, script) as attack:
        return attack.event("outcome", deadline=90)


class BadServer(GoProgram):
    """A server that plays a script to the first agent and behaves towards those that come later."""

    def __init__(self, script: str) -> None:
        super().__init__("attack", "--listen", "127.0.0.1:0", script)
        listening = self.ready("listening")
        self.upstream = str(listening["upstream"])
        self.proxy = str(listening["proxy"])
