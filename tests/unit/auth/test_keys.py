"""Keys that tokens are verified with."""

import base64
import contextlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.auth.making import SECRET, certificate, jwk, jwks, key, part
from tidegate.auth.keys import ALGORITHMS, LARGEST_SET, key_set, public_key, secret_key

PUBLIC = [name for name in ALGORITHMS if not name.startswith("HS")]


def pem(private: Any) -> bytes:
    found: bytes = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return found


@pytest.mark.parametrize("algorithm", PUBLIC)
def test_a_key_says_which_algorithms_fit_it(algorithm: str) -> None:
    found = public_key(key(algorithm).public or b"").algorithms
    assert found == (("RS256", "RS384", "RS512") if algorithm.startswith("RS") else (algorithm,))


def test_ed448_is_eddsa_too() -> None:
    assert public_key(pem(ed448.Ed448PrivateKey.generate())).algorithms == ("EdDSA",)


def test_a_key_is_known_by_its_fingerprint() -> None:
    # RFC 7638, 3.1.
    modulus = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhM"
        "stn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5"
        "hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    )
    found = key_set(jwks({"kty": "RSA", "n": modulus, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"}))
    assert found.keys[0].id == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


@pytest.mark.parametrize("algorithm", PUBLIC)
def test_the_same_key_has_the_same_id_wherever_it_stands(algorithm: str) -> None:
    alone = public_key(key(algorithm).public or b"")
    assert key_set(jwks(jwk(algorithm))).keys[0].id == alone.id
    assert public_key(key(algorithm, 1).public or b"").id != alone.id


def test_the_id_of_a_secret_is_the_same_in_this_process_and_says_nothing_about_it() -> None:
    assert secret_key(SECRET).id == secret_key(SECRET).id
    assert secret_key(SECRET).id != secret_key(SECRET + b"x").id
    assert "secret" not in repr(secret_key(SECRET))


def test_the_public_key_of_a_certificate_counts() -> None:
    der = certificate()
    text = f"-----BEGIN CERTIFICATE-----\n{_base64(der)}-----END CERTIFICATE-----\n".encode()
    assert public_key(text).algorithms == ("ES256",)
    with pytest.raises(ValueError, match="public_key"):
        secret_key(text)


def _base64(der: bytes) -> str:
    return base64.encodebytes(der).decode()


@pytest.mark.parametrize("algorithm", PUBLIC)
def test_a_private_key_is_refused_with_advice(algorithm: str) -> None:
    with pytest.raises(ValueError, match=r"is a private key, .*-pubout") as error:
        public_key(key(algorithm).private)
    assert "BEGIN" not in str(error.value)


def test_what_is_no_key_is_refused() -> None:
    begin = b"-----BEGIN PUBLIC KEY-----\n"
    for wrong in (
        b"",
        b"text",
        begin,
        begin + b"AAAA\n-----END PUBLIC KEY-----\n",
        pem(dsa.generate_private_key(2048)),
    ):
        with pytest.raises(ValueError, match=r"^is "):
            public_key(wrong)


def test_case_32_keys_that_are_too_weak_are_refused() -> None:
    weak = rsa.generate_private_key(65537, 1024)
    with pytest.raises(ValueError, match="1024 bits"):
        public_key(pem(weak))
    with pytest.raises(ValueError, match="secp256k1"):
        public_key(pem(ec.generate_private_key(ec.SECP256K1())))


@pytest.mark.parametrize(
    "wrong", [b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI", b'{"kty": "oct", "k": "AAAA"}', b'{"keys": [{"kty": "RSA"}]}']
)
def test_case_32_what_is_a_key_of_another_kind_is_no_secret(wrong: bytes) -> None:
    with pytest.raises(ValueError, match="no secret"):
        secret_key(wrong)


def test_a_secret_in_a_set_is_left_out_and_told() -> None:
    secret = {"kty": "oct", "k": part(SECRET), "kid": "hs", "alg": "HS512"}
    found = key_set(jwks(jwk("ES256", kid="a"), secret))
    assert [each.kid for each in found.keys] == ["a"]
    assert "keys[1]: is a secret" in found.notes[0]
    lack = key_set(jwks(secret)).lack
    assert lack is not None
    assert lack.startswith("holds no key that verifies signatures; keys[0]: is a secret")


def test_a_set_holds_keys_of_every_kind_by_their_names() -> None:
    written = [jwk(name, kid=name) for name in ("RS256", "ES256", "ES384", "ES512", "EdDSA")]
    found = {each.kid: each.algorithms for each in key_set(jwks(*written)).keys}
    assert found == {
        "RS256": ("RS256", "RS384", "RS512"), "ES256": ("ES256",), "ES384": ("ES384",), "ES512": ("ES512",),
        "EdDSA": ("EdDSA",),
    }  # fmt: skip


@pytest.mark.parametrize(
    "more",
    [
        {"use": "enc"},
        {"use": 1},
        {"key_ops": ["encrypt"]},
        {"key_ops": "verify"},
        {"alg": "RSA-OAEP"},
        {"alg": "ES256"},
        {"kty": "X"},
    ],
)
def test_case_34_a_key_for_something_else_is_left_out(more: dict[str, Any]) -> None:
    found = key_set(jwks(jwk("RS256", kid="a", **more), jwk("ES256", kid="b", use="sig", key_ops=["verify"])))
    assert [each.kid for each in found.keys] == ["b"]


def test_case_34_of_two_keys_under_one_name_neither_counts() -> None:
    found = key_set(jwks(jwk("ES256", kid="a"), jwk("ES256", kid="a", which=1), jwk("EdDSA", kid="b")))
    assert [each.kid for each in found.keys] == ["b"]
    assert found.notes == ('kid "a" stands for several keys; they are left out',)
    same = key_set(jwks(jwk("ES256", kid="a"), jwk("ES256", kid="a")))
    assert [each.kid for each in same.keys] == ["a"]


def test_case_34_a_key_that_cannot_be_used_is_left_out_and_told() -> None:
    weak = rsa.generate_private_key(65537, 1024).public_key().public_numbers()
    n = part(weak.n.to_bytes(128, "big"))
    wrong = [
        "text", {"kty": "EC", "crv": "P-256", "x": part(b"1"), "y": part(b"2")}, {"kty": "RSA", "n": n, "e": "AQAB"},
        {"kty": "RSA", "n": 3}, {"kty": "RSA"}, {"kty": "OKP", "crv": "Ed25519", "x": "AA"}, jwk("ES256", d="AA"),
        {**jwk("ES256"), "kid": 1}, {"kty": "oct", "k": ""}, {"kty": "oct", "k": part(key("RS256").public or b"")},
    ]  # fmt: skip
    found = key_set(jwks(*wrong, jwk("EdDSA", kid="good")))
    assert [each.kid for each in found.keys] == ["good"]
    assert len(found.notes) == len(wrong)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"<html>", b"[]", b"null", b'{"keys": {}}', b'{"keys": null}',
        b'{"keys": [], "keys": []}', jwks(jwk("ES256"), jwk("ES256"))[:-3], b"{" + b" " * LARGEST_SET + b"}", b"\xff",
        b"[" * 10000, json.dumps({"keys": [{}] * 201}).encode(),
    ],
    ids=range(12),
)  # fmt: skip
def test_case_34_what_is_no_set_of_keys_is_an_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"^(is|holds) "):
        key_set(body)


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["kty", "crv", "x", "y", "n", "e", "k", "kid", "use", "alg"]),
            st.one_of(
                st.sampled_from(["RSA", "EC", "OKP", "oct", "P-256", "Ed25519", "AQAB"]),
                st.text(),
                st.none(),
                st.integers(),
            ),
        ),
        max_size=3,
    )
)
def test_case_34_any_set_is_read_or_an_error(members: list[dict[str, Any]]) -> None:
    with contextlib.suppress(ValueError):
        found = key_set(jwks(*members))
        assert (found.lack is None) == bool(found.keys)
