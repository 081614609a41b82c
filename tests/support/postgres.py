"""A PostgreSQL server of our own: Debian's binaries, a new data directory, never the machine's service."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.process import Program, until
from tests.support.tools import PACKAGES, need, run

USER = "nobody"
"""PostgreSQL refuses to run as root; where we are nobody special, it runs as we do."""


class Postgres:
    """A running server that trusts everybody on its port."""

    def __init__(self) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[4]))
        assert found, f"postgres is missing in /usr/lib/postgresql ({PACKAGES})"
        self._programs = found[-1].parent
        self._folder = Path(tempfile.mkdtemp(prefix="tidegate-postgres-"))
        self._as_user: list[str] = []
        if os.geteuid() == 0:
            shutil.chown(self._folder, USER)
            self._as_user = [need("setpriv"), f"--reuid={USER}", "--regid=nogroup", "--clear-groups"]
        self._data = self._folder / "data"
        options = ["--auth=trust", "--username=tide", "--no-sync", "--encoding=UTF8", "--no-locale"]
        run(*self._as_user, self._programs / "initdb", "-D", self._data, *options, cwd=self._folder)
        self._server = self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Fast shutdown; killed, it would leave shared memory behind.
        self._server.signal(signal.SIGINT)
        self._server.wait()
        shutil.rmtree(self._folder)

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self._port}"

    def _start(self) -> Program:
        # It cannot be told to take any port, so one that was free a moment ago is tried, a few times.
        for _ in range(5):
            with closing(socket.create_server(("127.0.0.1", 0))) as free:
                self._port = int(free.getsockname()[1])
            options = ["-h", "127.0.0.1", "-p", str(self._port), "-k", str(self._folder), "-c", "fsync=off"]
            command = [*self._as_user, str(self._programs / "postgres"), "-D", str(self._data), *options]
            server = Program(command, name="postgres", cwd=self._folder)
            ready = "database system is ready to accept connections"
            until(lambda: ready in server.log or not server.running, "postgres is ready")  # noqa: B023
            if server.running:
                return server
        raise AssertionError(f"postgres does not start:\n{server.log}")


def psql(address: str, statement: str, *, stdin: bytes = b"") -> str:
    """What psql prints for a statement; fails where psql does."""
    ended = try_psql(address, statement, stdin=stdin)
    assert ended.returncode == 0, ended.stderr.decode()
    return ended.stdout.decode().rstrip("\n")


def try_psql(address: str, statement: str, *, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """The same, whatever comes of it."""
    host, _, port = address.rpartition(":")
    where = ["-h", host, "-p", port, "-U", "tide", "-d", "postgres"]
    command = [need("psql"), "--no-psqlrc", "--no-align", "--tuples-only", *where, "-c", statement]
    env = {**os.environ, "PGCONNECT_TIMEOUT": "15"}
    return subprocess.run(command, capture_output=True, input=stdin, env=env, timeout=60, check=False)
