"""
Starts the programs of the demonstration, waits for what they say, and ends them whatever happens.

A program is a process that writes one JSON event a line on stderr. What is asked of them is `demo.walk`.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from tidegate.demo.certificates import AUTHORITY, GATE, write

__all__ = ["DemoError", "Program", "Programs", "join"]

START_SECONDS = 20.0
STOP_SECONDS = 10.0
KEPT_LINES = 500
SHOWN_LINES = 15


class DemoError(Exception):
    """The demonstration cannot go on; `program` is the one whose log tells more."""

    def __init__(self, message: str, program: "Program | None" = None) -> None:
        super().__init__(message)
        self.program = program


class Program:
    """One running process and what it has said."""

    def __init__(self, name: str, arguments: list[str], folder: Path) -> None:
        self.name = name
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._events: deque[dict[str, Any]] = deque(maxlen=KEPT_LINES)
        self._said = threading.Condition()
        self._quiet = False
        # -P: a folder `tidegate` where somebody happens to stand is not the package.
        self._process = subprocess.Popen(  # noqa: S603  our own program
            [sys.executable, "-P", "-m", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=_environment(folder),
            text=True,
            errors="replace",
            # Ctrl-C is for the demonstration, which ends its programs in order.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f"log of {name}", daemon=True)
        self._reader.start()

    def wait_for(self, event: str, **fields: str) -> dict[str, Any]:
        """The first event of this name with these fields, when it has come."""
        deadline = time.monotonic() + START_SECONDS
        with self._said:
            while True:
                for found in self._events:
                    if found.get("event") == event and all(found.get(key) == value for key, value in fields.items()):
                        return found
                if self._quiet:
                    raise DemoError(f"the {self.name} ended at once, with exit code {self._process.wait()}", self)
                left = deadline - time.monotonic()
                if left <= 0 or not self._said.wait(left):
                    what = " ".join([event, *fields.values()])
                    raise DemoError(f"the {self.name} did not say `{what}` within {START_SECONDS:g} s", self)

    def address(self, **fields: str) -> tuple[str, int]:
        """Host and port of the listener with these fields, when it listens."""
        host, _, port = str(self.wait_for("listening", **fields)["address"]).rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def stop(self) -> str | None:
        """Asks the process to end and, when it does not, kills it; what was wrong with its end."""
        if self.ended:
            return f"the {self.name} had ended before, with exit code {self._process.returncode}"
        self._process.terminate()
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return f"the {self.name} did not end within {STOP_SECONDS:g} s and was killed"
        self._reader.join(STOP_SECONDS)
        return f"the {self.name} ended with exit code {code}" if code else None

    def tail(self) -> list[str]:
        """The last lines it said."""
        with self._said:
            return list(self._lines)[-SHOWN_LINES:]

    def _read(self) -> None:
        stream = self._process.stderr
        if stream is None:
            return
        with stream:
            for line in stream:
                self._hear(line)
        with self._said:
            self._quiet = True
            self._said.notify_all()

    def _hear(self, line: str) -> None:
        with self._said:
            self._lines.append("".join(c for c in line.rstrip("\n") if c.isprintable()))
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict):
                    self._events.append(event)
            self._said.notify_all()


class Programs:
    """The five programs, wired to one another on free ports of the loopback interface."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.running: dict[str, Program] = {}
        self.proxy = self.agents = self.quic = self.db = self.secure = self.out = self.admin = self.forward = ("", 0)
        self.lines = self.words = self.udp = ("", 0)

    def start(self) -> None:
        """Starts all, and returns when each endpoint can be reached."""
        service = self._run("sample service", "tidegate.demo.service")
        web, self.lines, sealed = (service.address(listener=name) for name in ("web", "lines", "sealed"))
        self.words = service.address(listener="words")
        gateway = self._run("gateway", "tidegate", "gateway", "--config", self._gateway_file(web, sealed))
        self.proxy = gateway.address(listener="web")
        self.agents = gateway.address(listener="agents")
        self.quic = gateway.address(listener="quic")
        self.db = gateway.address(listener="lines")
        self.udp = gateway.address(listener="words")
        self.out = gateway.address(listener="out")
        self.secure = gateway.address(listener="secure")
        self.admin = gateway.address(listener="admin")
        self._run("agent", "tidegate", "agent", "start", "--config", self._agent_file(web))
        self._run("agent over QUIC", "tidegate", "agent", "start", "--config", self._quic_agent_file(web))
        for endpoint in ("web", "inside", "echo", "lines", "network", "far", "words"):
            gateway.wait_for("agent connected", endpoint=endpoint)
        connect = f"http://{join(self.proxy)}"
        forward = self._run("forward", "tidegate", "forward", "127.0.0.1:0", "echo", "--connect", connect)
        self.forward = forward.address(endpoint="echo")

    def stop(self) -> list[str]:
        """Ends all, last started first; what was wrong with their ends."""
        problems = []
        while self.running:
            name = next(reversed(self.running))
            problem = self.running[name].stop()
            del self.running[name]
            if problem:
                problems.append(problem)
        return problems

    def _run(self, name: str, *arguments: str) -> Program:
        self.running[name] = Program(name, list(arguments), self._folder)
        return self.running[name]

    def _gateway_file(self, web: tuple[str, int], sealed: tuple[str, int]) -> str:
        anywhere, here = "127.0.0.1:0", {"listeners": ["secure"]}
        gate = write(self._folder, "gate.pem", GATE)
        return self._written(
            "tidegate.yaml",
            {
                "listeners": {
                    "web": {"bind": anywhere, "dynamic_endpoints": True},
                    "secure": {"bind": anywhere, "tls": {"certificates": [{"cert": gate, "key": gate}]}},
                    "agents": {"bind": anywhere, "kind": "tunnel"},
                    "quic": {
                        "bind": anywhere,
                        "kind": "tunnel",
                        "tls": {"certificates": [{"cert": gate, "key": gate}]},
                        "transports": ["quic"],
                    },
                    "lines": {"bind": anywhere, "kind": "tcp", "to": {"endpoint": "lines"}},
                    "words": {"bind": anywhere, "kind": "udp", "to": {"endpoint": "words"}},
                    "out": {
                        "bind": anywhere,
                        "kind": "connect",
                        "to": [{"network": "127.0.0.0/8", "endpoint": "network"}],
                    },
                },
                "admin": {"bind": anywhere},
                "routes": [
                    {**here, "host": "app.localhost", "to": {"addresses": [join(web)]}},
                    {**here, "host": "inside.localhost", "to": {"endpoint": "inside"}},
                    {**here, "sni": "sealed.localhost", "to": {"addresses": [join(sealed)]}},
                ],
            },
        )

    def _agent_file(self, web: tuple[str, int]) -> str:
        lines = join(self.lines)
        return self._written(
            "agent.yaml",
            {
                "connect": {"urls": [f"http://{join(self.agents)}"]},
                "endpoints": [
                    {"name": "web", "to": f"http://{join(web)}"},
                    {"name": "inside", "to": f"http://{join(web)}"},
                    {"name": "echo", "to": f"tcp://{lines}"},
                    {"name": "lines", "to": f"tcp://{lines}"},
                    {"name": "network", "to": "connect", "allow": [lines]},
                ],
            },
        )

    def _quic_agent_file(self, web: tuple[str, int]) -> str:
        return self._written(
            "quic-agent.yaml",
            {
                "connect": {
                    "urls": [f"https://{join(self.quic)}"],
                    "transport": "quic",
                    "ca": write(self._folder, "authority.pem", AUTHORITY),
                    "server_name": "inside.localhost",
                },
                "endpoints": [
                    {"name": "far", "to": f"http://{join(web)}"},
                    {"name": "words", "to": f"udp://{join(self.words)}"},
                ],
            },
        )

    def _written(self, name: str, content: dict[str, Any]) -> str:
        path = self._folder / name
        path.write_text(json.dumps(content, indent=2))  # JSON is YAML, too
        return str(path)


def join(address: tuple[str, int]) -> str:
    """`HOST:PORT`."""
    return f"{address[0]}:{address[1]}"


def _environment(folder: Path) -> dict[str, str]:
    """Ours, without what would lead the programs elsewhere."""
    foreign = ("http_proxy", "https_proxy", "all_proxy")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TIDEGATE_") and k.lower() not in foreign}
    # No file of the person who runs this is read.
    return {**kept, "XDG_CONFIG_HOME": str(folder)}
