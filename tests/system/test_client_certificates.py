"""Client certificates as credentials: their names stand for endpoints, their organisation for the tenant."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.issuer import Issuer
from tests.support.raw import Answer, Raw, at
from tests.support.service import Exchange, Service
from tests.support.tidegate import Gateway, Tidegate
from tests.system.guarded import LOCAL, UPGRADE

Known = tuple[Path, Path]


@pytest.fixture(scope="module")
def people(authority: Authority) -> dict[str, Known]:
    """Certificates by what they are."""

    def one(name: str, *names: str, organisation: str | None = None) -> Known:
        return authority.issue(name, *names, use="clientAuth", organisation=organisation)

    return {
        "acme": one("acme", "DNS:web", "DNS:other", organisation="acme"),
        "umbrella": one("umbrella", "DNS:web", organisation="umbrella"),
        "all": one("all", "DNS:*", organisation="acme"),
        "none": one("none", "DNS:web"),
        "nameless": one("nameless", "IP:192.0.2.1", organisation="acme"),
        "spaced": one("spaced", "DNS:web", organisation="Acme Ltd"),
    }


def say(word: str) -> Service:
    """A service that says a word."""

    def answer(exchange: Exchange) -> None:
        exchange.read()
        exchange.answer(body=word.encode())

    return Service(answer)


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    """Who signs tokens of umbrella."""
    return Issuer(tmp_path_factory.mktemp("issuer"))


@pytest.fixture(scope="module")
def gateway(authority: Authority, people: dict[str, Known], issuer: Issuer) -> Iterator[Gateway]:
    """A gateway that takes certificates and, beside them, tokens; both tenants offer `web`."""
    cert, key = authority.issue("server", "DNS:localhost", "IP:127.0.0.1")
    tls = {"certificates": [{"cert": str(cert), "key": str(key)}], "client_ca": str(authority.ca)}
    auth = {"certificate": {"endpoints": "dns", "tenant": "o"}}
    both = {**auth, "verifiers": [issuer.name]}
    listeners = {
        "agents": {"bind": LOCAL, "kind": "tunnel", "tls": tls, "auth": auth},
        "proxy": {"bind": LOCAL, "tls": {**tls, "client_certificate": "optional"}, "auth": auth},
        "both": {"bind": LOCAL, "tls": {**tls, "client_certificate": "optional"}, "auth": both},
    }
    verifiers = {issuer.name: issuer.source | {"tenant": "umbrella", "unlimited": True}}
    with ExitStack() as stack:
        running = stack.enter_context(Gateway({"listeners": listeners, "verifiers": verifiers}))
        url = f"https://localhost:{at(running.agents)[1]}"
        for name in ("acme", "umbrella"):
            service = stack.enter_context(say(name))
            shown = [f"--connect-{key}={file}" for key, file in zip(("cert", "key"), people[name], strict=True)]
            # What was shown counts in the same way, whatever carries the tunnel.
            shown.append(f"--transport={'quic' if name == 'umbrella' else 'websocket'}")
            words = ("agent", "http", "web", service.address, "--connect", url, f"--connect-ca={authority.ca}", *shown)
            stack.enter_context(Tidegate(*words)).event("connected")
            running.event("agent connected", endpoint="web", tenant=name)
        yield running


def speak(address: str, authority: Authority, known: Known | None, target: str, fields: str) -> Answer:
    """One request over TLS."""
    with Raw(address, tls=authority.client(known=known), name="localhost") as raw:
        raw.send(f"GET {target} HTTP/1.1\r\nHost: web.example.com\r\n{fields}\r\n".encode())
        return raw.answer()


def test_visitors_reach_their_own_tenant_by_their_certificate(
    gateway: Gateway, authority: Authority, people: dict[str, Known]
) -> None:
    told = {}
    for who, known in [*people.items(), ("nobody", None)]:
        answer = speak(gateway.proxy, authority, known, "/", "")
        told[who] = answer.body.decode() if answer.status == 200 else (answer.status, answer.json()["error"])
    assert told["acme"] == "acme"
    assert told["umbrella"] == "umbrella"
    assert told["nameless"] == (502, "no available upstreams")
    assert told["none"] == (401, "unknown tenant")
    assert told["nobody"] == (401, "missing authorization")
    # A certificate of every name is that of no endpoint.
    assert told["all"] == (502, "no available upstreams")
    assert told["spaced"] != "acme"


def test_an_agent_offers_what_its_certificate_names(
    gateway: Gateway, authority: Authority, people: dict[str, Known]
) -> None:
    upgrade = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
    for who, endpoint, expected in (
        ("acme", "other", ""), ("umbrella", "other", "endpoint not permitted"),
        ("nameless", "web", "endpoint not permitted"), ("none", "web", "unknown tenant"),
    ):  # fmt: skip
        answer = speak(gateway.agents, authority, people[who], f"/piko/v1/upstream/{endpoint}", upgrade)
        told = "" if answer.status == 101 else answer.json()["error"]
        assert told == expected, (who, endpoint)


def test_a_tenant_header_has_to_be_that_of_the_certificate(
    gateway: Gateway, authority: Authority, people: dict[str, Known]
) -> None:
    for field in ("x-tidegate-tenant-id", "x-piko-tenant-id"):
        assert speak(gateway.proxy, authority, people["acme"], "/", f"{field}: acme\r\n").status == 200
        assert speak(gateway.proxy, authority, people["acme"], "/", f"{field}: umbrella\r\n").status == 401


def test_a_token_counts_before_the_certificate(
    gateway: Gateway, authority: Authority, people: dict[str, Known], issuer: Issuer
) -> None:
    token = issuer.token()
    both, shown = gateway.address("both"), f"Authorization: Bearer {token}\r\n"
    assert speak(both, authority, people["acme"], "/", shown).body == b"umbrella"
    assert speak(both, authority, None, "/", shown).body == b"umbrella"
    assert speak(both, authority, people["acme"], "/", "").body == b"acme"
    assert speak(both, authority, people["acme"], "/", "Authorization: Bearer x.y.z\r\n").status == 401
    assert speak(both, authority, None, "/", "").status == 401
    # Where only certificates count, it is the service's own.
    assert speak(gateway.proxy, authority, people["acme"], "/", shown).body == b"acme"


def test_headers_of_proxies_that_speak_of_certificates_are_nothing(gateway: Gateway, authority: Authority) -> None:
    for field in ("X-Forwarded-Client-Cert", "X-SSL-Client-Cert", "X-Client-Cert", "Client-Cert"):
        assert speak(gateway.proxy, authority, None, "/", f"{field}: O=acme, CN=web\r\n").status == 401
