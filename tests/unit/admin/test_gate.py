"""Who may ask the admin listener where it asks for tokens."""

import asyncio
from contextlib import closing

import httpx
import pytest

from tests.unit.admin.fixed_role import FixedRole
from tests.unit.auth.making import NOW, token, verifiers
from tidegate.admin.app import create_app
from tidegate.auth.jwks import KeysUnavailableError
from tidegate.auth.keys import Key
from tidegate.auth.verify import Verifier, VerifierSet
from tidegate.control.background import Background
from tidegate.control.state import Admin, State

GOOD = token({"exp": NOW + 60})


class Away:
    """Keys that cannot be fetched."""

    def __init__(self) -> None:
        self.changed = lambda _: None

    def find(self, kid: str | None, *, wait: bool) -> tuple[Key, ...]:
        raise KeysUnavailableError("nobody answers")

    def ids(self) -> frozenset[str]:
        return frozenset()

    def tend(self) -> None: ...

    def patience(self) -> float:
        return 1.0


async def ask(path: str, *shown: tuple[str, str], auth: VerifierSet, peer: str) -> httpx.Response:
    admin = Admin("127.0.0.1:8003", auth=auth)
    with closing(Background("admin-token")) as background:
        app = create_app(State(FixedRole(), "gateway"), lambda: admin, background)
        transport = httpx.ASGITransport(app, client=(peer, 4711))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8003") as client:
            return await client.get(path, headers=list(shown))


def run(path: str, *shown: tuple[str, str], auth: VerifierSet | None = None, peer: str = "127.0.0.1") -> httpx.Response:
    return asyncio.run(ask(path, *shown, auth=auth or verifiers(), peer=peer))


def told(response: httpx.Response) -> tuple[int, str | None]:
    return response.status_code, response.json().get("error")


@pytest.mark.parametrize("path", ["/metrics", "/status", "/status/endpoints", "/reload", "/nowhere"])
@pytest.mark.parametrize("peer", ["127.0.0.1", "192.0.2.7"])
def test_nobody_sees_anything_without_a_token_from_here_neither(path: str, peer: str) -> None:
    response = run(path, peer=peer)
    assert told(response) == (401, "missing authorization")
    assert response.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_a_probe_needs_no_token(path: str) -> None:
    assert run(path, peer="192.0.2.7").status_code in (200, 503)


@pytest.mark.parametrize("field", ["authorization", "x-piko-authorization", "x-tidegate-authorization"])
def test_a_good_token_opens_everything_from_everywhere(field: str) -> None:
    assert run("/status/endpoints", (field, f"Bearer {GOOD}"), peer="192.0.2.7").status_code == 200
    assert run("/metrics", (field, f"bearer {GOOD}"), peer="192.0.2.7").status_code == 200


@pytest.mark.parametrize(
    ("shown", "what"),
    [
        ([("authorization", f"Bearer {token({'exp': NOW - 1})}")], (401, "expired token")),
        ([("authorization", f"Bearer {GOOD}x")], (401, "invalid token")),
        ([("authorization", "Bearer ")], (401, "invalid authorization")),
        ([("authorization", f"Basic {GOOD}")], (401, "unsupported auth type")),
        ([("x-tidegate-authorization", "Bearer no"), ("authorization", f"Bearer {GOOD}")], (401, "invalid token")),
        ([("authorization", f"Bearer {GOOD}"), ("authorization", f"Bearer {GOOD}")], (400, "malformed request")),
    ],
)
def test_whatever_is_no_good_token_is_told_why(shown: list[tuple[str, str]], what: tuple[int, str]) -> None:
    assert told(run("/status", *shown)) == what


def test_where_keys_cannot_be_fetched_nobody_is_told_that_a_token_is_bad() -> None:
    away = VerifierSet([Verifier("main", Away())], clock=lambda: NOW)
    assert told(run("/status", ("authorization", f"Bearer {GOOD}"), auth=away))[0] == 503


def test_a_token_does_not_open_the_listener_to_other_sites() -> None:
    response = run("/status/endpoints", ("authorization", f"Bearer {GOOD}"), ("origin", "https://evil.example"))
    assert told(response) == (403, "foreign origin")
