"""
Makes keys, and tokens that are signed with them.

What a token may say is `token`'s to read; who keeps a key is the caller's.
"""

import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import get_default_algorithms

from tidegate.auth import keys
from tidegate.auth.strict import encoded

__all__ = ["NewKey", "SigningKey", "new_key", "sign", "signing_key"]


@dataclass(frozen=True)
class NewKey:
    """A key that nobody has had before."""

    private: bytes = field(repr=False)
    """The file that signs: a secret as a line of text, or a private key in PEM."""
    public: bytes | None
    """The file that verifies, in PEM; none for a secret, which does both."""


@dataclass(frozen=True)
class SigningKey:
    """A key that signs."""

    algorithms: tuple[str, ...]
    """The algorithms that fit it; the first is the usual one."""
    material: Any = field(repr=False)
    """The secret's bytes or the private key."""


_MAKERS: Mapping[str, Callable[[], Any]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512"), lambda: rsa.generate_private_key(65537, 3072)),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ES512": lambda: ec.generate_private_key(ec.SECP521R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


def new_key(algorithm: str) -> NewKey:
    """A fresh key for one of `keys.ALGORITHMS`."""
    if algorithm not in _MAKERS:
        # As long as the longest hash, so that it is good for HS512 too.
        return NewKey(secrets.token_urlsafe(64).encode() + b"\n", None)
    private = _MAKERS[algorithm]()
    return NewKey(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
    )


def signing_key(value: bytes) -> SigningKey:
    """The key in what a file holds, or a `ValueError`."""
    if not re.search(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----", value):
        if b"-----BEGIN " in value:
            raise ValueError("is no private key; a public key only verifies (tokens are signed with the other file)")
        return SigningKey(keys.secret_key(value).algorithms, value)
    try:
        found = serialization.load_pem_private_key(value, None)
    except TypeError:
        raise ValueError("is encrypted; there is nobody to ask for its password") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("is no private key that can be read (PEM of RSA, EC, Ed25519 or Ed448)") from None
    if not isinstance(
        found, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey
    ):
        raise ValueError("is a key of a kind that signs no tokens (RSA, EC, Ed25519 and Ed448 do)")
    public = found.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return SigningKey(keys.public_key(public).algorithms, found)


def sign(key: SigningKey, algorithm: str, claims: Mapping[str, Any], kid: str | None = None) -> str:
    """A token."""
    header = {"alg": algorithm, "typ": "JWT"} | ({} if kid is None else {"kid": kid})
    signed = f"{_part(header)}.{_part(claims)}"
    return f"{signed}.{encoded(get_default_algorithms()[algorithm].sign(signed.encode(), key.material))}"


def _part(members: Mapping[str, Any]) -> str:
    return encoded(json.dumps(members, separators=(",", ":")).encode())
