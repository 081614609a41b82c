"""Web servers of others behind the gateway: nginx and Apache, each with a folder of its own, never the machine's."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.http import request
from tests.support.ports import reserved
from tests.support.process import Program, until
from tests.support.tools import need


class WebServer:
    """A server that answers with its name, and at /healthz with 200 as long as it is told to be well."""

    program = ""

    def __init__(self, name: str) -> None:
        self.name = name
        self._stack = ExitStack()
        self.address = self._stack.enter_context(reserved())
        # Its workers may be another user.
        self.folder = Path(tempfile.mkdtemp(prefix=f"tidegate-{self.program}-"))
        self.folder.chmod(0o755)
        self._stack.callback(shutil.rmtree, self.folder)
        (self.folder / "root").mkdir()
        (self.folder / "root/index.html").write_text(name)
        self.well(True)
        (self.folder / "server.conf").write_text(self.configuration())
        self.running = self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._stack.close()

    def well(self, yes: bool) -> None:
        """From now on its health is this."""
        file = self.folder / "root/healthz"
        if yes:
            file.write_text("well")
        else:
            file.unlink(missing_ok=True)

    def start(self) -> Program:
        """Starts it, again after it was killed."""
        self.running = Program(self.command(), name=self.program, cwd=self.folder)
        until(self._answers, f"{self.program} answers")
        return self.running

    def kill(self) -> None:
        """Ends it and every connection, as a crash does."""
        if self.running.running:
            # Else it would start others in place of those that die.
            self.running.signal(signal.SIGSTOP)
        for child in self._children():
            os.kill(child, signal.SIGKILL)
        self.running.kill()

    def command(self) -> Sequence[str | Path]:
        """What starts it."""
        raise NotImplementedError

    def configuration(self) -> str:
        """Its configuration."""
        raise NotImplementedError

    def _children(self) -> list[int]:
        tasks = Path(f"/proc/{self.running.pid}/task").glob("*/children")
        return [int(pid) for task in tasks for pid in task.read_text().split()]

    def _answers(self) -> bool:
        try:
            return request(self.address).text == self.name
        except OSError:
            return False


class Nginx(WebServer):
    """nginx."""

    program = "nginx"

    def command(self) -> Sequence[str | Path]:
        """What starts it."""
        return [need("nginx"), "-p", self.folder, "-c", self.folder / "server.conf"]

    def configuration(self) -> str:
        """Its configuration."""
        paths = "".join(
            f"  {kind}_temp_path {self.folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;\n" if os.geteuid() == 0 else ""
        return (
            f"daemon off;\n{user}pid {self.folder}/pid;\nerror_log stderr;\nworker_processes 1;\nevents {{}}\n"
            f"http {{\n  access_log off;\n{paths}"
            f"  server {{\n    listen {self.address};\n    root {self.folder}/root;\n  }}\n}}\n"
        )


class Apache(WebServer):
    """Apache's httpd."""

    program = "apache2"

    def command(self) -> Sequence[str | Path]:
        """What starts it."""
        return [need("apache2"), "-d", self.folder, "-f", self.folder / "server.conf", "-DFOREGROUND"]

    def configuration(self) -> str:
        """Its configuration."""
        modules = "".join(
            f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"
            for name in ("mpm_event", "authz_core", "dir")
        )
        user = "User nobody\nGroup nogroup\n" if os.geteuid() == 0 else ""
        return (
            f"{modules}{user}ServerName localhost\nListen {self.address}\nPidFile {self.folder}/pid\n"
            f"ErrorLog /dev/stderr\nDefaultRuntimeDir {self.folder}\nMutex file:{self.folder} default\n"
            f"DocumentRoot {self.folder}/root\nDirectoryIndex index.html\n"
        )
