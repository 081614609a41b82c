"""Who may see what on the admin listener."""

import asyncio
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.unit.admin.fixed_role import GATEWAY, FixedRole
from tidegate.admin.app import create_app
from tidegate.admin.gate import KNOWN
from tidegate.control.background import Background
from tidegate.control.state import Admin, Outcome, Reloading, State

HERE, STRANGER = "127.0.0.1", "192.0.2.7"
OPEN = ["/health", "/ready", "/metrics"]
ENDPOINTS = ["/status/endpoints", "/status/endpoints/web"]


class Outcomes:
    """A configuration whose next reload comes out like this."""

    def __init__(self, **outcome: Any) -> None:
        self._outcome = outcome

    async def reload(self, trigger: str) -> Outcome:
        return Outcome(trigger, 0.0, 0.5, **self._outcome)

    def status(self) -> dict[str, Any]:
        return {"source": "tidegate.yaml"}

    def problems(self) -> list[str]:
        return ["the last configuration was refused"]

    def metrics(self) -> bytes:
        return b"tidegate_config_reloads_total 1\n"


def knowing(app: ASGIApp) -> ASGIApp:
    """The same application, on connections that have shown a certificate."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, KNOWN: True}, receive, send)

    return answer


def ask(
    path: str,
    *,
    peer: str = HERE,
    host: str | None = "localhost:8003",
    method: str = "GET",
    status: dict[str, Any] | None = None,
    hosts: tuple[str, ...] = (),
    reloads: Reloading | None = None,
    known: bool = False,
    **headers: str,
) -> httpx.Response:
    state = State(FixedRole(status), "gateway")
    state.reloads = reloads
    app = create_app(state, lambda: Admin("127.0.0.1:8003", hosts), Background("admin-token"))
    if known:
        app = knowing(app)

    async def call() -> httpx.Response:
        transport = httpx.ASGITransport(app, client=(peer, 4711))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8003") as client:
            request = client.build_request(method, path, headers=headers)
            del request.headers["host"]
            if host is not None:
                request.headers["host"] = host
            return await client.send(request)

    return asyncio.run(call())


def test_health_answers_as_long_as_the_process_does() -> None:
    assert ask("/health", status={"state": "draining"}).status_code == 200


def test_ready_says_why_not() -> None:
    assert ask("/ready").status_code == 200
    answer = ask("/ready", status={"state": "draining"})
    assert (answer.status_code, answer.json()) == (503, {"error": "not ready", "detail": "draining"})


def test_metrics_are_the_engines() -> None:
    answer = ask("/metrics")
    assert answer.content == b"tidegate_requests_total 17\n"
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


def test_status_here_is_whole() -> None:
    assert ask("/status").json() == GATEWAY


def test_strangers_see_the_status_without_names_of_endpoints() -> None:
    answer = ask("/status", peer=STRANGER, host="192.0.2.1:8003")
    assert answer.status_code == 200
    assert answer.json()["state"] == "running"
    assert "web" not in answer.text


@pytest.mark.parametrize("path", OPEN)
@pytest.mark.parametrize("host", [None, "gate.example.com", "10.0.0.1:8003"])
@pytest.mark.parametrize("peer", [HERE, STRANGER])
def test_a_load_balancer_may_check_under_any_host(path: str, host: str | None, peer: str) -> None:
    assert ask(path, peer=peer, host=host).status_code == 200


@pytest.mark.parametrize("path", [*ENDPOINTS, "/", "/nothing"])
def test_strangers_see_nothing_else(path: str) -> None:
    answer = ask(path, peer=STRANGER, host="192.0.2.1")
    assert (answer.status_code, answer.json()["error"]) == (403, "not from here")


@pytest.mark.parametrize("path", [*OPEN, "/status"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_strangers_only_read(path: str, method: str) -> None:
    assert ask(path, peer=STRANGER, host="192.0.2.1", method=method).status_code == 403


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_every_loopback_address_is_this_machine(peer: str) -> None:
    assert ask("/status/endpoints", peer=peer).status_code == 200


@pytest.mark.parametrize("peer", ["::ffff:192.0.2.7", "fe80::1%eth0", "not an address"])
def test_other_addresses_are_not(peer: str) -> None:
    assert ask("/status/endpoints", peer=peer).status_code == 403


@pytest.mark.parametrize("path", ["/status", *ENDPOINTS])
@pytest.mark.parametrize(
    "host", [None, "", "evil.example.com", "localhost.evil.com", "127.0.0.1.evil.com:8003", "2130706433"]
)
def test_a_name_that_is_not_ours_is_refused(path: str, host: str | None) -> None:
    answer = ask(path, host=host)
    assert (answer.status_code, answer.json()["error"]) == (403, "unknown host")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.:8003", "127.0.0.1:8003", "[::1]:8003", "10.1.2.3"])
def test_localhost_and_addresses_are_ours(host: str) -> None:
    assert ask("/status", host=host).status_code == 200


def test_a_configured_name_is_ours() -> None:
    assert ask("/status", host="Gate.internal:8003", hosts=("gate.internal",)).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example.com", "null", "https://localhost:8003", "http://localhost:3000"]
)
def test_pages_of_other_sites_are_refused(origin: str) -> None:
    answer = ask("/status", origin=origin)
    assert (answer.status_code, answer.json()["error"]) == (403, "foreign origin")


def test_a_page_of_ours_may_ask() -> None:
    assert ask("/status", origin="http://localhost:8003").status_code == 200


def test_one_endpoint_is_found_by_name_and_tenant() -> None:
    assert ask("/status/endpoints").json() == {"endpoints": GATEWAY["endpoints"]}
    assert ask("/status/endpoints/web").json() == GATEWAY["endpoints"][0]
    assert ask("/status/endpoints/web?tenant=acme").json() == GATEWAY["endpoints"][1]


def test_an_endpoint_that_nobody_offers_is_not_found() -> None:
    answer = ask("/status/endpoints/nobody")
    assert (answer.status_code, answer.json()["error"]) == (404, "no such endpoint")


def test_errors_are_json() -> None:
    missing = ask("/nothing")
    assert (missing.status_code, missing.json()["error"]) == (404, "not found")
    wrong = ask("/status", method="POST")
    assert (wrong.status_code, wrong.json()["error"]) == (405, "method not allowed")
    assert "GET" in wrong.headers["allow"]


def test_a_reload_answers_with_what_is_different_or_with_every_reason() -> None:
    applied = ask("/reload", method="POST", reloads=Outcomes(changes={"routes": {}}))
    assert (applied.status_code, applied.json()) == (
        200,
        {"result": "applied", "seconds": 0.5, "changes": {"routes": {}}},
    )
    refused = ask("/reload", method="POST", reloads=Outcomes(reasons=("a: 1", "b: 2")))
    assert (refused.status_code, refused.json()["reasons"]) == (422, ["a: 1", "b: 2"])
    assert refused.json()["detail"] == "a: 1; b: 2"


def test_only_who_may_change_something_reloads() -> None:
    def post(**more: Any) -> int:
        return ask("/reload", method="POST", reloads=Outcomes(), **more).status_code

    assert ask("/reload", reloads=Outcomes()).status_code == 405
    assert post(peer=STRANGER, host="192.0.2.1") == 403
    assert post(peer=STRANGER, host="192.0.2.1", known=True) == 200
    assert post(host="rebound.example.com") == 403
    assert post(origin="http://evil.example.com") == 403


def test_the_configuration_in_force_is_shown_here_and_to_nobody_else() -> None:
    assert ask("/status/config", reloads=Outcomes()).json() == {"source": "tidegate.yaml"}
    assert ask("/status/config", reloads=Outcomes(), peer=STRANGER, host="192.0.2.1").status_code == 403
    assert ask("/status", reloads=Outcomes()).json()["problems"] == ["the last configuration was refused"]
    assert b"tidegate_config_reloads_total 1\n" in ask("/metrics", reloads=Outcomes()).content


def test_agents_are_listed_with_what_they_offer() -> None:
    sessions = [
        {"agent": "a.0", "address": "10.0.0.1:1", "since": 2.0},
        {"agent": "a.1", "address": "10.0.0.1:2", "since": 1.0},
    ]
    old = [{"agent": None, "address": "10.0.0.2:1", "since": 3.0}]
    endpoints = [{"name": "web", "listeners": sessions}, {"name": "db", "listeners": [*sessions[:1], *old]}]
    found = ask("/status/agents", status={"endpoints": endpoints}).json()["agents"]
    assert [(one["agent"], one["endpoints"], one["sessions"], one["since"]) for one in found] == [
        ("a", ["web", "db"], 3, 1.0),
        (None, ["db"], 1, 3.0),
    ]
