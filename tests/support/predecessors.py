"""The commands that stand in for a predecessor, each with a file of its own that a test may write anew."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path

from tests.support.certificates import Authority
from tests.support.http import request
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


class QuicTunnel:
    """The certificates of both sides of quic-reverse-http-tunnel, by one authority."""

    def __init__(self, folder: Path, name: str = "quic-tunnel-server") -> None:
        self.authority = Authority(folder)
        self._server = self.authority.issue(name)
        self._client = self.authority.issue("quic-tunnel-client", use="clientAuth")

    def server(self, *options: str, host: str = "127.0.0.1") -> QuicServer:
        """`tidegate quic-server` on ports of the system's choice."""
        return QuicServer(*self._files("client-ca-file", self._server), *options, host=host)

    def client(self, server: str, *options: str | Path, upstream: str | None = None) -> QuicClient:
        """`tidegate quic-client` or, with an upstream, `quic-client-tcp`; it need not have connected."""
        return QuicClient(server, *self._files("ca-file", self._client), *options, upstream=upstream)

    def _files(self, authority: str, own: tuple[Path, Path]) -> list[str]:
        # As its own documents write flags.
        return [f"--{authority}={self.authority.ca}", f"-cert-file={own[0]}", f"-cert-key={own[1]}"]


class QuicServer(Predecessor):
    """`tidegate quic-server`."""

    def __init__(self, *options: str, host: str = "127.0.0.1") -> None:
        super().__init__("quic-server", "-listen-quic", f"{host}:0", f"--listen-tcp={host}:0", *options)
        self.quic, self.tcp = self.address("quic"), self.address("tcp")

    def until_offered(self, agents: int = 1) -> None:
        """Waits until so many agents have come since the start."""
        self.event("agent connected", transport="quic-tunnel", nth=agents)

    def streams(self) -> list[int]:
        """The streams of each agent's session."""
        status = request(self.admin, "/status").json()
        found = [each["listeners"] for each in status["endpoints"] if each["name"] == "quic-tunnel"]
        return [int(session["streams"]) for sessions in found for session in sessions]


class QuicClient(Tidegate):
    """`tidegate quic-client` or `quic-client-tcp`."""

    def __init__(self, server: str, *options: str | Path, upstream: str | None = None) -> None:
        name = "quic-client" if upstream is None else "quic-client-tcp"
        where = () if upstream is None else ("--upstream", upstream)
        super().__init__(name, f"--server={server}", *where, *options)

    def until_connected(self, times: int = 1) -> None:
        """Waits until its tunnel has been there so many times since the start."""
        self.ready("connected", nth=times)


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
