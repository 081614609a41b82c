"""TLS of the admin listener follows the configuration: its certificate, and whose certificates it believes."""

from __future__ import annotations

import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

from tests.support.certificates import Authority
from tests.support.process import until
from tests.support.raw import at
from tests.support.tidegate import Gateway, command
from tests.system.breaking import says

BIND = "127.0.0.1:0"
Client = tuple[Path, Path]


def test_the_admin_listener_speaks_tls_knows_clients_and_shows_a_renewed_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue("admin", "IP:127.0.0.1")
    shown = [tmp_path / "shown.pem", tmp_path / "shown.key"]
    tls = {"certificates": [{"cert": str(shown[0]), "key": str(shown[1])}], "client_ca": str(authority.ca)}
    client = [str(name) for name in authority.issue("operator", use="clientAuth")]

    def show(cert: Path, key: Path) -> None:
        for source, name in zip((cert, key), shown, strict=True):
            name.with_suffix(".new").write_bytes(source.read_bytes())
            name.with_suffix(".new").replace(name)

    def ask(*words: str, known: bool = True) -> subprocess.CompletedProcess[str]:
        url = f"https://{running.admin}"
        options = ["--cert", client[0], "--key", client[1]] if known else []
        words = (*words, "--url", url, "--ca", str(authority.ca), *options)
        return subprocess.run(command(*words), capture_output=True, text=True, timeout=30, check=False)

    show(cert, key)
    with Gateway(says("old", admin={"bind": BIND, "tls": tls})) as running:
        assert ask("reload").returncode == 0
        assert "in force for" in ask("status", "config").stdout
        assert ask("status", known=False).returncode == 1
        before = shown_serial(running.admin, client, authority)
        show(*authority.issue("renewed", "IP:127.0.0.1"))
        until(lambda: shown_serial(running.admin, client, authority) != before, "the new certificate is shown")
        shown[0].write_text("broken")
        running.event("configuration refused", trigger="file")
        assert ask("status").returncode == 0


def shown_serial(address: str, client: list[str], authority: Authority) -> str:
    """The serial number of the certificate that a new connection is shown."""
    context = ssl.create_default_context(cafile=str(authority.ca))
    context.load_cert_chain(*client)
    with (
        socket.create_connection(at(address), 10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
    ):
        found: dict[str, Any] = dict(tls.getpeercert() or {})
        return str(found["serialNumber"])


class Operators:
    """Two authorities, an operator of each, and whether the admin listener lets somebody in."""

    def __init__(self, folder: Path) -> None:
        for name in ("server", "old", "new"):
            (folder / name).mkdir()
        self.server = Authority(folder / "server")
        self.old, self.new = Authority(folder / "old", "old"), Authority(folder / "new", "new")
        self.of_old = self.old.issue("operator", use="clientAuth")
        self.of_new = self.new.issue("operator", use="clientAuth")
        cert, key = self.server.issue("admin", "IP:127.0.0.1")
        self.certificates = [{"cert": str(cert), "key": str(key)}]

    def says(self, word: str, **tls: object) -> dict[str, Any]:
        """A configuration whose admin listener has this TLS."""
        return dict(says(word, admin={"bind": BIND, "tls": {"certificates": self.certificates, **tls}}))

    def context(self, client: Client | None) -> ssl.SSLContext:
        """What somebody with this certificate connects with."""
        context = ssl.create_default_context(cafile=str(self.server.ca))
        if client is not None:
            context.load_cert_chain(*client)
        return context


def lets_in(address: str, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> bool:
    """Whether a request of `/status` is answered with 200; False where TLS ends before."""
    try:
        with (
            socket.create_connection(at(address), 10) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as tls,
        ):
            tls.sendall(b"GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            return tls.recv(12).endswith(b"200")
    except (ssl.SSLError, ConnectionError):
        return False


def test_client_ca_of_the_admin_listener_is_added_changed_and_removed_while_it_runs(tmp_path: Path) -> None:
    operators = Operators(tmp_path)
    nobody, old, new = (operators.context(each) for each in (None, operators.of_old, operators.of_new))
    believed = tmp_path / "believed.pem"
    believed.write_bytes(operators.old.ca.read_bytes())
    with Gateway(operators.says("0")) as gateway:

        def who() -> tuple[bool, bool, bool]:
            return lets_in(gateway.admin, nobody), lets_in(gateway.admin, old), lets_in(gateway.admin, new)

        assert who() == (True, True, True)
        gateway.write(operators.says("1", client_ca=str(believed)))
        gateway.event("configuration applied", nth=1)
        assert who() == (False, True, False)
        believed.write_bytes(operators.new.ca.read_bytes())
        gateway.event("configuration applied", nth=2)
        assert who() == (False, False, True)
        gateway.write(operators.says("3", client_ca=str(operators.old.ca), client_certificate="optional"))
        gateway.event("configuration applied", nth=3)
        assert who() == (True, True, False)
        gateway.write(operators.says("4"))
        gateway.event("configuration applied", nth=4)
        assert who() == (True, True, True)
        assert not gateway.seen("configuration refused")


def test_a_session_of_before_brings_nobody_in_whose_authority_is_gone(tmp_path: Path) -> None:
    operators = Operators(tmp_path)
    old = operators.context(operators.of_old)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with Gateway(operators.says("0", client_ca=str(operators.old.ca))) as gateway:
        with (
            socket.create_connection(at(gateway.admin), 10) as plain,
            old.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
        ):
            session = tls.session
        assert session is not None
        assert lets_in(gateway.admin, old, session)
        gateway.write(operators.says("1", client_ca=str(operators.new.ca)))
        gateway.event("configuration applied")
        assert not lets_in(gateway.admin, old, session)


def test_the_oldest_version_of_the_admin_listener_changes_while_it_runs(tmp_path: Path) -> None:
    operators = Operators(tmp_path)
    old = operators.context(None)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with Gateway(operators.says("0")) as gateway:
        assert lets_in(gateway.admin, old)
        gateway.write(operators.says("1", min_version="1.3"))
        gateway.event("configuration applied")
        assert not lets_in(gateway.admin, old)
        assert lets_in(gateway.admin, operators.context(None))
