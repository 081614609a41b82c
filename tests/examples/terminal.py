"""
Runs the commands of one page in a folder of its own, on free ports.

A page speaks of the ports that people use. Here each of them stands for a free one, in commands, in files and, the
other way round, in what is printed. What the blocks mean is `blocks`.
"""

import contextlib
import os
import pty
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

from tests.examples.blocks import Command, matches

WAIT_SECONDS = 20.0
PORTS = (
    3000,
    3001,
    3053,
    5353,
    5432,
    5433,
    8000,
    8001,
    8002,
    8003,
    8004,
    8005,
    8080,
    8101,
    8443,
    8444,
    8888,
    9000,
    9443,
    15432,
)
SERVES = re.compile(
    r"(\w+=\S+ )*(tidegate (gateway|agent|forward|piko|kiagateway|nanoproxy|quic-(server|client))"
    r"|python3 -m http\.server|python3 \w+\.py(?! )|openssl s_server)\b"
)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_PORT = re.compile(r"(?<=[\s:=\"'])(" + "|".join(map(str, PORTS)) + r")(?![\w.])", re.MULTILINE)

# Stands in PATH as `tidegate`: a page that names no port means the default ones.
_TIDEGATE = """#!/bin/sh
case " $* " in *" --config "*) file=yes ;; *) file= ;; esac
case $1 in
gateway)
    export TIDEGATE_ADMIN=127.0.0.1:{8003}
    [ "$file" ] || export TIDEGATE_PROXY=127.0.0.1:{8000} TIDEGATE_AGENTS=127.0.0.1:{8001} ;;
agent) [ "$file" ] || export TIDEGATE_CONNECT=http://localhost:{8001} ;;
kiagateway | quic-server) export TIDEGATE_ADMIN=127.0.0.1:{8003} ;;
nanoproxy)
    # A second one beside the first takes another port for admin.
    export TIDEGATE_ADMIN=127.0.0.1:0
    [ "$PORT" ] || export TIDEGATE_ADMIN=127.0.0.1:{8003} PORT={8080} ;;
forward) [ "$file" ] || export TIDEGATE_CONNECT=http://localhost:{8000} ;;
status | reload) export TIDEGATE_ADMIN_URL=http://127.0.0.1:{8003} ;;
esac
exec {python} -P -m tidegate "$@"
"""


class Running:
    """A process and what it has printed, both streams together."""

    def __init__(self, words: str, folder: Path, env: dict[str, str]) -> None:
        # A terminal, because that is what the pages show.
        self._screen, inside = pty.openpty()
        self.process = subprocess.Popen(
            ["bash", "-c", words],
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
        )
        os.close(inside)
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._whole = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        # Linux says EIO when the last process has let go of the terminal.
        with open(self._screen, errors="replace") as screen, contextlib.suppress(OSError):
            for line in screen:
                with self._changed:
                    self.lines.append(_COLOURS.sub("", line))
                    self._changed.notify_all()
        with self._changed:
            self._whole = True
            self._changed.notify_all()

    def wait_for(self, expected: list[str], start: int, back: "Terminal") -> int:
        """Waits until the lines have come, in this order; the place behind the last of them."""
        deadline = time.monotonic() + WAIT_SECONDS
        place, left = start, list(expected)
        with self._changed:
            while left:
                while left and place < len(self.lines):
                    if matches(left[0], back.shown(self.lines[place])):
                        left.pop(0)
                    place += 1
                if not left:
                    break
                in_time = not self._whole and self._changed.wait(deadline - time.monotonic())
                printed = back.shown("".join(self.lines))
                assert in_time, f"did not print\n  {left[0]}\nit printed\n{printed}"
        return place

    def wait(self) -> int:
        """The exit code, when the process and its output have ended."""
        code = self.process.wait(WAIT_SECONDS)
        self._reader.join(WAIT_SECONDS)
        return code

    def interrupt(self) -> None:
        """Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> None:
        """Ends it, whatever it does."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(WAIT_SECONDS)
        self._reader.join(WAIT_SECONDS)


class Terminal:
    """Where one page is tried."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "here"
        self._ports = _free_ports()
        self._running: list[Running] = []
        tools = folder / "bin"
        for made in (tools, self.folder):
            made.mkdir()
        names = {str(port): free for port, free in self._ports.items()}
        script = re.sub(r"\{(\w+)\}", lambda match: names.get(match[1], sys.executable), _TIDEGATE)
        (tools / "tidegate").write_text(script)
        (tools / "tidegate").chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TIDEGATE_", "PIKO_"))}
        for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            kept = {name: value for name, value in kept.items() if name.upper() != proxy}
        self._env = kept | {
            "PATH": os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": str(self.folder),
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "120",
            "TERM": "xterm",
        }

    def meant(self, text: str) -> str:
        """What a page says, with our ports."""
        return _PORT.sub(lambda match: self._ports[int(match[1])], text)

    def shown(self, text: str) -> str:
        """What was printed, with the ports of the page."""
        for port, free in self._ports.items():
            text = re.sub(rf"\b{free}\b", str(port), text)
        # What a role says about a gateway on its default port.
        return text.replace(" --connect http://localhost:8000", "")

    def write(self, name: str, text: str) -> Path:
        """A file of the page."""
        path = self.folder / Path(name).name
        path.write_text(self.meant(text), encoding="utf-8")
        return path

    def type(self, command: Command, last: bool) -> None:
        """Runs a command of a console block to its end, or, where it serves, until it has said what it should."""
        serves = SERVES.match(command.words) is not None
        assert not serves or (last and command.expected), f"{command.words}: stands last in its block, with its output"
        running = Running(self.meant(command.words), self.folder, self._env)
        self._running.append(running)
        place, expected = 0, list[str]()
        for line in command.expected:
            if line == "^C":
                place = running.wait_for(expected, place, self)
                running.interrupt()
                expected = []
            else:
                expected.append(line)
        running.wait_for(expected, place, self)
        if not serves:
            code = running.wait()
            assert command.expected or code == 0, f"{command.words}: exit code {code}\n{''.join(running.lines)}"

    def run(self, script: str) -> None:
        """Runs a script to its end."""
        running = Running(f"set -eu\n{self.meant(script)}", self.folder, self._env)
        self._running.append(running)
        code = running.wait()
        assert code == 0, f"exit code {code}\n{''.join(running.lines)}"

    def close(self) -> None:
        """Ends everything that still runs, newest first."""
        while self._running:
            self._running.pop().end()


def _free_ports() -> dict[int, str]:
    """A free port for each of the pages', below those that the system gives to outgoing connections."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    # The test run seeds the usual generator, and each of its workers alike.
    candidates = random.SystemRandom().sample(range(10_000, max(lowest, 20_000)), k=5_000)
    free: dict[int, str] = {}
    with contextlib.ExitStack() as held:
        for port in PORTS:
            while port not in free:
                candidate = candidates.pop()
                with contextlib.suppress(OSError):
                    held.enter_context(closing(socket.create_server(("127.0.0.1", candidate))))
                    if socket.has_dualstack_ipv6():
                        held.enter_context(closing(socket.create_server(("::1", candidate), family=socket.AF_INET6)))
                    free[port] = str(candidate)
    return free
