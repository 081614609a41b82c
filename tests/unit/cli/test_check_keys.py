"""`tidegate config check` reads the files of keys and passwords, and shows nothing of them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.unit.conftest import Ran
from tidegate.cli.main import cli
from tidegate.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "private.pem").write_bytes(private)
    (tmp_path / "public.pem").write_bytes(public)
    (tmp_path / "token.key").write_text("a-secret-of-more-than-thirty-two-bytes\n")
    (tmp_path / "token.key").chmod(0o600)
    (tmp_path / "short.key").write_text("short")
    (tmp_path / "short.key").chmod(0o644)
    (tmp_path / "empty.key").write_text("\n")
    (tmp_path / "users").write_text("anna:plaintext\n")
    return tmp_path


def check(folder: Path, text: str) -> Result:
    file = folder / "tidegate.yaml"
    file.write_text(text)
    return CliRunner().invoke(cli, ["config", "check", str(file)])


def test_good_keys_are_ok(folder: Path) -> None:
    ran = check(
        folder,
        """
verifiers: {a: {secret: {file: token.key}}, b: {public_key: {file: public.pem}}}
admin: {auth: {verifiers: [a, b]}}
""",
    )
    assert (ran.exit_code, "warning" in ran.output) == (0, False), ran.output


@pytest.mark.parametrize(
    ("verifier", "said"),
    [
        ("{secret: {file: private.pem}}", "is a PEM key or certificate and no secret"),
        ("{secret: {file: public.pem}}", "is a PEM key or certificate and no secret"),
        ("{secret: {file: empty.key}}", "is empty"),
        ("{public_key: {file: private.pem}}", "is a private key"),
        ("{public_key: {file: token.key}}", "is no public key in PEM form"),
        ("{public_key: {file: public.pem}, algorithms: [RS256]}", "does not fit its key"),
        ("{jwks: {file: token.key}}", "verifiers.a"),
    ],
)
def test_a_key_that_will_not_do_is_told_with_its_line(folder: Path, verifier: str, said: str) -> None:
    ran = check(folder, f"workers: 1\nverifiers: {{a: {verifier}}}")
    assert isinstance(ran.exception, ConfigError)
    told = str(ran.exception) + ran.output
    assert said in told
    assert "tidegate.yaml:2: verifiers.a" in told
    assert "a-secret-of" not in told


def test_a_weak_key_that_everybody_can_read_is_a_warning(folder: Path) -> None:
    ran = check(folder, "verifiers: {a: {secret: {file: short.key}}}")
    assert ran.exit_code == 0
    assert "can read" in ran.output
    assert "fewer than 32 bytes" in ran.output


@pytest.mark.parametrize(
    ("asked", "place"),
    [
        ('listeners: {agents: {bind: ":1", kind: tunnel, auth: {verifiers: [b, a]}}}', "listeners.agents"),
        ("routes: [{host: a.example.com, to: {endpoint: x}, auth: {verifiers: [a]}}]", "routes[0]"),
        ('listeners: {web: {bind: ":1", auth: {by_tenant: true}}}\ntenants: {t: {verifiers: [a]}}', "listeners.web"),
        ('listeners: {web: {bind: ":1", auth: {verifiers: [b]}}}\ntenants: {t: {verifiers: [a]}}', None),
    ],
)
def test_admin_with_a_verifier_of_others_is_a_warning(
    folder: Path, asked: str, place: str | None, tidegate: Callable[..., Ran]
) -> None:
    keys = "verifiers: {a: {secret: {file: token.key}}, b: {public_key: {file: public.pem}}}"
    ran = check(folder, f"{keys}\n{asked}\nadmin: {{auth: {{verifiers: [a]}}}}")
    said = f"admin.auth.verifiers: {place} asks for tokens of a too"
    assert ran.exit_code == 0, ran.output
    assert (said in ran.output, "admin.auth" in ran.output) == (bool(place), bool(place)), ran.output
    started = tidegate("gateway", "--config", str(folder / "tidegate.yaml")).started
    assert started is not None
    assert [each.startswith(said) for each in started["credentials"].warnings] == [True] * bool(place)


def test_a_password_that_is_no_hash_is_told_and_not_shown(folder: Path) -> None:
    ran = check(folder, "listeners: {web: {bind: ':80', auth: {users: {file: users}}}}")
    assert isinstance(ran.exception, ConfigError)
    assert "plaintext" not in str(ran.exception) + ran.output
