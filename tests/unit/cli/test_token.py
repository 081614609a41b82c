"""`tidegate token key`, `sign`, `verify` and `inspect`."""

import io
import json
import stat
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import pytest

from tidegate.auth.keys import ALGORITHMS
from tidegate.cli.token.when import when

Run = Callable[..., Any]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """What standard input says."""
    stream = SimpleNamespace(buffer=io.BytesIO(text.encode()), isatty=lambda: False)
    monkeypatch.setattr("sys.stdin", stream)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_signs_what_it_verifies(here: Path, tidegate: Run, algorithm: str) -> None:
    assert tidegate("token", "key", "--alg", algorithm, "--out", "k").code == 0
    assert stat.S_IMODE((here / "k").stat().st_mode) == 0o600
    other = "k" if algorithm.startswith("HS") else "k.pub"
    assert (here / "k.pub").exists() == (other == "k.pub")
    signed = tidegate("token", "sign", "--key", "k", "--alg", algorithm, "--endpoint", "web", "--expires", "1h")
    assert (signed.code, signed.stderr) == (0, "")
    token = signed.stdout.strip()
    assert jwt.get_unverified_header(token)["alg"] == algorithm
    good = tidegate("token", "verify", "--key", other, token)
    assert good.code == 0, good
    assert good.stdout.startswith("good: may listen on web; may reach web; expires 2")
    assert tidegate("token", "verify", "--key", other, token[:-4] + "AAAA").code == 1


@pytest.mark.parametrize("there", ["token.key", "token.key.pub"])
def test_nothing_that_is_there_is_written_over(here: Path, tidegate: Run, there: str) -> None:
    (here / there).write_text("mine")
    ran = tidegate("token", "key", "--alg", "ES256")
    assert (ran.code, ran.stderr) == (2, f"error: {there} is there already; it was left alone\n")
    assert [each.name for each in here.iterdir()] == [there]
    assert (here / there).read_text() == "mine"


def test_a_file_that_cannot_be_written_is_told(here: Path, tidegate: Run) -> None:
    ran = tidegate("token", "key", "--out", "missing/k")
    assert (ran.code, ran.stderr) == (2, "error: missing/k: cannot be written: no such file or directory\n")


def test_a_token_says_what_was_asked_for(here: Path, tidegate: Run) -> None:
    tidegate("token", "key")
    words = ["--endpoint", "a", "--endpoint", "b*", "--listen", "c", "--reach", "d", "--tenant", "acme"]
    words += ["--expires", "30d", "--issuer", "i", "--audience", "x"]
    ran = tidegate("token", "sign", "--key", "token.key", *words, "--audience", "y", "--subject", "s", "--kid", "k1")
    claims = jwt.decode(ran.stdout.strip(), options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 30 * 86400
    assert abs(claims["iat"] - time.time()) < 60
    assert {name: value for name, value in claims.items() if name not in ("iat", "exp")} == {
        "iss": "i", "sub": "s", "aud": ["x", "y"],
        "tidegate": {"endpoints": ["a", "b*"], "listen": ["c"], "reach": ["d"], "tenant": "acme"},
    }  # fmt: skip
    assert jwt.get_unverified_header(ran.stdout.strip()) == {"alg": "HS256", "typ": "JWT", "kid": "k1"}


def test_what_is_unwise_is_a_warning(here: Path, tidegate: Run) -> None:
    (here / "weak").write_text("short")
    (here / "weak").chmod(0o644)
    ran = tidegate("token", "sign", "--key", "weak")
    assert ran.code == 0
    warnings = ran.stderr.splitlines()
    assert [each.startswith("warning: ") for each in warnings] == [True] * 4
    for word, line in zip(
        ("chmod 600", "fewer than 32 bytes", "never expires", "names no endpoint"), warnings, strict=True
    ):
        assert word in line
    assert "short" not in ran.stderr.replace("fewer", "")


def test_a_token_in_a_file_is_for_its_owner_and_replaces_the_last_one(here: Path, tidegate: Run) -> None:
    tidegate("token", "key")
    (here / "token").write_text("old")
    words = ("token", "sign", "--key", "token.key", "--endpoint", "web", "--expires", "1h", "--out", "token")
    assert tidegate(*words).stdout == "token: written\n"
    assert stat.S_IMODE((here / "token").stat().st_mode) == 0o600
    assert tidegate("token", "verify", "--key", "token.key", "--token-file", "token").code == 0
    assert sorted(each.name for each in here.iterdir()) == ["token", "token.key"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--endpoint", "a/b"], 2, "is no endpoint"),
        (["--tenant", "a*"], 2, "is no name of a tenant"),
        (["--expires", "soon"], 2, "is no duration"),
        (["--alg", "ES256"], 2, "ES256 does not fit token.key (it signs by HS256, HS384, HS512)"),
        (["--key", "pub"], 2, "pub is no private key; a public key only verifies"),
        (["--key", "none"], 2, "--key: none: cannot read it: no such file or directory"),
        (["--endpoint", "x" * 128] + [w for n in range(150) for w in ("--endpoint", f"{n}{'x' * 100}")], 2, "16 KiB"),
    ],
    ids=range(7),
)
def test_what_cannot_be_signed_is_told(here: Path, tidegate: Run, words: list[str], code: int, message: str) -> None:
    tidegate("token", "key")
    tidegate("token", "key", "--alg", "ES256", "--out", "k")
    (here / "k.pub").rename(here / "pub")
    ran = tidegate("token", "sign", "--key", "token.key", *words)
    assert (ran.code, ran.stdout) == (code, "")
    assert message in ran.stderr


@pytest.fixture
def configured(here: Path, tidegate: Run) -> Path:
    tidegate("token", "key")
    tidegate("token", "key", "--alg", "ES256", "--out", "ops.pem")
    (here / "tidegate.yaml").write_text(
        "verifiers:\n  main: {secret: {file: token.key}, audience: gate}\n"
        "  ops: {public_key: {file: ops.pem.pub}, unlimited: true, tenant: acme}\n"
        "tenants: {acme: {}}\n"
    )
    return here


def sign(tidegate: Run, *words: str) -> str:
    token: str = tidegate("token", "sign", *words).stdout.strip()
    return token


def test_a_gateways_own_terms_count(configured: Path, tidegate: Run) -> None:
    token = sign(tidegate, "--key", "token.key", "--endpoint", "web", "--audience", "gate", "--expires", "1h")
    asked = ("token", "verify", "--config", "tidegate.yaml")
    assert tidegate(*asked, token).code == 0
    assert tidegate(*asked, "--verifier", "main", "--listen", "web", "--reach", "web", token).code == 0
    other = tidegate(*asked, "--verifier", "ops", token)
    assert (other.code, other.stderr) == (1, "error: invalid token: ops: is not signed by ES256\n")
    narrow = tidegate(*asked, "--listen", "db", token)
    assert (narrow.code, narrow.stderr) == (1, "error: endpoint not permitted: db\n")
    whose = tidegate(*asked, "--tenant", "acme", token)
    assert (whose.code, whose.stderr) == (1, "error: unknown tenant: main: belongs to another tenant\n")
    everything = tidegate(*asked, sign(tidegate, "--key", "ops.pem", "--expires", "1h"))
    assert everything.stdout.startswith("good: tenant acme; may listen on everything; may reach everything; expires ")


def test_what_is_wrong_with_a_token_is_told(configured: Path, tidegate: Run) -> None:
    asked = ("token", "verify", "--config", "tidegate.yaml", "--verifier", "main")
    expected = {
        ("--audience", "x", "--expires", "1h"): 'invalid token: main: is not for "gate"',
        ("--audience", "gate", "--expires", "0s"): "expired token: main: has expired",
        ("--audience", "gate"): "invalid token: main: has no expiry (`exp`)",
    }
    for words, message in expected.items():
        token = sign(tidegate, "--key", "token.key", "--endpoint", "web", *words)
        ran = tidegate(*asked, token)
        assert (ran.code, ran.stdout, ran.stderr) == (1, "", f"error: {message}\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "write --config FILE or --key FILE"),
        (["--config", "tidegate.yaml", "--key", "token.key"], "write --config FILE or --key FILE"),
        (["--key", "token.key", "--verifier", "main"], "--verifier needs --config FILE"),
        (["--config", "tidegate.yaml", "--verifier", "min"], "there is no verifier `min` (main, ops)"),
        (["--config", "none.yaml"], "none.yaml"),
        (["--key", "ops.pem"], "ops.pem is a private key"),
        (["--key", "token.key", "--token-file", "token.key"], "two ways to say the same"),
    ],
    ids=range(7),
)
def test_what_cannot_be_asked_is_told(configured: Path, tidegate: Run, words: list[str], message: str) -> None:
    ran = tidegate("token", "verify", *words, "a.b.c")
    assert ran.code == 2
    assert message in ran.stderr


def test_a_set_of_keys_verifies_too(configured: Path, tidegate: Run) -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from jwt.algorithms import ECAlgorithm

    public: Any = load_pem_public_key((configured / "ops.pem.pub").read_bytes())
    (configured / "jwks.json").write_text(json.dumps({"keys": [ECAlgorithm.to_jwk(public, as_dict=True)]}))
    token = sign(tidegate, "--key", "ops.pem", "--endpoint", "web", "--expires", "1h")
    assert tidegate("token", "verify", "--key", "jwks.json", "--key", "token.key", token).code == 0


def test_a_token_comes_by_standard_input_or_a_file(
    configured: Path, tidegate: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = sign(tidegate, "--key", "token.key", "--endpoint", "web", "--expires", "1h")
    for words in (["-"], []):
        told(monkeypatch, f"Bearer {token}\n")
        assert tidegate("token", "verify", "--key", "token.key", *words).code == 0
    (configured / "t").write_text(f"{token}\n")
    assert tidegate("token", "verify", "--key", "token.key", "--token-file", "t").code == 0
    told(monkeypatch, " \n")
    assert tidegate("token", "inspect", "-").stderr == "error: the token is empty\n"


def test_inspect_shows_everything_and_believes_nothing(configured: Path, tidegate: Run) -> None:
    token = sign(tidegate, "--key", "token.key", "--endpoint", "web", "--expires", "30d", "--kid", "\x1b[31m")
    ran = tidegate("token", "inspect", token)
    assert ran.code == 0
    assert ran.stderr == ""
    lines = ran.stdout.splitlines()
    assert lines[0] == "header:"
    assert '  kid: "\\u001b[31m"' in lines
    assert "claims:" in lines
    [ends] = [line for line in lines if line.startswith("  exp: ")]
    assert ends.endswith(" UTC, in 30 d)")
    assert '  tidegate: {"endpoints": ["web"]}' in lines
    assert lines[-1] == "signature not checked (`tidegate token verify` checks it)"


@pytest.mark.parametrize(
    "token", ["x", "a.b.c", "e30.W10.", "e30.eyJleHAiOiJ4In0.", "." * 1000, "eyJhbGciOiJub25lIn0.e30."]
)
def test_inspect_refuses_nothing(tidegate: Run, token: str) -> None:
    ran = tidegate("token", "inspect", token)
    assert ran.code == 0
    assert "signature not checked" in ran.stdout


def test_times_are_told_in_words() -> None:
    assert when(0, 3 * 86400.0) == "1970-01-01 00:00:00 UTC, 3 d ago"
    assert when(100.0, 10.0) == "1970-01-01 00:01:40 UTC, in 90 s"
    assert when(7300.0, 0.0) == "1970-01-01 02:01:40 UTC, in 2 h"
    assert when(2.0**53, 0.0).endswith(" d")
