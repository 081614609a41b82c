"""What answers the engine's questions for one configuration."""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from tests.unit.auth.making import NOW, SECRET, certificate, jwk, jwks, key, signed, token
from tidegate.auth import certificates, credentials
from tidegate.auth.credentials import Credentials
from tidegate.auth.verdict import Granted, Refused, Unavailable, Verdict
from tidegate.config.credentials import certificate_sets, password_sets, verifier_sets
from tidegate.config.load import parse, validate
from tidegate.config.model import Gateway
from tidegate.errors import ConfigError

BASE = """
listeners:
  agents: {bind: "127.0.0.1:1", kind: tunnel, auth: {verifiers: [main]}}
"""
LATER = {"exp": 4_000_000_000, "tidegate": {"endpoints": ["web"]}}

Make = Callable[..., Credentials]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Credentials of a configuration, whose files stand in `tmp_path`."""

    def made(text: str, before: Credentials | None = None) -> Credentials:
        tree = parse(text, "tidegate.yaml")
        tree.base = str(tmp_path)
        gateway = validate(Gateway, tree)
        return Credentials(
            verifier_sets(gateway), password_sets(gateway), certificate_sets(gateway), gateway.tenants, before
        )

    (tmp_path / "token.key").write_bytes(SECRET + b"\n")
    (tmp_path / "token.key").chmod(0o600)
    return made


def ask(asked: Credentials, kind: str, **question: Any) -> Verdict:
    known: dict[str, Iterable[str]] = {
        "token": asked._sets, "password": asked._users, "certificate": asked._certificates,
    }  # fmt: skip
    names = list(known[kind])
    told: list[Verdict] = []
    asked.answer({"number": 1, "kind": kind, "set": names[0], "tenant": "", **question}, told.append)
    [verdict] = told
    json.dumps(verdict.as_verdict(), allow_nan=False)
    return verdict


def test_a_token_is_asked_about_on_the_terms_of_its_verifier(make: Make) -> None:
    asked = make(
        BASE + "verifiers: {main: {secret: {file: token.key}, audience: gate, leeway: 1s, tenant: acme, "
        "algorithms: [HS512], limits: {sessions: 2, bytes: 1KiB}}}"
    )
    good = ask(asked, "token", token=token({**LATER, "aud": "gate"}, algorithm="HS512"))
    assert isinstance(good, Granted)
    assert (good.tenant, good.expires) == ("acme", 4_000_000_001)
    assert good.limits == {"sessions": 2, "streams": None, "requests": None, "bytes": 1024}
    assert good.key in asked.key_ids()
    assert isinstance(ask(asked, "token", token=token(LATER, algorithm="HS512")), Refused)
    assert isinstance(ask(asked, "token", token=token({**LATER, "aud": "gate"})), Refused)
    assert asked.warnings == []


def test_only_tenants_that_are_written_are_known(make: Make) -> None:
    text = BASE + "verifiers: {main: {secret: {file: token.key}}}\n"
    claims = {**LATER, "tidegate": {"tenant": "other"}}
    assert isinstance(ask(make(text), "token", token=token(claims)), Granted)
    assert isinstance(ask(make(text + "tenants: {acme: {}}"), "token", token=token(claims)), Refused)


def test_a_public_key_says_which_algorithms_count(make: Make, tmp_path: Path) -> None:
    (tmp_path / "issuer.pub").write_bytes(key("ES384").public or b"")
    asked = make(BASE + "verifiers: {main: {public_key: {file: issuer.pub}}}")
    assert isinstance(ask(asked, "token", token=signed("ES384", LATER)), Granted)
    with pytest.raises(ConfigError, match=r"verifiers\.main\.algorithms: ES256 does not fit its key .*ES384"):
        make(BASE + "verifiers: {main: {public_key: {file: issuer.pub}, algorithms: [ES256]}}")


def test_every_key_that_cannot_be_used_is_told(make: Make, tmp_path: Path) -> None:
    (tmp_path / "issuer.pem").write_bytes(key("ES256").private)
    (tmp_path / "issuer.pub").write_bytes(key("ES256").public or b"")
    (tmp_path / "users").write_text("ann:plain\nbob\n")
    with pytest.raises(ConfigError) as error:
        make(
            """
listeners:
  agents: {bind: "127.0.0.1:1", kind: tunnel, auth: {verifiers: [a, b, c]}}
  web: {bind: "127.0.0.1:2", auth: {verifiers: [a], users: {file: users}}}
verifiers:
  a: {secret: {file: issuer.pub}}
  b: {public_key: {file: issuer.pem}}
  c: {jwks: {file: missing.json}}
"""
        )
    told = error.value.mistakes
    assert [each.split(":")[0] for each in told[:3]] == [
        "verifiers.a.secret",
        "verifiers.b.public_key",
        "verifiers.c.jwks",
    ]
    assert [each.rpartition("/")[2].split(" ")[0] for each in told[3:]] == ["users:1:", "users:2:"]
    assert "plain" not in str(error.value)


def test_what_is_unwise_is_told(make: Make, tmp_path: Path) -> None:
    (tmp_path / "token.key").write_bytes(b"short")
    (tmp_path / "token.key").chmod(0o644)
    warnings = make(BASE + "verifiers: {main: {secret: {file: token.key}}}").warnings
    assert len(warnings) == 2
    assert "chmod 600" in warnings[0]
    assert "fewer than 32 bytes" in warnings[1]


def test_sets_of_keys_go_on_from_one_configuration_to_the_next(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks(jwk("ES256", kid="a")))
    text = BASE + "verifiers: {main: {jwks: {file: jwks.json}}}"
    first = make(text)
    file.write_text("broken")
    with pytest.raises(ConfigError, match=r"verifiers\.main\.jwks: .*no JWKS"):
        make(text)
    second = make(text.replace("}}}", "}, issuer: x}}"), first)
    claims = {**LATER, "iss": "x"}
    assert isinstance(ask(second, "token", token=signed("ES256", claims, kid="a")), Granted)


def test_a_file_of_keys_that_changes_is_read_again(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "_FILE_REFRESH", 0.0)
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks(jwk("ES256", kid="a")))
    asked = make(BASE + "verifiers: {main: {jwks: {file: jwks.json}}}")
    before = asked.key_ids()
    gone: list[str] = []
    changed = threading.Event()

    def told(ids: Any) -> None:
        gone.extend(ids)
        changed.set()

    asked.on_change(told)
    file.write_bytes(jwks(jwk("ES256", kid="b", which=1)))
    end = time.monotonic() + 20
    while not changed.wait(0.05):
        asked.tend()
        assert time.monotonic() < end
    assert gone == sorted(before)
    assert asked.key_ids().isdisjoint(before)


def test_a_password_is_asked_about(make: Make, tmp_path: Path) -> None:
    known = bcrypt.hashpw(b"battery", bcrypt.gensalt(4)).decode()
    (tmp_path / "users").write_text(f"ann:{known}\n")
    asked = make('listeners: {web: {bind: "127.0.0.1:2", auth: {users: {file: users}}}}')
    good = ask(asked, "password", user="ann", password="battery")
    assert isinstance(good, Granted)
    assert asked.key_ids() == {good.key}
    assert isinstance(ask(asked, "password", user="ann", password="staple"), Refused)
    assert isinstance(ask(asked, "password", user="ann", password="battery", tenant="acme"), Refused)


def test_a_certificate_is_asked_about(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)
    names = certificates.Names("c/1", "cn")
    asked = make(BASE + "verifiers: {main: {secret: {file: token.key}}}")
    asked._certificates["c/1"] = names
    der = base64.b64encode(certificate()).decode()
    assert isinstance(ask(asked, "certificate", der=der), Granted)
    assert isinstance(ask(asked, "certificate", der="???"), Refused)


def test_a_question_of_a_configuration_that_is_gone_has_no_answer(make: Make) -> None:
    asked = make(BASE + "verifiers: {main: {secret: {file: token.key}}}")
    assert isinstance(ask(asked, "token", set="main/other", token=token(LATER)), Unavailable)
