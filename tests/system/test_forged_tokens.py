"""Cases 32 and 33 of the hardening list: tokens that no honest issuer makes, shown by an agent and by a visitor."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.support.http import request
from tests.support.issuer import Issuer, bearer
from tests.support.raw import Raw
from tests.support.service import Service
from tests.support.tidegate import Agent, Gateway
from tests.system.guarded import config, knock, refusal

INVALID = (401, "invalid token")


@pytest.fixture(scope="module")
def issuers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Issuer]:
    """One for each kind of key."""
    folder = tmp_path_factory.mktemp("issuers")
    return {name: Issuer(folder, name, name=name.lower()) for name in ("HS256", "RS256", "ES256", "EdDSA")}


@pytest.fixture(scope="module")
def gateway(issuers: dict[str, Issuer], service: Service) -> Iterator[Gateway]:
    """A gateway that believes all of them; `web` is offered."""
    with (
        Gateway(config(*issuers.values())) as running,
        Agent(running.agents, "http", "web", service.address, "--token", issuers["HS256"].token("web")),
    ):
        running.until_offered("web")
        yield running


def part(value: Any) -> str:
    """A part of a token: JSON as it comes, or text that stands for itself."""
    text = value if isinstance(value, (str, bytes)) else json.dumps(value)
    data = text.encode() if isinstance(text, str) else text
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def claims(**more: Any) -> dict[str, Any]:
    """What a good token says."""
    return {"exp": int(time.time()) + 3600, "tidegate": {"endpoints": ["web"]}, **more}


def hashed(secret: bytes, header: Any, said: Any) -> str:
    """A token that is signed with a secret, whatever its parts say."""
    signed = f"{part(header)}.{part(said)}"
    return f"{signed}.{part(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


def both(gateway: Gateway, token: str) -> set[tuple[int, str]]:
    """What an agent and a visitor are answered who show it."""
    visited = request(gateway.proxy, endpoint="web", headers=bearer(token))
    knocked = knock(gateway.agents, "web", bearer(token))
    answers = (visited, knocked)
    return {refusal(each) if each.status >= 400 else (each.status, "") for each in answers}


@pytest.mark.parametrize(
    "spelling",
    ["none", "None", "NONE", "nOnE", "", " none", "none ", "hs256", "HS256 ", "HS1", "PS256", None, 1, ["HS256"]],
)
def test_case_32_no_other_algorithm_than_those_of_the_keys_counts(
    gateway: Gateway, issuers: dict[str, Issuer], spelling: Any
) -> None:
    secret = issuers["HS256"].public
    token = hashed(secret, {"alg": spelling, "typ": "JWT"}, claims())
    bare = token.rpartition(".")[0]
    for forged in (token, f"{bare}.", bare, f"{bare}.AA"):
        assert both(gateway, forged) == {INVALID}, forged


@pytest.mark.parametrize("kind", ["RS256", "ES256", "EdDSA"])
def test_case_32_a_public_key_is_no_secret(gateway: Gateway, issuers: dict[str, Issuer], kind: str) -> None:
    public = issuers[kind].public
    for secret in (public, public.strip(), public.replace(b"\n", b"\r\n"), b"", b"secret"):
        assert both(gateway, hashed(secret, {"alg": "HS256"}, claims())) == {INVALID}


def test_case_32_a_key_of_another_kind_verifies_nothing(
    gateway: Gateway, issuers: dict[str, Issuer], tmp_path: Path
) -> None:
    for kind, issuer in issuers.items():
        head, said, signature = issuer.token("web").split(".")
        for other in ("HS256", "HS384", "RS256", "RS512", "ES256", "ES384", "EdDSA"):
            if other != kind:
                assert both(gateway, f"{part({'alg': other})}.{said}.{signature}") == {INVALID}
        # r = s = 0, and a signature that is none.
        for forged in (bytes(64), bytes(256), b"\xff" * 64, b"\x30\x06\x02\x01\x00\x02\x01\x00"):
            assert both(gateway, f"{head}.{said}.{part(forged)}") == {INVALID}
        assert both(gateway, Issuer(tmp_path, kind).token("web")) == {INVALID}


def test_case_32_nothing_in_a_header_is_fetched_or_believed(
    gateway: Gateway, issuers: dict[str, Issuer], tmp_path: Path
) -> None:
    mine = Issuer(tmp_path, "ES256", kid="mine")
    with socket.create_server(("127.0.0.1", 0)) as trap:
        url = f"http://127.0.0.1:{trap.getsockname()[1]}/jwks.json"
        headers: list[dict[str, Any]] = [
            {"jku": url},
            {"x5u": url},
            {"jwk": mine.jwk},
            {"jku": url, "jwk": mine.jwk, "kid": "mine"},
            {"kid": "../../../../dev/null"},
            {"kid": url},
            {"x5c": ["MIIB"]},
        ]
        for header in headers:
            assert both(gateway, mine.sign(claims(), header)) == {INVALID}, header
        # With a good signature they are as nothing.
        for header in headers:
            if "kid" not in header:
                assert both(gateway, issuers["ES256"].sign(claims(), header)) == {(200, ""), (101, "")}, header
        trap.settimeout(0)
        with pytest.raises(BlockingIOError):
            trap.accept()


def test_case_32_what_is_critical_is_not_understood(gateway: Gateway, issuers: dict[str, Issuer]) -> None:
    secret = issuers["HS256"].public
    for critical in (["exp"], ["b64"], [], "exp", None, {"exp": True}):
        assert both(gateway, hashed(secret, {"alg": "HS256", "crit": critical}, claims())) == {INVALID}, critical


def test_case_32_members_that_stand_twice_are_no_json_of_ours(gateway: Gateway, issuers: dict[str, Issuer]) -> None:
    secret, late = issuers["HS256"].public, int(time.time()) + 3600
    header = '{"alg": "HS256"}'
    permits = '"tidegate": {"endpoints": ["web"]}'
    for head, said in (
        ('{"alg": "HS256", "alg": "HS256"}', f'{{"exp": {late}, {permits}}}'),
        ('{"alg": "none", "alg": "HS256"}', f'{{"exp": {late}, {permits}}}'),
        ('{"alg": "HS256", "\\u0061lg": "HS256"}', f'{{"exp": {late}, {permits}}}'),
        (header, f'{{"exp": 1, "exp": {late}, {permits}}}'),
        (header, f'{{"exp": {late}, {permits}, {permits}}}'),
        (header, f'{{"exp": {late}, "tidegate": {{"endpoints": ["x"], "endpoints": ["web"]}}}}'),
        (header, f'[{{"exp": {late}, {permits}}}]'),
        (header, f'{{"exp": {late}, {permits}}} x'),
        (header, f'{{"exp": {late}, {permits}'),
        (header, '{"exp": ' + "[" * 5000 + "]" * 5000 + "}"),
        (header, ""),
        (header, b"\xff\xfe"),
        ("", f'{{"exp": {late}, {permits}}}'),
    ):
        assert both(gateway, hashed(secret, head, said)) == {INVALID}, (head, said)


def test_case_32_what_is_no_compact_jws_is_refused(gateway: Gateway, issuers: dict[str, Issuer]) -> None:
    good = issuers["HS256"].token("web")
    head, said, signature = good.split(".")
    encrypted = f"{part({'alg': 'dir', 'enc': 'A256GCM'})}..{part('iv')}.{part('text')}.{part('tag')}"
    for forged in (
        encrypted, f"{good}.{signature}", f".{good}", f"{head}.{said}", f"{head}..{signature}", "..", "...", "a.b.c",
        f"{head}=.{said}.{signature}", f"{head}.{said}.{signature}=", f"{head}.{said}.{signature}+/", "." * 10_000,
    ):  # fmt: skip
        assert both(gateway, forged) == {INVALID}, forged
    # Not base64url to the letter: the last character's unused bits.
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".index(signature[-1])
    other = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[last ^ 1]
    assert both(gateway, good[:-1] + other) == {INVALID}


@pytest.mark.parametrize("token", ["." * (1 << 20), "a" * (1 << 20), "e30." * 5000], ids=["dots", "letters", "parts"])
def test_case_32_a_giant_is_turned_away_by_its_size(gateway: Gateway, token: str) -> None:
    for address, head in ((gateway.proxy, "GET / HTTP/1.1"), (gateway.agents, "GET /piko/v1/upstream/web HTTP/1.1")):
        with Raw(address) as peer:
            # Where it is refused before all of it is read, writing it fails.
            try:
                peer.send(f"{head}\r\nHost: web.example.com\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
                assert peer.answer().status in (400, 401, 431)
            except (BrokenPipeError, ConnectionResetError):
                pass
    assert request(gateway.proxy, endpoint="web").status == 401


LATE = 4_000_000_000
EXPIRED = (401, "expired token")
GOOD = {(200, ""), (101, "")}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (f'"exp": {LATE}', GOOD),
        (f'"exp": {LATE}.75', GOOD),
        ('"exp": 4e9', GOOD),
        ('"exp": 9007199254740992', GOOD),
        (f'"exp": {LATE}, "nbf": 1.5, "iat": 0', GOOD),
        (f'"exp": {LATE}, "aud": "anything"', GOOD),
        ('"exp": 0', {EXPIRED}),
        ('"exp": 1.0', {EXPIRED}),
        (f'"exp": "{LATE}"', {INVALID}),
        ('"exp": 9007199254740994', {INVALID}),
        ('"exp": 1e400', {INVALID}),
        ('"exp": 1e300', {INVALID}),
        ('"exp": -1', {INVALID}),
        ('"exp": -0.5', {INVALID}),
        ('"exp": NaN', {INVALID}),
        ('"exp": Infinity', {INVALID}),
        ('"exp": null', {INVALID}),
        ('"exp": true', {INVALID}),
        (f'"exp": [{LATE}]', {INVALID}),
        ('"exp": {}', {INVALID}),
        ('"nbf": 0', {INVALID}),
        (f'"Exp": {LATE}', {INVALID}),
        (f'"exp": {LATE}, "nbf": {LATE}', {INVALID}),
        (f'"exp": {LATE}, "nbf": "0"', {INVALID}),
        (f'"exp": {LATE}, "nbf": -1', {INVALID}),
        (f'"exp": {LATE}, "nbf": 1e400', {INVALID}),
        (f'"exp": {LATE}, "iat": "0"', {INVALID}),
        (f'"exp": {LATE}, "iat": -1', {INVALID}),
        (f'"exp": {LATE}, "iat": null', {INVALID}),
    ],
)
def test_case_33_times_are_numbers_or_the_token_is_none(
    gateway: Gateway, issuers: dict[str, Issuer], said: str, expected: set[tuple[int, str]]
) -> None:
    text = f'{{{said}, "tidegate": {{"endpoints": ["web"]}}}}'
    assert both(gateway, hashed(issuers["HS256"].public, {"alg": "HS256"}, text)) == expected


def test_a_token_counts_for_its_issuer_and_its_audience(service: Service, tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    terms = issuer.source | {"issuer": "https://id.example.com", "audience": ["gate", "door"], "leeway": "30s"}
    with Gateway(config(issuer, verifiers={issuer.name: terms})) as gateway:
        iss = {"iss": "https://id.example.com"}

        def told(**said: Any) -> tuple[int, str] | int:
            response = knock(gateway.agents, "web", bearer(issuer.token("web", **said)))
            return response.status if response.status == 101 else refusal(response)

        for aud in ("gate", ["gate"], ["x", "door"]):
            assert told(**iss, aud=aud) == 101, aud
        wrong: list[dict[str, Any]] = [
            {**iss}, {"aud": "gate"}, {"aud": "gate", "iss": "https://id.example.com/"}, {**iss, "aud": "gat"},
            {**iss, "aud": []}, {**iss, "aud": ["x"]}, {**iss, "aud": ["gate", 1]}, {**iss, "aud": {"gate": 1}},
            {**iss, "aud": None}, {"iss": ["https://id.example.com"], "aud": "gate"},
        ]  # fmt: skip
        for said in wrong:
            # PyJWT would not sign some of them as they are meant.
            token = jwt.api_jws.encode(json.dumps(claims(**said)).encode(), issuer.public, "HS256")
            assert refusal(knock(gateway.agents, "web", bearer(token))) == INVALID, said
        assert told(**iss, aud="gate", expires=-10) == 101
        assert told(**iss, aud="gate", expires=-60) == EXPIRED
        assert told(**iss, aud="gate", nbf=int(time.time()) + 10) == 101


def test_a_token_without_an_end_or_names_counts_where_the_configuration_says_so(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    endless = issuer.sign({"tidegate": {"endpoints": ["web"]}})
    nameless = issuer.token()
    cases: dict[str, Callable[[Gateway], Any]] = {
        "require_expiry": lambda gateway: knock(gateway.agents, "web", bearer(endless)).status,
        "unlimited": lambda gateway: knock(gateway.agents, "web", bearer(nameless)).status,
    }
    for key, knocked in cases.items():
        for value in (True, False):
            with Gateway(config(issuer, verifiers={issuer.name: issuer.source | {key: value}})) as gateway:
                # The one asks for more, the other permits more.
                assert (knocked(gateway) == 101) is (value is (key == "unlimited")), (key, value)
