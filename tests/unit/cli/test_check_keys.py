"""`tidegate config check` reads the files of keys and passwords, and shows nothing of them."""

from collections.abc import Callable
from pathlib import Path

import bcrypt
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.certificates import Authority
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


OPEN = (
    "anybody who reaches port 81 can offer endpoints here, without authentication; the line that closes it: listeners: "
)
STATUS = "anybody who reaches port 83 sees metrics and status, without authentication; the line that closes it: admin: "


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('listeners:\n  a: {bind: ":81", kind: tunnel}', f"tidegate.yaml:2: listeners.a.bind: {OPEN}"),
        ("listeners:\n  a:\n    kind: tunnel\n    bind: 192.0.2.1:81", f"tidegate.yaml:4: listeners.a.bind: {OPEN}"),
        ('listeners: {a: {bind: ":81", kind: tunnel, auth: {verifiers: [v]}}}', None),
        ('listeners: {a: {bind: "127.0.0.1:81", kind: tunnel}}', None),
        ('listeners: {a: {bind: ":81"}}', None),
        ('admin: {bind: ":83"}', f"tidegate.yaml:1: admin.bind: {STATUS}"),
        ('admin: {bind: ":83", auth: {verifiers: [v]}}', None),
        ('admin: {bind: "localhost:83"}', None),
    ],
)
def test_a_listener_that_asks_nobody_is_a_warning_in_the_words_of_the_start(
    folder: Path, text: str, said: str | None
) -> None:
    ran = check(folder, f"{text}\nverifiers: {{v: {{secret: {{file: token.key}}}}}}")
    assert ran.exit_code == 0, ran.output
    assert (f"warning: {folder}/{said}" if said else "without authentication") in ran.output or not said
    assert ("without authentication" in ran.output) == (said is not None)


def test_an_agents_admin_listener_that_strangers_reach_is_a_warning(folder: Path) -> None:
    ran = check(folder, 'endpoints: [{name: web, to: "3000"}]\nadmin: {bind: ":83"}')
    assert ran.exit_code == 0, ran.output
    assert "tidegate.yaml:2: admin.bind: anybody who reaches port 83" in ran.output
    assert "--admin 127.0.0.1:83" in ran.output


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_not_set_is_a_warning_for_it_may_be_where_the_gateway_starts(
    folder: Path, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("A_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("A_KEY", value)
    text = """
verifiers: {a: {secret: {env: A_KEY}}}
admin: {auth: {verifiers: [a]}}
listeners:
  web: {bind: "127.0.0.1:80", auth: {users: {env: A_KEY}}}
routes:
  - {host: a.example.com, to: {endpoint: x}, auth: {users: {env: A_KEY}}}
"""
    ran = check(folder, text)
    how = "not set" if value is None else "empty"
    assert ran.exit_code == 0, ran.output
    places = ["2: verifiers.a.secret.env", "5: listeners.web.auth.users.env", "7: routes[0].auth.users.env"]
    assert ran.output.splitlines()[:3] == [
        f"warning: {folder}/tidegate.yaml:{place}: A_KEY is {how} here (it has to be where the gateway is started)"
        for place in places
    ]
    monkeypatch.setenv("A_KEY", "a-secret-of-more-than-thirty-two-bytes")
    assert "warning" not in check(folder, text).output


@pytest.mark.parametrize(
    ("held", "said"), [("# nobody\n", ": names no user"), ("", " is empty"), ("a", ":1: expected")]
)
def test_a_file_of_users_that_will_not_do_is_told_with_its_key_by_check_and_start(
    folder: Path, held: str, said: str, tidegate: Callable[..., Ran]
) -> None:
    (folder / "users").write_text(held)
    ran = check(
        folder,
        """
routes:
  - {host: a.example.com, to: {endpoint: x}}
  - {host: b.example.com, to: {endpoint: x}, auth: {users: {file: users}}}
""",
    )
    told = f"{folder}/tidegate.yaml:4: routes[1].auth.users: {folder}/users{said}"
    assert isinstance(ran.exception, ConfigError)
    assert str(ran.exception).startswith(told)
    started = tidegate("gateway", "--config", str(folder / "tidegate.yaml"))
    assert started.code == 2
    assert started.stderr.startswith(f"error: {told}")


def test_a_jwks_that_cannot_be_read_is_told_with_its_key_and_file_by_check_and_start(
    folder: Path, tidegate: Callable[..., Ran]
) -> None:
    (folder / "keys.json").write_text('{"keys": [')
    ran = check(folder, "verifiers: {a: {jwks: {file: keys.json}}}\nadmin: {auth: {verifiers: [a]}}")
    told = f"{folder}/tidegate.yaml:1: verifiers.a.jwks: {folder}/keys.json: is no JWKS: it is no JSON"
    assert isinstance(ran.exception, ConfigError)
    assert str(ran.exception) == told
    assert tidegate("gateway", "--config", str(folder / "tidegate.yaml")).stderr == f"error: {told}\n"


def test_a_password_that_is_no_hash_is_told_and_not_shown(folder: Path) -> None:
    ran = check(folder, "listeners: {web: {bind: ':80', auth: {users: {file: users}}}}")
    assert isinstance(ran.exception, ConfigError)
    assert "plaintext" not in str(ran.exception) + ran.output


def test_hashes_of_several_kinds_or_costs_are_a_warning_by_check_and_start(
    folder: Path, tidegate: Callable[..., Ran]
) -> None:
    hashes = [bcrypt.hashpw(b"secret", bcrypt.gensalt(rounds)).decode() for rounds in (4, 4, 5)]
    (folder / "users").write_text(f"ann:{hashes[0]}\nbob:{hashes[1]}\n")
    text = "listeners: {web: {bind: '127.0.0.1:80', auth: {users: {file: users}}}}"
    (folder / "users").chmod(0o600)
    assert "warning" not in check(folder, text).output
    (folder / "users").write_text(f"ann:{hashes[0]}\nbob:{hashes[2]}\n")
    said = f"{folder}/users: its hashes are of 2 kinds or costs"
    ran = check(folder, text)
    assert ran.exit_code == 0, ran.output
    assert f"tidegate.yaml:1: listeners.web.auth.users: {said}" in ran.output
    assert hashes[0] not in ran.output
    started = tidegate("gateway", "--config", str(folder / "tidegate.yaml")).started
    assert started is not None
    assert any(each.startswith(said) for each in started["credentials"].warnings)


USERS = "auth: {users: {file: users}}"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (f'listeners: {{web: {{bind: ":81", {USERS}}}}}', "listeners.web.auth.users"),
        (f'listeners: {{web: {{bind: "192.0.2.1:81", {USERS}}}}}', "listeners.web.auth.users"),
        (f'listeners: {{web: {{bind: "127.0.0.1:81", {USERS}}}}}', None),
        (f'listeners: {{web: {{bind: "localhost:81", {USERS}}}}}', None),
        (f'listeners: {{web: {{bind: ":81", {USERS}}}}}\ntrusted_proxies: [10.0.0.0/8]', None),
        (f'listeners: {{web: {{bind: ":81", proxy_protocol: [10.0.0.0/8], {USERS}}}}}', None),
        (f'listeners: {{web: {{bind: ":81"}}}}\nroutes: [{{to: {{endpoint: x}}, {USERS}}}]', "routes[0].auth.users"),
        (
            'listeners: {web: {bind: ":81"}, own: {bind: "127.0.0.1:82"}}\n'
            f"routes: [{{to: {{endpoint: x}}, listeners: [own], {USERS}}}]",
            None,
        ),
    ],
)
def test_passwords_that_come_from_elsewhere_without_tls_are_a_warning_by_check_and_start(
    folder: Path, text: str, key: str | None, tidegate: Callable[..., Ran]
) -> None:
    (folder / "users").write_text("ann:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode())
    ran = check(folder, text)
    assert ran.exit_code == 0, ran.output
    said = f"{key}: passwords are sent to listener web without TLS"
    assert (said in ran.output, "without TLS" in ran.output) == (bool(key), bool(key)), ran.output
    started = tidegate("gateway", "--config", str(folder / "tidegate.yaml")).started
    assert started is not None
    warned = [each for each in started["credentials"].warnings if "without TLS" in each]
    assert [each.startswith(said) for each in warned] == [True] * bool(key)


def test_passwords_that_come_by_tls_are_no_warning(folder: Path) -> None:
    cert, key = Authority(folder).issue("gate.example.com")
    (folder / "users").write_text("ann:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode())
    tls = f"tls: {{certificates: [{{cert: {cert}, key: {key}}}]}}"
    ran = check(folder, f'listeners: {{web: {{bind: ":443", {tls}, {USERS}}}}}')
    assert ran.exit_code == 0, ran.output
    assert "without TLS" not in ran.output
