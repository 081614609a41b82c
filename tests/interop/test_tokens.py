"""Tokens of golang-jwt, with which Piko verifies its own, and ours: each side accepts what the other has signed."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from tests.interop.programs import binaries
from tidegate.auth import keys, signing
from tidegate.auth.verdict import Granted, Refused
from tidegate.auth.verify import FixedKeys, Verifier, VerifierSet


def golang(what: str, algorithm: str, key: Path, text: str) -> str:
    """What the program prints."""
    command = [str(binaries() / "token"), "--alg", algorithm, "--key", str(key), what]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def pair(folder: Path, algorithm: str) -> tuple[Path, Path]:
    """The file that signs and the one that verifies."""
    made = signing.new_key(algorithm)
    private, public = folder / "private", folder / "public"
    private.write_bytes(made.private.strip())
    public.write_bytes(made.public or made.private.strip())
    return private, public


def verifiers(algorithm: str, public: Path) -> VerifierSet:
    key = keys.secret_key if algorithm.startswith("HS") else keys.public_key
    return VerifierSet([Verifier("main", FixedKeys(key(public.read_bytes())), audience=["gate"])])


@pytest.mark.parametrize("algorithm", keys.ALGORITHMS)
def test_a_token_of_golang_jwt_is_good(algorithm: str, tmp_path: Path) -> None:
    private, public = pair(tmp_path, algorithm)
    claims = {"exp": time.time() + 60, "aud": ["gate", "x"], "piko": {"endpoints": ["web"]}}
    token = golang("sign", algorithm, private, json.dumps(claims))

    verdict = verifiers(algorithm, public).verify(token)

    assert isinstance(verdict, Granted), verdict
    assert (verdict.listen, verdict.reach) == (("web",), ("web",))
    head, body, signature = token.split(".")
    other = verifiers(algorithm, public).verify(f"{head}.{body}.{signature[:-6]}{signature[-6:][::-1]}")
    assert isinstance(other, Refused)


@pytest.mark.parametrize("algorithm", keys.ALGORITHMS)
def test_golang_jwt_takes_a_token_of_ours(algorithm: str, tmp_path: Path) -> None:
    private, public = pair(tmp_path, algorithm)
    claims = {"exp": int(time.time()) + 60, "tidegate": {"endpoints": ["web"]}}

    token = signing.sign(signing.signing_key(private.read_bytes()), algorithm, claims)

    assert json.loads(golang("verify", algorithm, public, token)) == claims
