"""
Programs under measurement: started on chosen CPUs, waited for until they say that they listen, ended whatever happens.

A program writes JSON events, one a line, and this reads them. What is started, and how it is wired: `paths`.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 30.0
STOP_SECONDS = 5.0
SHOWN_LINES = 15


class BenchError(Exception):
    """Something could not be measured, and why."""


@dataclass(frozen=True)
class Tools:
    """Where the programs are."""

    tidegate: str
    """The command under measurement."""
    peers: Path
    """The folder of what `make bench-peers` builds."""

    def peer(self, name: str) -> str:
        """The path of one of our own peers."""
        return str(self.peers / name)

    def missing(self, *commands: str) -> list[str]:
        """What has to be installed or built first."""
        names = ["responder", "piko-server", "piko-agent", "piko-forward", "kiagateway", "nanoproxy"]
        names += ["quic-server", "quic-agent", "lossy"]
        own = [self.peer(name) for name in names]
        return [name for name in (self.tidegate, *own, *commands) if shutil.which(name) is None]


class Program:
    """One running process; what it prints goes to files, so that nobody has to read while it is measured."""

    def __init__(self, name: str, command: Sequence[str], cpus: str, folder: Path) -> None:
        self.name = name
        self._lines = (folder / f"{name}.out", folder / f"{name}.err")
        with self._lines[0].open("w") as out, self._lines[1].open("w") as err:
            # `taskset` becomes the program, so that the process is the one to be measured.
            self._process = subprocess.Popen(
                ["taskset", "--cpu-list", cpus, *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=folder,
                env=environment(folder),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def event(self, event: str, **fields: str) -> dict[str, Any]:
        """The first event of this name with these fields, when it has come."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            ended = self.ended
            for found in self._events():
                if found.get("event") == event and all(found.get(key) == value for key, value in fields.items()):
                    return found
            if ended:
                raise BenchError(f"{self.name} ended with exit code {self._process.returncode}:\n{self.tail()}")
            time.sleep(0.02)
        raise BenchError(f"{self.name} did not say `{event}` within {START_SECONDS:g} s:\n{self.tail()}")

    def listening(self, address: str) -> None:
        """Waits until the address takes connections, for programs that do not say so."""
        host, _, port = address.rpartition(":")
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and not self.ended:
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
                return
            time.sleep(0.02)
        raise BenchError(f"{self.name} does not listen on {address}:\n{self.tail()}")

    def tail(self) -> str:
        """The last lines it printed."""
        lines = [line for file in self._lines for line in file.read_text(errors="replace").splitlines()]
        return "\n".join(lines[-SHOWN_LINES:])

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        self._process.send_signal(number)

    def ask_to_end(self) -> None:
        """SIGTERM, and waits for the end."""
        self._process.terminate()
        try:
            self._process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise BenchError(f"{self.name} did not end within {START_SECONDS:g} s of SIGTERM") from None

    def kill(self) -> None:
        """SIGKILL, and waits for the end."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL where that does not help."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def _events(self) -> list[dict[str, Any]]:
        events = []
        for file in self._lines:
            for line in file.read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError):
                    event = json.loads(line)
                    if isinstance(event, dict):
                        events.append(event)
        return events


class Ground:
    """The programs of one measurement and their folder; leaving it ends the one and removes the other."""

    def __init__(self, tools: Tools, cpus: str) -> None:
        self.tools = tools
        self.cpus = cpus
        self.folder = Path(tempfile.mkdtemp(prefix="tidegate-bench-"))
        self._running: list[Program] = []

    def start(self, name: str, *command: str) -> Program:
        """Starts a program on the CPUs of this ground."""
        program = Program(name, command, self.cpus, self.folder)
        self._running.append(program)
        return program

    def write(self, name: str, text: str) -> str:
        """Writes a configuration file and returns its path."""
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for program in reversed(self._running):
            program.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def free_address() -> str:
    """A loopback address for programs that cannot pick one themselves."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def end_on_sigterm() -> None:
    """Makes SIGTERM leave every ground, as Ctrl-C does; the programs would stay otherwise."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def default_tools() -> Tools:
    """What stands next to the Python that runs this, and what `make bench-peers` has built."""
    return Tools(str(Path(sys.executable).parent / "tidegate"), ROOT / ".build" / "bench")


def environment(folder: Path) -> dict[str, str]:
    """Ours, without what would lead the programs to other settings or elsewhere."""
    foreign = ("http_proxy", "https_proxy", "all_proxy", "gomaxprocs", "gogc")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TIDEGATE_") and k.lower() not in foreign}
    return {**kept, "XDG_CONFIG_HOME": str(folder)}
