"""Keys, tokens and certificates for tests."""

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from jwt.algorithms import get_default_algorithms

from tidegate.auth import keys, signing
from tidegate.auth.verify import FixedKeys, Verifier, VerifierSet

NOW = 1_800_000_000.0
"""What the clock of the tests says."""

SECRET = b"a secret of the tests, longer than any hash that is made with it here"


def key(algorithm: str, which: int = 0) -> signing.NewKey:
    """A key for an algorithm, the same in every test; `which` tells several apart."""
    return _key(algorithm, which)


@cache
def _key(algorithm: str, which: int) -> signing.NewKey:
    assert which >= 0
    return signing.new_key(algorithm)


def part(value: Any) -> str:
    """One part of a token: JSON as it comes, or text that stands for itself."""
    text = value if isinstance(value, (str, bytes)) else json.dumps(value)
    data = text.encode() if isinstance(text, str) else text
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(claims: Any, header: Any = None, secret: bytes = SECRET, algorithm: str = "HS256") -> str:
    """A token that is signed with a secret, whatever its parts say."""
    signed = f"{part({'alg': algorithm} if header is None else header)}.{part(claims)}"
    signature = get_default_algorithms()[algorithm].sign(signed.encode(), secret)
    return f"{signed}.{part(signature)}"


def signed(algorithm: str, claims: Mapping[str, Any], kid: str | None = None, which: int = 0) -> str:
    """A token that is signed with the key of an algorithm."""
    return signing.sign(signing.signing_key(key(algorithm, which).private.strip()), algorithm, claims, kid)


def fixed(algorithm: str = "HS256", name: str = "main", which: int = 0) -> FixedKeys:
    """The key that verifies what `signed` signs."""
    public = key(algorithm, which).public
    if public is None:
        return FixedKeys(keys.secret_key(key(algorithm, which).private.strip()))
    return FixedKeys(keys.public_key(public))


def verifier(name: str = "main", **terms: Any) -> Verifier:
    """A verifier of the tokens that `token` makes."""
    return Verifier(name, FixedKeys(keys.secret_key(SECRET)), **terms)


def verifiers(*members: Verifier, **terms: Any) -> VerifierSet:
    """A set of them, whose clock says `NOW`."""
    return VerifierSet(members or (verifier(),), clock=lambda: NOW, **terms)


def jwk(algorithm: str, kid: str | None = None, which: int = 0, **more: Any) -> dict[str, Any]:
    """A public key as it stands in a JWKS."""
    loaded = serialization.load_pem_public_key(key(algorithm, which).public or b"")
    made = get_default_algorithms()[algorithm].to_jwk(loaded, as_dict=True)
    made.pop("key_ops", None)
    return {**made, **({} if kid is None else {"kid": kid}), **more}


def jwks(*members: Any) -> bytes:
    """The text of a JWKS."""
    return json.dumps({"keys": list(members)}).encode()


def certificate(
    cn: tuple[str, ...] = ("web",),
    dns: tuple[str, ...] = (),
    o: tuple[str, ...] = (),
    ou: tuple[str, ...] = (),
    days: tuple[int, int] = (-1, 1),
) -> bytes:
    """A certificate in DER, good from so many days from `NOW` to so many."""
    private = ec.generate_private_key(ec.SECP256R1())
    oids = [(NameOID.COMMON_NAME, cn), (NameOID.ORGANIZATION_NAME, o), (NameOID.ORGANIZATIONAL_UNIT_NAME, ou)]
    name = x509.Name([x509.NameAttribute(oid, text) for oid, texts in oids for text in texts])
    now = datetime.fromtimestamp(NOW, UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
    )
    if dns:
        made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in dns]), critical=False)
    return made.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
