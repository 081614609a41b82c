"""A PostgreSQL server of our own: Debian's binaries, a new data directory, never the machine's service."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.ports import reserved
from tests.support.process import Program
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
        self._port = ExitStack()
        self.address = self._port.enter_context(reserved())
        self._server = self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Fast shutdown; killed, it would leave shared memory behind.
        self._server.signal(signal.SIGINT)
        self._server.wait()
        self._port.close()
        shutil.rmtree(self._folder)

    def _start(self) -> Program:
        host, _, port = self.address.rpartition(":")
        options = ["-h", host, "-p", port, "-k", str(self._folder), "-c", "fsync=off"]
        command: list[str | Path] = [*self._as_user, self._programs / "postgres", "-D", self._data, *options]
        server = Program(command, name="postgres", cwd=self._folder)
        server.says("database system is ready to accept connections")
        return server


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
