"""The admin listener: health, readiness, metrics, status, and who may ask for what."""

from __future__ import annotations

import json
import socket
import subprocess
from typing import Any

import pytest

from tests.support.http import Response, request
from tests.support.ports import reserved
from tests.support.process import until
from tests.support.raw import Raw
from tests.support.service import Service
from tests.support.tidegate import Agent, Forward, Gateway, Tidegate, command
from tests.system.site import Site


def admin_of(program: Tidegate) -> str:
    """Where the admin listener of a program is."""
    return str(program.event("listening", listener="admin")["address"])


def status(*words: str) -> str:
    """What `tidegate status ...` prints."""
    ended = subprocess.run(command("status", *words), capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def metric(site: Site, line: str) -> float:
    """The value of a metric, 0 where it is not there."""
    for written in request(site.gateway.admin, "/metrics").text.splitlines():
        if written.startswith(f"{line} "):
            return float(written.rpartition(" ")[2])
    return 0


def test_a_gateway_is_healthy_and_ready_without_agents() -> None:
    with Gateway() as gateway:
        assert request(gateway.admin, "/health").status == 200
        assert request(gateway.admin, "/ready").status == 200


def test_an_agent_is_ready_once_every_endpoint_has_a_tunnel() -> None:
    with (
        reserved() as address,
        Service() as service,
        Agent(address, "http", "web", service.address, "--admin", "127.0.0.1:0", wait=False) as agent,
    ):
        assert request(admin_of(agent), "/health").status == 200
        before = request(admin_of(agent), "/ready")
        assert before.status == 503
        assert "web" in before.text
        with Gateway({"listeners": {"agents": {"bind": address, "kind": "tunnel"}}}):
            until(lambda: request(admin_of(agent), "/ready").status == 200, "the agent is ready")
        until(lambda: request(admin_of(agent), "/ready").status == 503, "the agent is not ready any more")


def test_a_forward_has_an_admin_listener_too() -> None:
    with Gateway() as gateway, Forward(gateway.proxy, "db", "--admin", "127.0.0.1:0") as forward:
        assert request(admin_of(forward), "/health").status == 200
        assert request(admin_of(forward), "/status").json()["role"] == "forward"
        assert b"tidegate_" in request(admin_of(forward), "/metrics").body


def test_metrics_add_up_with_what_visitors_saw() -> None:
    with Site() as site:
        for _ in range(5):
            assert request(site.proxy, endpoint="web").status == 200
        for _ in range(3):
            assert request(site.proxy, endpoint="nobody").status == 502
        served = 'tidegate_requests_total{listener="proxy",endpoint="web",status="200"}'
        until(lambda: metric(site, served) == 5, "five requests are counted")
        failed = 'tidegate_errors_total{listener="proxy",code="no_upstream"}'
        assert metric(site, failed) == 3
        assert metric(site, 'tidegate_sessions{tenant="",endpoint="web",transport="websocket"}') == 1
        assert metric(site, "tidegate_requests_in_flight") == 0
        text = request(site.gateway.admin, "/metrics").text
        assert 'endpoint="nobody"' not in text, "labels come from the configuration and from agents"


def test_every_metric_has_help_and_a_type(site: Site) -> None:
    described, used = set(), set()
    for line in request(site.gateway.admin, "/metrics").text.splitlines():
        if line.startswith("# TYPE "):
            described.add(line.split()[2])
        elif not line.startswith("#"):
            used.add(line.split("{")[0].split(" ")[0])
    names = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in used}
    assert names <= described | used
    assert names & described
    assert all(name.startswith("tidegate_") for name in names)


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
@pytest.mark.parametrize(
    "host", [b"Host: anything.example.com\r\n", b"Host: web\r\n", b""], ids=["any", "label", "none"]
)
def test_checks_are_answered_under_any_host_and_none(site: Site, path: str, host: bytes) -> None:
    version = b"1.1" if host else b"1.0"
    with Raw(site.gateway.admin) as asking:
        asking.send(b"GET " + path.encode() + b" HTTP/" + version + b"\r\n" + host + b"\r\n")
        assert asking.answer().status == 200


def ask(site: Site, path: str, **headers: str) -> Response:
    """Asks the admin listener."""
    return request(site.gateway.admin, path, headers=headers)


def test_status_is_answered_under_our_own_names_only(site: Site) -> None:
    for host in ("localhost", "127.0.0.1", "[::1]:8003", "LOCALHOST:8003"):
        assert ask(site, "/status", Host=host).status == 200
    for host in ("rebound.example.com", "web.localhost", ""):
        assert ask(site, "/status", Host=host).status == 403


def test_status_is_answered_under_the_names_of_the_configuration() -> None:
    with Gateway({"admin": {"bind": "127.0.0.1:0", "hosts": ["gate.internal"]}}) as gateway:
        assert request(gateway.admin, "/status", headers={"Host": "gate.internal:8003"}).status == 200
        assert request(gateway.admin, "/status", headers={"Host": "other.internal"}).status == 403


def test_pages_of_other_sites_may_not_ask(site: Site) -> None:
    assert ask(site, "/status", Origin="http://evil.example.com").status == 403
    assert ask(site, "/status", Origin=f"http://{site.gateway.admin}").status == 200


def test_strangers_see_no_names() -> None:
    """A stranger is who does not come from this machine; here, from another address of it."""
    address = own_address()
    with Site(config={"admin": {"bind": "0.0.0.0:0"}}) as site:
        port = site.gateway.admin.rpartition(":")[2]
        stranger, local = f"{address}:{port}", f"127.0.0.1:{port}"
        assert site.gateway.event("no authentication", listener="admin")["port"] == int(port)
        for path in ("/health", "/ready", "/metrics", "/status"):
            assert request(stranger, path).status == 200
        assert "endpoints" not in request(stranger, "/status").json()
        assert request(stranger, "/status/endpoints").status == 403
        assert request(stranger, "/status", method="POST").status == 403
        assert request(local, "/status/endpoints").status == 200


def own_address() -> str:
    """An address of this machine that is not loopback; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])


def test_status_shows_endpoints_and_their_agents(site: Site) -> None:
    whole: Any = ask(site, "/status").json()
    assert (whole["role"], whole["state"], whole["problems"]) == ("gateway", "running", [])
    assert {listener["name"]: listener["kind"] for listener in whole["listeners"]} == {
        "proxy": "http",
        "agents": "tunnel",
    }
    [endpoint] = whole["endpoints"]
    assert endpoint["name"] == "web"
    assert endpoint["listeners"][0]["transport"] == "websocket"
    assert ask(site, "/status/endpoints").json()["endpoints"][0]["name"] == "web"
    assert ask(site, "/status/endpoints/web").json()["name"] == "web"
    assert ask(site, "/status/endpoints/nobody").status == 404


def test_the_status_command_shows_one_screen(site: Site) -> None:
    screen = status("--url", f"http://{site.gateway.admin}")

    assert "tidegate gateway" in screen
    for word in ("web", "proxy", "agents", site.proxy, "nothing is wrong"):
        assert word in screen


def test_the_status_command_lists_endpoints_in_every_form(site: Site) -> None:
    url = f"http://{site.gateway.admin}"
    assert "web" in status("endpoints", "--url", url)
    assert json.loads(status("endpoints", "-o", "json", "--url", url))["endpoints"][0]["name"] == "web"
    assert "name: web" in status("endpoints", "-o", "yaml", "--url", url)
    assert "websocket" in status("endpoints", "web", "--url", url)


def test_the_status_command_says_what_to_do_where_nothing_answers() -> None:
    with reserved() as nobody:
        ended = subprocess.run(
            command("status", "--url", f"http://{nobody}"), capture_output=True, text=True, timeout=30, check=False
        )
        assert ended.returncode == 1
        assert ended.stderr.count("\n") == 1
        assert f"nothing answers at http://{nobody}" in ended.stderr


def test_admin_paths_are_not_on_the_proxy_or_tunnel_port(site: Site) -> None:
    for address in (site.proxy, site.gateway.agents):
        for path in ("/metrics", "/status", "/health"):
            assert request(address, path).status in (400, 404)


def test_the_engine_goes_on_where_the_admin_listener_is_flooded(site: Site) -> None:
    held = [Raw(site.gateway.admin) for _ in range(200)]
    try:
        assert request(site.proxy, endpoint="web").status == 200
    finally:
        for one in held:
            one.close()
    assert request(site.gateway.admin, "/health").status == 200
