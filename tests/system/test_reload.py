"""A running gateway takes a new configuration whole, by whatever way it comes, or refuses it whole."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from tests.support.http import request
from tests.support.process import DEADLINE, until
from tests.support.raw import Raw, at
from tests.support.service import Service
from tests.support.tidegate import Agent, Config, Forward, Gateway, Tidegate, command
from tests.system.breaking import broken, says, taken
from tests.system.site import Site

BIND = "127.0.0.1:0"
ADMIN = {"bind": BIND}


def word(gateway: Gateway, listener: str = "proxy") -> str:
    """What it answers."""
    return request(gateway.address(listener)).text


def until_said(gateway: Gateway, expected: str) -> None:
    """Waits until that configuration is in force."""
    until(lambda: word(gateway) == expected, f"the gateway answers {expected!r}")


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """A gateway that answers `old`."""
    with Gateway(says("old")) as running:
        yield running


def in_force(gateway: Gateway) -> dict[str, Any]:
    """What `/status/config` says."""
    found: dict[str, Any] = request(gateway.admin, "/status/config").json()
    return found


# Ways in which a configuration comes.


def test_a_file_that_is_renamed_over_the_old_one_is_taken(gateway: Gateway) -> None:
    gateway.write(says("new"))
    until_said(gateway, "new")
    applied = gateway.event("configuration applied", trigger="file")
    assert applied["changes"] == {"routes": {"changed": {"count": 1, "names": ["/"]}}}
    assert applied["source"].startswith(str(gateway.file))


def test_a_file_that_is_edited_in_place_is_read_when_it_is_quiet(gateway: Gateway) -> None:
    whole = json.dumps(gateway.config | says("new"))
    with gateway.file.open("w") as file:
        for begin in range(0, len(whole), 40):
            file.write(whole[begin : begin + 40])
            file.flush()
            time.sleep(0.02)
    until_said(gateway, "new")
    assert gateway.seen("configuration refused") == [], "a half of the file was read"


def test_the_symbolic_links_of_kubernetes_are_followed(tmp_path: Path) -> None:
    """A mounted ConfigMap: the file is a link through `..data`, a link that is swapped."""

    def publish(version: str, config: Config) -> None:
        (tmp_path / version).mkdir()
        listeners = {"proxy": {"bind": BIND}}
        (tmp_path / version / "tidegate.yaml").write_text(
            json.dumps({"listeners": listeners, "admin": ADMIN, **config})
        )
        (tmp_path / "..tmp").symlink_to(version)
        (tmp_path / "..tmp").rename(tmp_path / "..data")

    publish("..1", says("old"))
    (tmp_path / "tidegate.yaml").symlink_to("..data/tidegate.yaml")
    with Tidegate("gateway", "--config", tmp_path / "tidegate.yaml") as gateway:
        proxy = str(gateway.ready("listening", listener="proxy")["address"])
        assert request(proxy).text == "old"
        publish("..2", says("new"))
        until(lambda: request(proxy).text == "new", "the new configuration is in force")


def test_sighup_reads_again_and_opens_the_access_log_anew(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    with Gateway(says("old", access_log={"to": str(log)})) as gateway:
        assert word(gateway) == "old"
        until(log.read_text, "the request is logged")
        log.rename(tmp_path / "access.log.1")
        gateway.signal(signal.SIGHUP)
        gateway.event("configuration applied", trigger="signal")
        assert word(gateway) == "old"
        until(lambda: log.exists() and log.read_text(), "the request is logged in the new file")
        assert len((tmp_path / "access.log.1").read_text().splitlines()) == 1


def test_the_end_of_its_terminal_ends_a_gateway_that_sighup_does_not() -> None:
    child, terminal = pty.fork()
    if child == 0:  # pragma: no cover  another program from here on
        words = command("gateway", "--proxy", BIND, "--agents", BIND, "--admin", BIND)
        # Under nohup the tests would hand on that it is ignored.
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        os.execv(words[0], words)
    with open(terminal, "rb", buffering=0) as screen:
        read_until(screen, b"listening", 3)
        os.kill(child, signal.SIGHUP)
        read_until(screen, b"configuration applied (SIGHUP)", 1)
    ended = until(lambda: [status for pid, status in [os.waitpid(child, os.WNOHANG)] if pid], "the gateway has ended")
    assert os.waitstatus_to_exitcode(ended[0]) == 0


def read_until(screen: IO[bytes], mark: bytes, times: int) -> None:
    """Reads until it has said this so often."""
    said = b""
    while said.count(mark) < times:
        ready, _, _ = select.select([screen], [], [], DEADLINE)
        assert ready, said
        said += screen.read(65536)


def reload_command(gateway: Gateway) -> subprocess.CompletedProcess[str]:
    words = command("reload", "--url", f"http://{gateway.admin}")
    return subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)


def test_the_command_says_what_is_different_or_why_nothing_is(gateway: Gateway) -> None:
    gateway.write(says("new"))
    applied = reload_command(gateway)
    assert applied.returncode == 0
    assert "applied in" in applied.stdout
    assert word(gateway) == "new"

    gateway.write("listeners: {proxy: {bind: nowhere}}\nrouts: []\n")
    refused = reload_command(gateway)
    assert refused.returncode == 1
    assert "did you mean `routes`?" in refused.stderr
    assert "'nowhere' is no address" in refused.stderr
    assert word(gateway) == "new"


def test_the_admin_listener_answers_with_the_changes_or_every_reason(gateway: Gateway) -> None:
    gateway.write(says("new", limits={"head_fields": 100}))
    applied = gateway.reload()
    assert applied.status == 200
    assert set(applied.json()["changes"]) == {"routes", "settings"}
    gateway.write("listeners: {proxy: {bind: nowhere}}\nrouts: []\n")
    refused = gateway.reload()
    assert refused.status == 422
    assert len(refused.json()["reasons"]) == 2
    assert request(gateway.admin, "/reload").status == 405
    assert request(gateway.admin, "/reload", method="POST", headers={"Origin": "http://evil.example"}).status == 403


def test_a_file_that_the_configuration_names_is_followed(tmp_path: Path) -> None:
    page = tmp_path / "error.html"
    page.write_text("before")
    with Gateway(
        {"routes": [{"host": "nobody.example", "respond": 204}], "error_pages": {"html": str(page)}}
    ) as gateway:
        assert str(page) in in_force(gateway)["files"]
        before = in_force(gateway)["hash"]
        page.write_text("after")
        gateway.event("configuration applied", trigger="file")
        assert in_force(gateway)["hash"] != before


def test_what_has_not_changed_is_not_applied_again(gateway: Gateway) -> None:
    gateway.file.touch()
    gateway.write(says("new"))
    until_said(gateway, "new")
    gateway.event("configuration applied")
    assert len(gateway.seen("configuration applied")) == 1


# What is refused, and what stays.


def test_whatever_is_wrong_changes_nothing_and_is_told(gateway: Gateway) -> None:
    holder, port = taken()
    before = in_force(gateway)
    with holder:
        for way, (written, reason) in broken(gateway, port).items():
            gateway.write(written)
            refused = gateway.reload()
            assert refused.status == 422, way
            assert reason in refused.json()["detail"], way
            assert word(gateway) == "old", way
            found = in_force(gateway)
            assert (found["hash"], found["since"], found["in_force"]) == (before["hash"], before["since"], False), way
            assert found["last_refused"]["reasons"] == refused.json()["reasons"], way
            assert any("refused" in problem for problem in gateway.status()["problems"]), way
            assert [one["name"] for one in gateway.status()["listeners"]] == ["proxy", "agents"], way
    gateway.write(says("new"))
    assert gateway.reload().status == 200
    assert gateway.status()["problems"] == []
    metrics = request(gateway.admin, "/metrics").text
    assert 'tidegate_config_reloads_total{result="applied"}' in metrics
    assert "tidegate_config_last_applied_seconds" in metrics


def test_a_file_that_is_gone_changes_nothing(gateway: Gateway) -> None:
    gateway.file.unlink()
    gateway.event("configuration refused", trigger="file")
    assert word(gateway) == "old"
    gateway.write(says("new"))
    until_said(gateway, "new")


def test_a_listener_that_can_be_bound_is_given_back_where_another_one_cannot(gateway: Gateway) -> None:
    holder, port = taken()
    with holder, socket.create_server(("127.0.0.1", 0)) as probe:
        free = f"127.0.0.1:{probe.getsockname()[1]}"
        probe.close()
        gateway.write(says("new", listeners={"first": {"bind": free}, "second": {"bind": port}}))
        assert gateway.reload().status == 422
        with pytest.raises(ConnectionRefusedError), socket.create_connection(at(free), 5):
            pass


@pytest.mark.parametrize("kind", ["agent", "forward"])
def test_an_agent_and_a_forward_refuse_and_go_on(kind: str) -> None:
    options = ("--admin", BIND)
    with Gateway() as gateway, Service() as service:
        started: Tidegate = (
            Agent(gateway.agents, "http", "web", service.address, *options)
            if kind == "agent"
            else Forward(gateway.proxy, "web", *options)
        )
        with started as running:
            running.signal(signal.SIGHUP)
            refused = running.event("configuration refused", trigger="signal")
            assert refused["reasons"] == [f"this {kind} takes a new configuration when it is started again"]
            admin = str(running.event("listening", listener="admin")["address"])
            assert request(admin, "/reload", method="POST").status == 422
            assert request(admin, "/status").json()["problems"] == []


# What happens to listeners and streams.


def test_listeners_come_and_go(gateway: Gateway) -> None:
    gateway.write(says("new", listeners={"more": {"bind": BIND}}))
    assert gateway.reload().json()["changes"]["listeners"] == {"added": {"count": 1, "names": ["more"]}}
    assert word(gateway, "more") == "new"
    gateway.write(says("new"))
    assert gateway.reload().status == 200
    gateway.event("listener closed", listener="more")
    with pytest.raises(ConnectionRefusedError):
        word(gateway, "more")
    assert word(gateway) == "new"


def test_whoever_waits_at_a_listener_that_is_given_up_is_still_served() -> None:
    config = {**says("here"), "workers": 1}
    with Gateway({**config, "listeners": {"more": {"bind": BIND}}}) as gateway:
        gateway.write(config)
        gateway.signal(signal.SIGSTOP)
        # While it stands still the kernel accepts for it.
        waiting = [Raw(gateway.address("more")) for _ in range(50)]
        for visitor in waiting:
            visitor.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        gateway.signal(signal.SIGHUP)
        gateway.signal(signal.SIGCONT)
        for visitor in waiting:
            assert visitor.answer().status == 200
            visitor.close()
        gateway.event("listener closed", listener="more")


def test_an_address_keeps_its_socket_under_another_name() -> None:
    routes = [
        {"path": "/", "listeners": [name], "respond": {"status": 200, "body": name}} for name in ("left", "right")
    ]
    with Gateway({"listeners": {"left": {"bind": BIND}, "right": {"bind": BIND}}, "routes": routes}) as gateway:
        left, right = gateway.address("left"), gateway.address("right")
        sockets = listening(gateway, left, right)
        gateway.write({"listeners": {"left": {"bind": left}, "right": {"bind": right}}, "routes": routes})
        assert gateway.reload().status == 200
        gateway.write({"listeners": {"left": {"bind": right}, "right": {"bind": left}}, "routes": routes})
        assert gateway.reload().status == 200
        assert (request(left).text, request(right).text) == ("right", "left")
        assert listening(gateway, left, right) == sockets


def listening(gateway: Gateway, *addresses: str) -> set[str]:
    """The sockets of the gateway that listen on these ports."""
    ports = {f"{at(address)[1]:04X}" for address in addresses}
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    inodes = {f"socket:[{f[9]}]" for f in map(str.split, lines) if f[3] == "0A" and f[1].split(":")[1] in ports}
    held = {os.readlink(each) for each in Path(f"/proc/{gateway.pid}/fd").iterdir()}
    return inodes & held


def test_a_wide_address_may_become_a_narrow_one_of_the_same_port(gateway: Gateway) -> None:
    port = gateway.proxy.rpartition(":")[2]
    for bind in (f"0.0.0.0:{port}", f"127.0.0.1:{port}"):
        gateway.write(says(bind, listeners={"proxy": {"bind": bind}}))
        assert gateway.reload().status == 200
        until_said(gateway, bind)


def test_a_connection_of_a_listener_that_is_gone_ends_after_its_request() -> None:
    with Site(config={"listeners": {"more": {"bind": BIND}}}) as site, Raw(site.gateway.address("more")) as visitor:
        ask = b"GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n"
        visitor.send(ask)
        assert visitor.answer().status == 200
        site.gateway.write({})
        assert site.gateway.reload().status == 200
        assert visitor.rest() == b""


def test_a_request_ends_under_the_configuration_it_began_with() -> None:
    going: list[Callable[[], None]] = []

    def slow(exchange: Any) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
        going.append(lambda: exchange.send(b"half"))
        until(lambda: len(going) == 2, "the route is gone")

    with Service(slow) as service:
        routes = [{"path": "/", "to": {"addresses": [service.address]}}]
        config = {"listeners": {"more": {"bind": BIND}}, "routes": routes}
        with Gateway(config) as gateway, Raw(gateway.address("more")) as visitor:
            visitor.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            visitor.until(b"half")
            gateway.write(says("new"))
            assert gateway.reload().status == 200
            assert word(gateway) == "new"
            going[0]()
            going.append(lambda: None)
            assert visitor.rest() == b"half"


def test_nothing_in_the_queue_of_a_port_is_lost_when_its_listener_is_renamed() -> None:
    with Gateway({**says("here"), "listeners": {"more": {"bind": BIND}}}) as gateway:
        address = gateway.address("more")
        for turn in range(20):
            waiting = [Raw(address) for _ in range(20)]
            gateway.write(says("here", listeners={f"name{turn}": {"bind": address}}))
            assert gateway.reload().status == 200
            for visitor in waiting:
                visitor.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            for visitor in waiting:
                assert visitor.answer().status == 200
                visitor.close()


def test_ten_thousand_routes_are_in_force_soon_after_they_are_saved(gateway: Gateway) -> None:
    routes = [
        {"host": f"h{n}.example.com", "path": f"/p{n}", "respond": {"status": 200, "body": str(n)}}
        for n in range(10_000)
    ]
    gateway.write({"routes": routes})
    host = {"Host": "h9999.example.com"}
    until(lambda: request(gateway.proxy, "/p9999", headers=host).text == "9999", "in force")
    assert request(gateway.admin, "/ready").status == 200
    assert len(request(gateway.admin, "/status/routes").json()["routes"]) == 10_000
