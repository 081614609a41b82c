"""A certificate authority of the test's own."""

from __future__ import annotations

import ssl
from pathlib import Path

from tests.support.tools import need, run

KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


class Authority:
    """Signs certificates; its own is the file `ca`."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        self._folder = folder
        self.ca = folder / "ca.pem"
        self._key = folder / "ca.key"
        self._openssl("req", "-x509", *KEY, "-keyout", self._key, "-out", self.ca, "-subj", f"/CN={name}")

    def issue(
        self, name: str, *alternatives: str, use: str = "serverAuth", organisation: str | None = None
    ) -> tuple[Path, Path]:
        """A certificate and its key; `alternatives` are like `DNS:localhost`."""
        cert, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        request, extensions = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        names = ",".join(alternatives) or f"DNS:{name}"
        owner = f"/O={organisation}" if organisation else ""
        extensions.write_text(f"subjectAltName={names}\nextendedKeyUsage={use}\nbasicConstraints=CA:FALSE\n")
        self._openssl("req", *KEY, "-keyout", key, "-out", request, "-subj", f"{owner}/CN={name}")
        signing: list[str | Path] = [
            "-CA",
            self.ca,
            "-CAkey",
            self._key,
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            extensions,
        ]
        self._openssl("x509", "-req", "-in", request, "-out", cert, *signing)
        return cert, key

    def server(self, *alternatives: str) -> ssl.SSLContext:
        """What a server of these names speaks."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue("server", *alternatives))
        return context

    def demanding(self, *alternatives: str) -> ssl.SSLContext:
        """The same of a server that wants a certificate of ours from its clients."""
        context = self.server(*alternatives)
        context.load_verify_locations(self.ca)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client(self, *protocols: str, known: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        """What a client speaks that trusts it, for whatever name; `known` are its own certificate and key."""
        context = ssl.create_default_context(cafile=str(self.ca))
        context.check_hostname = False
        if protocols:
            context.set_alpn_protocols(list(protocols))
        if known:
            context.load_cert_chain(*known)
        return context

    def _openssl(self, *arguments: str | Path) -> None:
        run(need("openssl"), *arguments)
