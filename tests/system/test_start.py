"""What a command line says when it cannot do what it was told, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.ports import reserved
from tests.support.process import Program
from tests.support.service import Service
from tests.support.tidegate import Gateway, command


@dataclass
class Ran:
    """A command that came to its end."""

    code: int
    out: str
    err: str


def tidegate(*words: str, cwd: Path | None = None) -> Ran:
    """Runs a command that ends by itself, without anything of the machine's configuration."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    env["HOME"] = "/nonexistent"
    ended = subprocess.run(
        command(*words),
        capture_output=True,
        text=True,
        timeout=30,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return Ran(ended.returncode, ended.stdout, ended.stderr)


def says(ran: Ran, code: int, sentence: str) -> None:
    """Checks that one line was said, which holds this sentence."""
    assert (ran.code, ran.out) == (code, ""), ran
    assert "Traceback" not in ran.err
    assert ran.err.count("\n") == 1, ran.err
    assert sentence in ran.err


FREE = ("--proxy", "127.0.0.1:0", "--agents", "127.0.0.1:0", "--admin", "127.0.0.1:0")


def test_a_port_in_use_is_named_with_the_program_that_has_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ran = tidegate("gateway", *FREE, "--proxy", address)
    says(ran, 1, f'listener "proxy": {address} is in use by PID {os.getpid()} (')


@pytest.mark.parametrize("which", ["proxy", "agents", "admin"])
def test_a_port_of_another_tidegate_is_in_use_too(which: str) -> None:
    with Gateway() as gateway:
        address = str(gateway.event("listening", listener=which)["address"])
        ran = tidegate("gateway", *FREE, f"--{which}", address)
        assert gateway.running
    says(ran, 1, f"{address} is in use by PID {gateway.pid} (tidegate gateway)")


def test_a_forward_names_who_has_its_port() -> None:
    with Gateway() as gateway:
        ran = tidegate("forward", gateway.proxy, "db", "--connect", f"http://{gateway.proxy}")
    says(ran, 1, f"{gateway.proxy} is in use by PID {gateway.pid} (tidegate gateway)")


def test_an_address_that_is_not_ours_is_named() -> None:
    says(tidegate("gateway", *FREE, "--proxy", "192.0.2.1:0"), 1, "192.0.2.1:0: this machine has no such address")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("listeners:\n  web: {bnd: ':80'}\n", "unknown key `bnd` (did you mean `bind`?)"),
        ("listner: {}\n", "unknown key `listner` (did you mean `listeners`?)"),
        ("listeners:\n  web: {bind: nowhere}\n", "tidegate.yaml:2: listeners.web.bind: "),
        ("timeouts: {idle: soon}\n", "tidegate.yaml:1: timeouts.idle: "),
        ("listeners: [\n", "tidegate.yaml:2: "),
        ("routes: [{host: a, to: {upstream: b}}]\n", "routes[0].to.upstream: there is no upstream `b`"),
        ("listeners:\n  web: {bind: ':0', auth: {hmac: x}}\n", "unknown key `hmac`"),
        ("listeners:\n  q: {bind: ':0', kind: tunnel, transports: [quic]}\n", "quic"),
        ("listeners:\n  db: {bind: ':0', kind: tcp}\n", "needs `to: {endpoint: NAME}`"),
        ("- a\n", "tidegate.yaml"),
    ],
)
def test_a_mistake_in_the_configuration_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "tidegate.yaml").write_text(text)

    ran = tidegate("gateway", "--config", "tidegate.yaml", cwd=tmp_path)

    assert ran.code == 2
    assert "Traceback" not in ran.err
    assert sentence in ran.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["gateway", "--config", "/nonexistent.yaml"], "/nonexistent.yaml: cannot read it: no such file or directory"),
        (["gateway", "--join", "gate:8002"], "clusters are not built yet"),
        (["gateway", "--gossip", "nonsense"], "'nonsense' is no address"),
        (["gateway", "--proxy", "80:80:80"], "'80:80' is no host name or address"),
        (["gateway", "--workers", "0"], "workers"),
        (["agent", "http", "a b", "3000"], "'a b' is no endpoint name"),
        (["agent", "http", "web", "99999"], "'99999' is no port"),
        (["agent", "http", "web", "3000", "--connect", "ftp://gate"], "ftp://gate"),
        (["agent", "http", "web", "3000", "--token-file", "/nonexistent"], "/nonexistent"),
        (["agent", "start"], "--config"),
        (["nonsense"], "no such command 'nonsense'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_the_command_line_is_one_sentence(words: list[str], sentence: str) -> None:
    ran = tidegate(*words)

    assert ran.code == 2, ran
    assert "Traceback" not in ran.err
    assert sentence in ran.err


def test_version_and_help_end_well() -> None:
    version = tidegate("--version")
    assert version.code == 0
    assert re.search(r"\d+\.\d+\.\d+", version.out)
    for words in ([], ["gateway"], ["agent"], ["agent", "http"], ["forward"], ["status"]):
        assert tidegate(*words, "--help").out.startswith("Usage: tidegate")


def test_a_gateway_that_is_away_is_one_sentence_and_waited_for() -> None:
    with reserved() as address:
        words = ["agent", "http", "web", "3000", "--connect", f"http://{address}", "--log-format", "text"]
        with Program(command(*words), name="agent") as agent:
            agent.says(f"a tunnel of endpoint web is down: nothing listens on {address}")
            agent.signal(signal.SIGINT)
            assert agent.wait() == 0
            assert "Traceback" not in agent.log
            assert agent.log.count("is down") == 1


def test_what_is_no_tunnel_listener_is_refused_for_good() -> None:
    with Gateway() as gateway, Service() as service:
        for url in (f"http://{gateway.proxy}", f"http://{gateway.agents}/wrong"):
            ran = tidegate("agent", "http", "web", service.address, "--connect", url, "--log-format", "text")
            assert ran.code == 1
            assert "giving up: every tunnel was refused: " in ran.err
            assert url in ran.err
