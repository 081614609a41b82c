"""The commands that stand in for a predecessor, each with a file of its own that a test may write anew."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path

from tests.support.process import DEADLINE
from tests.support.raw import at
from tests.support.tidegate import Tidegate


class Predecessor(Tidegate):
    """A gateway that runs a predecessor's file on ports of the system's choice."""

    def __init__(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> None:
        super().__init__(*arguments, "--admin", "127.0.0.1:0", env=env)
        self.ready("listening", listener="admin")

    @property
    def admin(self) -> str:
        """`host:port` of the admin API."""
        return self.address("admin")

    def address(self, listener: str) -> str:
        """`host:port` of a listener, by its name."""
        return str(self.ready("listening", listener=listener)["address"])


class Kiagateway(Predecessor):
    """`tidegate kiagateway`; the two tables are NAME: HOST:PORT."""

    def __init__(
        self, folder: Path, https: Mapping[str, str], http: Mapping[str, str], *options: str, host: str = "127.0.0.1"
    ) -> None:
        self.file = folder / "servers.toml"
        self.file.write_text(servers(https, http))
        super().__init__("kiagateway", self.file, "--http", f"{host}:0", "--https", f"{host}:0", *options)
        self.http, self.https = self.address("http"), self.address("https")


class NanoProxy(Predecessor):
    """`tidegate nanoproxy` with this text as its file, or with none; names in its environment are given whole."""

    def __init__(self, folder: Path, text: str | None, *options: str, env: Mapping[str, str] | None = None) -> None:
        self.file = folder / "config.yaml"
        if text is not None:
            self.file.write_text(text)
        names = ("CONF_FILE", "TIMEOUT", "PORT", "DEBUG", "CERT_PATH", "TLS_SKIP_VERIFY", "CONFIG_B64")
        clean = dict.fromkeys(names, "") | dict(env or {})
        super().__init__("nanoproxy", "-c", self.file, "--proxy", "127.0.0.1:0", *options, env=clean)
        self.proxy = self.address("proxy")


def servers(https: Mapping[str, str], http: Mapping[str, str]) -> str:
    """The text of a `servers.toml`."""
    lines = []
    for table, entries in (("https_backends", https), ("http_backends", http)):
        lines += [f"[{table}]", *(f'"{name}" = "{backend}"' for name, backend in entries.items())]
    return "\n".join(lines) + "\n"


def save_by_rename(file: Path, text: str) -> None:
    """Writes a file as many editors do: another one takes its place."""
    other = file.with_name(f".{file.name}.new")
    other.write_text(text)
    os.replace(other, file)


def shake(address: str, name: str | None, ca: Path | None) -> ssl.SSLSocket:
    """A TLS connection that asks for this name and trusts this authority, or anybody where there is none."""
    context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    context.check_hostname = ca is not None and name is not None
    if ca is None:
        context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(socket.create_connection(at(address), timeout=DEADLINE), server_hostname=name)
