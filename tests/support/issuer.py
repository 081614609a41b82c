"""
Who signs tokens, by PyJWT: keys of every kind, tokens, and the keys that an issuer publishes by HTTPS.

What a gateway makes of them is the test's; the forms that no library makes are in `tests/system/forged.py`.
"""

from __future__ import annotations

import base64
import json
import secrets
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

_CURVES: dict[str, type[Any]] = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}


def _private(algorithm: str) -> Any:
    if algorithm.startswith("RS"):
        return rsa.generate_private_key(65537, 2048)
    if algorithm.startswith("ES"):
        return ec.generate_private_key(_CURVES[algorithm]())
    return ed25519.Ed25519PrivateKey.generate()


class Issuer:
    """Signs with one key, which nobody else has; `file` is what verifies it."""

    def __init__(self, folder: Path, algorithm: str = "HS256", kid: str | None = None, name: str = "issuer") -> None:
        self.name = name
        self.algorithm = algorithm
        self.kid = kid
        self.file = folder / f"{name}.key"
        self._key: Any = secrets.token_urlsafe(64) if algorithm.startswith("HS") else _private(algorithm)
        self.file.write_bytes(self.public)
        self.file.chmod(0o600)

    @property
    def public(self) -> bytes:
        """What the file holds: the secret, or the public key in PEM."""
        if isinstance(self._key, str):
            return self._key.encode()
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        pem: bytes = self._key.public_key().public_bytes(serialization.Encoding.PEM, form)
        return pem

    @property
    def source(self) -> dict[str, Any]:
        """The key as it stands in a verifier of a configuration."""
        return {"secret" if isinstance(self._key, str) else "public_key": {"file": str(self.file)}}

    @property
    def jwk(self) -> dict[str, Any]:
        """The public key as it stands in a JWKS."""
        algorithm: Any = jwt.get_algorithm_by_name(self.algorithm)
        made = dict(algorithm.to_jwk(self._key.public_key(), as_dict=True))
        made.pop("key_ops", None)
        return made | ({} if self.kid is None else {"kid": self.kid})

    def sign(self, claims: dict[str, Any], headers: dict[str, Any] | None = None) -> str:
        """A token of these claims and no others."""
        kid = {} if self.kid is None else {"kid": self.kid}
        return jwt.encode(claims, self._key, algorithm=self.algorithm, headers=kid | (headers or {}))

    def token(self, *endpoints: str, expires: float = 3600, tenant: str | None = None, **claims: Any) -> str:
        """A token for these endpoints; its time may have a fraction, and no two of them are the same."""
        said: dict[str, Any] = {"endpoints": list(endpoints)} if endpoints else {}
        if tenant is not None:
            said["tenant"] = tenant
        given = {"exp": int(time.time() + expires), "jti": secrets.token_hex(8), **({"tidegate": said} if said else {})}
        return self.sign(given | claims)


def bearer(token: str, field: str = "Authorization") -> dict[str, str]:
    """The field that shows a token."""
    return {field: f"Bearer {token}"}


def basic(user: str, password: str) -> dict[str, str]:
    """The field that shows a password."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answers with the keys."""
        server: Any = self.server
        server.published.asked += 1
        body = server.published.body
        self.send_response(server.published.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    published: Any

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is none."""


class PublishedKeys:
    """An HTTPS server for `localhost` that publishes the keys of issuers."""

    def __init__(self, tls: ssl.SSLContext, *issuers: Issuer) -> None:
        self.asked = 0
        self.status = 200
        self.publish(*issuers)
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.published = self
        self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://localhost:{self._server.server_address[1]}/jwks.json"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def publish(self, *issuers: Issuer) -> None:
        """From now on these are the keys."""
        self.body = json.dumps({"keys": [issuer.jwk for issuer in issuers]}).encode()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
