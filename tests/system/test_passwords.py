"""Basic auth: users with hashes of bcrypt and argon2, beside tokens and instead of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import argon2
import bcrypt
import pytest

from tests.support.http import ask, request
from tests.support.http2 import Two
from tests.support.issuer import Issuer, basic, bearer
from tests.support.process import until
from tests.support.raw import Raw
from tests.support.service import Service
from tests.support.tidegate import Gateway, Tidegate
from tests.support.tools import curl
from tests.system.guarded import refusal

WORDS = {"ann": "correct horse", "bob": "battery staple", "zoë": "pässwört: ☃"}


def line(user: str, password: str) -> str:
    """A user as a file holds it; by bcrypt for bob, by argon2 for everybody else."""
    if user == "bob":
        return f"{user}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}\n"
    return f"{user}:{argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash(password)}\n"


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of users."""
    file = tmp_path_factory.mktemp("users") / "users.htpasswd"
    file.write_text("".join(line(user, password) for user, password in WORDS.items()))
    file.chmod(0o600)
    return file


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    """Whose tokens are good where they are taken too."""
    return Issuer(tmp_path_factory.mktemp("issuer"))


@pytest.fixture(scope="module")
def gateway(users: Path, issuer: Issuer, service: Service) -> Iterator[Gateway]:
    """Routes that ask for a password, for one or a token, and for one that is passed on."""
    to = {"addresses": [service.address]}
    auth = {"users": {"file": str(users)}, "realm": "Shop"}
    routes = [
        {"host": "shop.test", "to": to, "auth": auth},
        {"host": "both.test", "to": to, "auth": {**auth, "verifiers": [issuer.name]}},
        {"host": "passes.test", "to": to, "auth": {**auth, "pass": True}},
        {"host": "open.test", "to": to},
    ]
    with Gateway({"verifiers": {issuer.name: issuer.source | {"unlimited": True}}, "routes": routes}) as running:
        yield running


@pytest.mark.parametrize("user", WORDS)
def test_a_user_comes_in_by_the_password(gateway: Gateway, user: str) -> None:
    for password, status in ((WORDS[user], 200), (WORDS[user].upper(), 401), ("", 401), (WORDS[user] + "x", 401)):
        response = request(gateway.proxy, headers={"Host": "shop.test", **basic(user, password)})
        assert response.status == status, password
        if status == 401:
            assert refusal(response) == (401, "invalid authorization")
            assert response.headers["WWW-Authenticate"] == 'Basic realm="Shop", charset="UTF-8"'
            assert WORDS[user] not in response.text
        else:
            assert "authorization" not in str(response.json()["fields"]).lower()


def test_who_shows_no_password_is_asked_for_one(gateway: Gateway, issuer: Issuer) -> None:
    host = {"Host": "shop.test"}
    assert refusal(request(gateway.proxy, headers=host)) == (401, "missing authorization")
    answer = request(gateway.proxy, headers={**host, **bearer(issuer.token())})
    assert refusal(answer) == (401, "unsupported auth type")
    for value in ("Basic", "Basic !!!", "Basic YW5u", "Basic " + "A" * 20_000, "Basic YW5uOgA="):
        assert refusal(request(gateway.proxy, headers={**host, "Authorization": value})) == (
            401,
            "invalid authorization",
        )
    for user in ("nobody", "Ann", "ann:correct horse", ""):
        assert request(gateway.proxy, headers={**host, **basic(user, WORDS["ann"])}).status == 401


def test_a_route_may_take_either(gateway: Gateway, issuer: Issuer) -> None:
    host = {"Host": "both.test"}
    for headers in (basic("ann", WORDS["ann"]), bearer(issuer.token()), basic("bob", WORDS["bob"])):
        assert request(gateway.proxy, headers={**host, **headers}).status == 200
    response = request(gateway.proxy, headers=host)
    assert response.headers.get_all("WWW-Authenticate") == [
        'Bearer realm="Shop"',
        'Basic realm="Shop", charset="UTF-8"',
    ]


def test_a_password_is_passed_on_where_that_is_configured(gateway: Gateway) -> None:
    shown = basic("ann", WORDS["ann"])
    answer = request(gateway.proxy, headers={"Host": "passes.test", **shown})
    assert ["Authorization", shown["Authorization"]] in answer.json()["fields"]
    assert request(gateway.proxy, headers={"Host": "open.test", **basic("x", "y")}).status == 200


def test_browsers_of_every_protocol_come_in(gateway: Gateway) -> None:
    words = ("-H", "Host: shop.test", "-u", f"bob:{WORDS['bob']}", f"http://{gateway.proxy}/")
    for protocol in ("--http1.1", "--http1.0", "--http2-prior-knowledge"):
        assert curl(protocol, *words).status == 200
    # It asks what is asked for, and shows that on a connection of its own.
    assert b"HTTP/1.1 200 OK" in curl("--anyauth", *words).body
    with Two(gateway.proxy) as two:
        shown = ("authorization", basic("bob", WORDS["bob"])["Authorization"])
        assert two.get(shown, authority="shop.test").status == 200
        assert two.get(authority="shop.test").status == 401


def lasting(gateway: Gateway, user: str) -> Raw:
    """A request that does not end."""
    visitor = Raw(gateway.proxy)
    shown = basic(user, WORDS[user])["Authorization"]
    visitor.send(
        f"POST /lasting HTTP/1.1\r\nHost: a.test\r\nAuthorization: {shown}\r\nContent-Length: 9\r\n\r\n".encode()
    )
    return visitor


def test_a_user_who_is_removed_is_out(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text("".join(line(user, password) for user, password in WORDS.items()))

    route = {"to": {"addresses": [service.address]}, "auth": {"users": {"file": str(file)}}}
    with Gateway({"routes": [route]}) as gateway:
        for user, password in WORDS.items():
            assert request(gateway.proxy, headers=basic(user, password)).status == 200
        with lasting(gateway, "ann") as ending, lasting(gateway, "bob"):
            until(lambda: len(service.named("/lasting")) == 2, "both run")
            file.write_text(line("bob", WORDS["bob"]))
            # Another hash of the same password is another key.
            gateway.event("keys removed")
            ending.rest()
            assert request(gateway.proxy, headers=basic("ann", WORDS["ann"])).status == 401
            assert request(gateway.proxy, headers=basic("bob", WORDS["bob"])).status == 200


def test_nobody_waits_behind_all_the_passwords_that_another_address_has_sent(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "users"
    # So slow that all are there before the second one is checked.
    file.write_text(f"ann:{bcrypt.hashpw(WORDS['ann'].encode(), bcrypt.gensalt(11)).decode()}\n")
    route = {"to": {"addresses": [service.address]}, "auth": {"users": {"file": str(file)}}}
    with Gateway({"routes": [route], "trusted_proxies": ["127.0.0.1"]}) as gateway:

        def shown(address: str, password: str) -> dict[str, str]:
            return {"X-Forwarded-For": address, **basic("ann", password)}

        def asked() -> bool:
            return 'tidegate_credential_questions_total{kind="password"} 8' in request(gateway.admin, "/metrics").text

        guesses = [ask(gateway.proxy, headers=shown("192.0.2.1", f"guess {number}")) for number in range(8)]
        until(asked, "all are asked about")
        assert request(gateway.proxy, headers=shown("192.0.2.2", WORDS["ann"])).status == 200
        assert not all(guess.done() for guess in guesses)
        assert [guess.result().status for guess in guesses] == [401] * 8


def test_passwords_that_are_hashed_too_fast_are_refused_at_the_start(tmp_path: Path, service: Service) -> None:
    for known in (
        "ann:$apr1$x$abcdefghijklmnopqrstuv",
        "ann:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=",
        "ann:correct horse",
        "",
    ):
        users = tmp_path / "users"
        users.write_text(known)
        file = tmp_path / "tidegate.yaml"
        route = f"{{to: {{addresses: ['{service.address}']}}, auth: {{users: {{file: {users}}}}}}}"
        file.write_text(f"listeners: {{web: {{bind: '127.0.0.1:0'}}}}\nroutes: [{route}]\n")
        with Tidegate("gateway", "--config", file, "--admin", "127.0.0.1:0") as refused:
            assert refused.wait() == 2
            assert known[4:] not in refused.log or not known
