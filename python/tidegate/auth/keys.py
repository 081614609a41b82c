"""
Keys that tokens are verified with: a secret, a public key, or a set of keys (JWKS).

Bytes in, keys or `ValueError` out; reading files is `secrets`, fetching is `jwks`. A key says by itself which
algorithms fit it, so that a token can never choose how its signature is checked.
"""

import hashlib
import hmac
import json
import re
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import Algorithm, get_default_algorithms

from tidegate.auth import strict

__all__ = [
    "ALGORITHMS",
    "LARGEST_SET",
    "Key",
    "KeySet",
    "key_set",
    "public_key",
    "secret_key",
    "unlike_secret",
    "verify",
]

_HMAC = ("HS256", "HS384", "HS512")
_RSA = ("RS256", "RS384", "RS512")
_EC = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_EDDSA = "EdDSA"

ALGORITHMS = (*_HMAC, *_RSA, *_EC.values(), _EDDSA)
"""Every algorithm that a token may be signed with."""

LARGEST_SET = 1 << 20
"""Bytes of a JWKS."""

_MOST_KEYS = 200
"""Of a JWKS. A token without `kid` is tried on every key that fits, so their number is work for whoever sends one."""

_LEAST_RSA_BITS = 2048
_MOST_RSA_BITS = 16384

# Identifies a secret while this process lives and in no other, so that an id cannot be used to guess the secret.
_SALT = secrets.token_bytes(32)

_VERIFIERS: Mapping[str, Algorithm] = {name: get_default_algorithms()[name] for name in ALGORITHMS}


@dataclass(frozen=True)
class Key:
    """One key that verifies signatures."""

    id: str
    """Its fingerprint."""
    algorithms: tuple[str, ...]
    """The algorithms that fit it."""
    material: Any = field(repr=False, compare=False)
    """The secret's bytes or the public key."""
    kid: str | None = None
    """The name that a JWKS gives it."""


@dataclass(frozen=True)
class KeySet:
    """What a JWKS holds."""

    keys: tuple[Key, ...]
    """The keys that count."""
    notes: tuple[str, ...] = ()
    """What was left out, and why."""

    @property
    def lack(self) -> str | None:
        """Why no token can be verified with it, where none can."""
        return None if self.keys else "; ".join(["holds no key that verifies signatures", *self.notes])


def verify(key: Key, algorithm: str, signed: bytes, signature: bytes) -> bool:
    """Whether a signature was made with this key by this algorithm, which has to fit it."""
    if algorithm not in key.algorithms:
        return False
    if algorithm.startswith("ES"):
        half = len(signature) // 2
        # A pair of zeros once verified everywhere in a widely used library.
        if not any(signature[:half]) or not any(signature[half:]):
            return False
    try:
        return _VERIFIERS[algorithm].verify(signed, key.material, signature)
    except (ValueError, TypeError, jwt.PyJWTError):
        return False


def secret_key(secret: bytes) -> Key:
    """The key of HS256 and its like; anything that is no secret at all is refused."""
    unlike_secret(secret)
    return Key(_of_secret(secret), _HMAC, secret)


def unlike_secret(secret: bytes) -> None:
    """Refuses as a secret what others know: a public key, a certificate, a JWK."""
    if b"-----BEGIN " in secret:
        raise ValueError("is a PEM key or certificate and no secret (a public key belongs under `public_key`)")
    try:
        _VERIFIERS["HS256"].prepare_key(secret)
    except jwt.InvalidKeyError:
        raise ValueError(
            "is a key or certificate and no secret (use `public_key` or `jwks`, or the text of `tidegate token key`)"
        ) from None


def public_key(pem: bytes) -> Key:
    """The key in a PEM file: a public key, or that of a certificate."""
    if re.search(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----", pem):
        raise ValueError(
            "is a private key, which only its owner should have (`openssl pkey -in KEY -pubout` prints the public one)"
        )
    if b"-----BEGIN " not in pem:
        raise ValueError("is no public key in PEM form (it begins with -----BEGIN PUBLIC KEY-----)")
    try:
        found: Any
        if b"-----BEGIN CERTIFICATE-----" in pem:
            found = x509.load_pem_x509_certificate(pem).public_key()
        else:
            found = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("is no public key that can be read (PEM of RSA, EC, Ed25519 or Ed448)") from None
    return _key(found)


def key_set(body: bytes) -> KeySet:
    """The keys of a JWKS that are for verifying signatures, maybe none; what is no JWKS is a `ValueError`."""
    if len(body) > LARGEST_SET:
        raise ValueError(f"is larger than {LARGEST_SET // 1024} KiB")
    try:
        written = strict.parse(body)
    except ValueError as error:
        raise ValueError(f"is no JWKS: {error}") from None
    members = written.get("keys")
    if not isinstance(members, list):
        raise ValueError("is no JWKS: it has no list `keys`")
    if len(members) > _MOST_KEYS:
        raise ValueError(f"holds more than {_MOST_KEYS} keys")
    keys: list[Key] = []
    notes: list[str] = []
    for number, member in enumerate(members):
        try:
            found = _from_jwk(member)
        except (ValueError, UnsupportedAlgorithm) as error:
            notes.append(f"keys[{number}]: {error}; it is left out")
            continue
        if found is not None:
            keys.append(found)
    # Of two keys under one name nobody can say which is meant, so neither counts; the same key twice is one.
    keys = list({(key.id, key.kid, key.algorithms): key for key in keys}.values())
    names = Counter(key.kid for key in keys if key.kid is not None)
    twice = {name for name, count in names.items() if count > 1}
    notes += [f"kid {json.dumps(name)} stands for several keys; they are left out" for name in sorted(twice)]
    keys = [key for key in keys if key.kid not in twice]
    return KeySet(tuple(keys), tuple(notes))


def _from_jwk(member: Any) -> Key | None:
    """A key, or nothing where it is for something else."""
    if not isinstance(member, dict):
        raise ValueError("is no object")
    use, operations = member.get("use"), member.get("key_ops")
    if use is not None and use != "sig":
        return None
    if operations is not None and (not isinstance(operations, list) or "verify" not in operations):
        return None
    kid, algorithm = member.get("kid"), member.get("alg")
    if kid is not None and not isinstance(kid, str):
        raise ValueError("`kid` is no text")
    kind = member.get("kty")
    if kind == "oct":
        raise ValueError("is a secret, and a set of keys is for public ones (a secret belongs under `secret`)")
    if kind in _KINDS and "d" in member:
        raise ValueError("holds a private key, so anybody may have it")
    key = _KINDS[kind](member) if isinstance(kind, str) and kind in _KINDS else None
    if key is None:
        return None
    # RFC 9864 gives the two curves of EdDSA names of their own.
    algorithm = _EDDSA if algorithm in ("Ed25519", "Ed448") else algorithm
    fitting = key.algorithms if algorithm is None else tuple(each for each in key.algorithms if each == algorithm)
    return Key(key.id, fitting, key.material, kid) if fitting else None


def _jwk_rsa(member: Mapping[str, Any]) -> Key:
    return _key(rsa.RSAPublicNumbers(_number(member, "e"), _number(member, "n")).public_key())


def _jwk_ec(member: Mapping[str, Any]) -> Key | None:
    curves: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
    curve = curves.get(_text(member, "crv"))
    if curve is None:
        return None
    return _key(ec.EllipticCurvePublicNumbers(_number(member, "x"), _number(member, "y"), curve).public_key())


def _jwk_okp(member: Mapping[str, Any]) -> Key | None:
    name = _text(member, "crv")
    if name == "Ed25519":
        return _key(ed25519.Ed25519PublicKey.from_public_bytes(_bytes(member, "x")))
    if name == "Ed448":
        return _key(ed448.Ed448PublicKey.from_public_bytes(_bytes(member, "x")))
    return None


_KINDS: Mapping[str, Callable[[Mapping[str, Any]], Key | None]] = {
    "RSA": _jwk_rsa,
    "EC": _jwk_ec,
    "OKP": _jwk_okp,
}


def _key(found: Any) -> Key:
    if isinstance(found, rsa.RSAPublicKey):
        if not _LEAST_RSA_BITS <= found.key_size <= _MOST_RSA_BITS:
            raise ValueError(
                f"is an RSA key of {found.key_size} bits (from {_LEAST_RSA_BITS} to {_MOST_RSA_BITS} are accepted)"
            )
        numbers = found.public_numbers()
        members = {"e": _integer(numbers.e), "kty": "RSA", "n": _integer(numbers.n)}
        algorithms: tuple[str, ...] = _RSA
    elif isinstance(found, ec.EllipticCurvePublicKey):
        algorithm = _EC.get(found.curve.name)
        if algorithm is None:
            raise ValueError(f"is an EC key of the curve {found.curve.name} (P-256, P-384 and P-521 are accepted)")
        point, size = found.public_numbers(), (found.key_size + 7) // 8
        curve = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}[algorithm]
        members = {"crv": curve, "kty": "EC", "x": _integer(point.x, size), "y": _integer(point.y, size)}
        algorithms = (algorithm,)
    elif isinstance(found, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        curve = "Ed25519" if isinstance(found, ed25519.Ed25519PublicKey) else "Ed448"
        members = {"crv": curve, "kty": "OKP", "x": strict.encoded(found.public_bytes_raw())}
        algorithms = (_EDDSA,)
    else:
        raise ValueError("is a key of a kind that signs no tokens (RSA, EC, Ed25519 and Ed448 are accepted)")
    return Key(_thumbprint(members), algorithms, found)


def _thumbprint(members: Mapping[str, str]) -> str:
    """RFC 7638: the fingerprint of a public key, given the members that make it."""
    text = json.dumps(members, sort_keys=True, separators=(",", ":"))
    return strict.encoded(hashlib.sha256(text.encode()).digest())


def _of_secret(secret: bytes) -> str:
    return strict.encoded(hmac.digest(_SALT, secret, "sha256"))


def _text(member: Mapping[str, Any], name: str) -> str:
    value = member.get(name)
    if not isinstance(value, str):
        raise ValueError(f"has no `{name}`")
    return value


def _bytes(member: Mapping[str, Any], name: str) -> bytes:
    try:
        return strict.base64url(_text(member, name).rstrip("="))
    except ValueError:
        raise ValueError(f"`{name}` cannot be read") from None


def _number(member: Mapping[str, Any], name: str) -> int:
    return int.from_bytes(_bytes(member, name), "big")


def _integer(number: int, size: int | None = None) -> str:
    return strict.encoded(number.to_bytes(size or (number.bit_length() + 7) // 8, "big"))
