"""`tidegate piko server` with a file that asks for tokens: Piko-shaped agents come in with theirs, and no others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.interop.programs import GoProgram, PikoAgent, PikoForward, all_come_back
from tests.interop.programs import Service as GoService
from tests.support.certificates import Authority
from tests.support.http import request
from tests.support.issuer import Issuer, PublishedKeys, bearer
from tests.support.process import Program
from tests.support.tidegate import Agent, Forward, command
from tests.system.guarded import knock, refusal
from tests.system.test_piko_server import PikoServer

KINDS = {"HS256": "hmac_secret_key", "HS512": "hmac_secret_key", "RS256": "rsa_public_key", "ES384": "ecdsa_public_key"}


@pytest.fixture(scope="module")
def service() -> Iterator[GoService]:
    """What the agents offer."""
    with GoService() as running:
        yield running


@contextmanager
def serving(folder: Path, file: dict[str, Any], *flags: str) -> Iterator[PikoServer]:
    """A server with this file."""
    path = folder / "server.yaml"
    path.write_text(json.dumps(file))
    with PikoServer("--config.path", path, *flags) as server:
        yield server


def in_and_out(server: PikoServer, service: GoService, token: str, *flags: str) -> None:
    """An agent comes in with this token, and is gone again."""
    with PikoAgent(server.address("agents"), "http", "web", service.http, "--token", token, *flags) as agent:
        assert agent.seen("disconnected") == []


def is_refused(server: PikoServer, token: str, message: str, *flags: str) -> None:
    """It does not with this one, and is told why."""
    url = f"http://{server.address('agents')}"
    words = ["--connect", url, *(("--token", token) if token else ()), *flags, "http", "web", "127.0.0.1:1"]
    with GoProgram("piko-agent", *words) as agent:
        assert agent.wait() == 1
        assert message in agent.log


@pytest.mark.parametrize("algorithm", KINDS)
def test_agents_come_in_by_the_keys_of_the_file(algorithm: str, service: GoService, tmp_path: Path) -> None:
    issuer = Issuer(tmp_path, algorithm)
    (tmp_path / "other").mkdir()
    auth = {KINDS[algorithm]: issuer.public.decode()}
    with serving(tmp_path, {"upstream": {"auth": auth}}) as server:
        # Piko's own: no names are all of them, no end is no end.
        said: list[dict[str, Any]] = [
            {"piko": {"endpoints": ["x", "web"]}},
            {"piko": {"endpoints": []}},
            {},
            {"exp": 4e9},
        ]
        for claims in said:
            in_and_out(server, service, issuer.sign(claims))
        is_refused(server, issuer.sign({"piko": {"endpoints": ["x"]}}), "endpoint not permitted")
        is_refused(server, issuer.sign({"exp": 1}), "expired token")
        is_refused(server, Issuer(tmp_path / "other", algorithm).sign({}), "invalid token")
        is_refused(server, "", "missing authorization")
        # Nobody asks visitors.
        assert request(server.address("proxy"), headers={"x-piko-endpoint": "web"}).status == 502


@pytest.mark.parametrize("place", ["https", "file"])
def test_agents_come_in_by_published_keys(
    place: str, service: GoService, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = Issuer(tmp_path, "ES256", kid="1", name="one"), Issuer(tmp_path, "RS256", kid="2", name="two")
    with PublishedKeys(authority.server("DNS:localhost"), one, two) as published:
        (tmp_path / "jwks.json").write_bytes(published.body)
        endpoint = published.url if place == "https" else f"file://{tmp_path}/jwks.json"
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
        file = {"upstream": {"auth": {"jwks": {"endpoint": endpoint, "cache_ttl": "1m"}, "audience": "gate"}}}
        with serving(tmp_path, file) as server:
            for issuer in (one, two):
                in_and_out(server, service, issuer.sign({"aud": "gate", "piko": {"endpoints": ["web"]}}))
            is_refused(server, one.sign({"aud": "door"}), "invalid token")
            assert published.asked == (place == "https")


def test_tenants_have_keys_and_names_of_their_own(service: GoService, tmp_path: Path) -> None:
    acme, umbrella = Issuer(tmp_path, name="acme"), Issuer(tmp_path, "ES256", name="umbrella")
    tenants = [
        {"id": "acme", "auth": {"hmac_secret_key": acme.public.decode()}},
        {"id": "umbrella", "auth": {"ecdsa_public_key": umbrella.public.decode()}},
    ]
    with serving(tmp_path, {"upstream": {"tenants": tenants}}) as server:
        in_and_out(server, service, acme.sign({}), "--tenant", "acme")
        in_and_out(server, service, umbrella.sign({}), "--tenant", "umbrella")
        is_refused(server, acme.sign({}), "invalid token", "--tenant", "umbrella")
        is_refused(server, acme.sign({}), "unknown tenant", "--tenant", "nobody")
        is_refused(server, acme.sign({}), "unknown tenant")
        with Agent(server.address("agents"), "http", "web", service.http, "--token", acme.sign({}), "--tenant", "acme"):
            pass


def test_visitors_forwards_and_admin_show_tokens_where_the_file_says_so(service: GoService, tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    auth = {"auth": {"hmac_secret_key": issuer.public.decode(), "issuer": "https://id.example.com"}}
    token = issuer.sign({"iss": "https://id.example.com", "piko": {"endpoints": ["echo"]}})
    with serving(tmp_path, {"proxy": auth, "upstream": auth, "admin": auth}) as server:
        proxy = server.address("proxy")
        with PikoAgent(server.address("agents"), "tcp", "echo", service.echo, "--token", token):
            with PikoForward(proxy, "echo", "--token", token) as forward:
                all_come_back("--tcp", forward.address, "--count", "10")
            with Forward(proxy, "echo", "--token", token) as ours:
                all_come_back("--tcp", ours.address, "--count", "10")
            refused = request(proxy, headers={"x-piko-endpoint": "echo"})
            assert refusal(refused) == (401, "missing authorization")
            assert refusal(knock(server.address("agents"), "echo")) == (401, "missing authorization")
        assert request(server.address("admin"), "/status").status == 401
        assert request(server.address("admin"), "/status", headers=bearer(token)).status == 200
        assert request(server.address("admin"), "/ready").status == 200


def test_a_secret_on_the_command_line_or_in_the_environment_is_nowhere_else(service: GoService, tmp_path: Path) -> None:
    issuer = Issuer(tmp_path)
    secret = issuer.public.decode()
    with PikoServer("--upstream.auth.hmac-secret-key", secret) as server:
        in_and_out(server, service, issuer.sign({}))
        is_refused(server, "", "missing authorization")
        shown = [request(server.address("admin"), path).text for path in ("/status", "/status/config", "/metrics")]
        assert secret not in server.log + "".join(shown)
    words = command("config", "import", "piko", str(tmp_path / "server.yaml"))
    (tmp_path / "server.yaml").write_text(f"upstream: {{auth: {{hmac_secret_key: {secret}}}}}\n")
    with Program(words) as imported:
        imported.wait()
        assert secret not in imported.log
