"""Command lines: what they start, what they refuse, and how they say so."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tidegate import __version__
from tidegate.config.knobs import Model
from tidegate.config.model import Agent, Forward, Gateway
from tidegate.config.sources import options

Tidegate = Callable[..., Any]
ROLES: dict[str, type[Model]] = {"gateway": Gateway, "agent": Agent, "forward": Forward}
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"


def test_help_and_version_need_neither_the_model_nor_the_engine() -> None:
    script = (
        "import sys\nfrom tidegate.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'pydantic', 'yaml', 'tidegate.engine', 'httpx'} & set(sys.modules)"
    )
    folder = Path(__file__).parents[2] / "python"
    ran = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "gateway" in ran.stdout


def test_without_a_command_the_help_is_shown_as_an_error(tidegate: Tidegate) -> None:
    ran = tidegate()
    assert (ran.code, ran.stdout) == (2, "")
    assert ran.stderr.startswith("Usage: tidegate")


def test_the_version_is_the_package_s(tidegate: Tidegate) -> None:
    ran = tidegate("--version")
    assert (ran.code, ran.stdout) == (0, f"tidegate {__version__}\n")
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert f'\nversion = "{__version__}"\n' in pyproject


@pytest.mark.parametrize("command", [["gateway"], ["agent", "http"], ["agent", "tcp"], ["agent", "start"], ["forward"]])
def test_every_option_has_a_line_and_an_environment_name(tidegate: Tidegate, command: list[str]) -> None:
    text = tidegate(*command, "--help").stdout
    for known in options(ROLES[command[0]]):
        assert f"  {known.flag}" in text
        assert known.env in text


def test_a_gateway_takes_every_option_of_its_synopsis(tidegate: Tidegate) -> None:
    ran = tidegate(
        "gateway", "--proxy", "127.0.0.1:0", "--agents", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--gossip", ":8002",
        "--workers", "2", "--grace-period", "5s", "--access-log", "off", "--log-format", "json", "--log-level", "debug",
    )  # fmt: skip
    started = ran.started
    assert (ran.code, started["role"], started["grace_period"]) == (0, "gateway", 5)
    assert started["snapshot"]["workers"] == 2
    assert [each["bind"] for each in started["snapshot"]["listeners"]] == [["127.0.0.1:0"], ["127.0.0.1:0"]]
    assert (started["admin"].bind, started["log"].format, started["log"].level) == ("127.0.0.1:0", "json", "debug")


def test_a_gateway_without_configuration_says_so(tidegate: Tidegate) -> None:
    assert tidegate("gateway").started["source"] == "defaults"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gateway", "--join", "a:1"], "--join: clusters are not built yet"),
        (["gateway", "--gossip", "x"], "--gossip: 'x' is no address"),
        (["gateway", "--workers", "0"], "--workers: "),
        (["gateway", "--config", "/nowhere"], "/nowhere: cannot read it"),
        (["gateway", "--foo"], "see `tidegate gateway --help`"),
        (["nope"], "see `tidegate --help`"),
        (["agent", "http"], "expected [ENDPOINT] ADDR"),
        (["agent", "http", "web"], "'web' is no local service"),
        (["agent", "http", "a/b", "3000"], "no endpoint name"),
        (["agent", "http", "web", "tcp://x:1"], "use `tidegate agent tcp`"),
        (["agent", "tcp", "web", "http://x:1"], "write tcp://"),
        (["agent", "udp", "dns", "tcp://a:53"], "scheme that is not known here (write udp://"),
        (["agent", "udp", "dns", "53", "--connect", "http://g:1"], "no URL begins with https://"),
        (["agent", "connect"], "missing argument 'ENDPOINT'"),
        (["agent", "connect", "a/b"], "no endpoint name"),
        (["agent", "connect", "dc1", "--allow", "10.0.0.1/8"], "did you mean `10.0.0.0/8`?"),
        (["agent", "connect", "dc1", "--allow", "host:0"], "'0' is no port"),
        (["agent", "start"], "no configuration"),
        (["agent", "http", "web", "1", "--connect", "nope"], "--connect: 'nope' is no URL"),
        (["agent", "http", "web", "1", "--ca", "x"], "neither the gateway nor the local service"),
        (["forward", "udp", "1", "a"], "no URL begins with https://"),
        (["forward", "1"], "expected [tcp|udp] ADDR ENDPOINT"),
        (["forward", "start"], "no configuration"),
        (["completion", "tcsh"], "tcsh"),
        (["completion"], "bash, zsh, fish"),
        (["status", "foo"], "there is no 'foo' to show (write `tidegate status` or "),
        (["status", "--url", "nonsense"], "'nonsense' is no URL of an admin listener"),
        (["agent", "http", "web", "99999"], "'99999' is no port (1 to 65535)"),
        (["agent", "http", "web", "0"], "'0' is no port (1 to 65535)"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(tidegate: Tidegate, words: list[str], said: str) -> None:
    ran = tidegate(*words)
    assert (ran.code, ran.stdout, ran.started) == (2, "", None)
    assert said in ran.stderr
    assert ran.stderr.startswith("error: ")
    assert ran.stderr.count("\n") == 1


def test_an_agent_offers_what_the_command_line_says(tidegate: Tidegate, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc\n")
    ran = tidegate(
        "agent", "http", "web", "3000", "--connect", "http://a:1", "--connect", "http://b:2", "--host-header",
        "rewrite", "--token-file", str(tmp_path / "token"), "--connections", "3", "--admin", "127.0.0.1:0",
    )  # fmt: skip
    snapshot = ran.started["snapshot"]
    assert (snapshot["connect"]["urls"], snapshot["connect"]["token"]) == (["http://a:1", "http://b:2"], "abc")
    assert snapshot["connections"] == 3
    assert snapshot["endpoints"][0]["host_header"] == "rewrite"
    assert ran.started["admin"].bind == "127.0.0.1:0"


def test_an_agent_without_a_name_gets_one_that_nobody_can_guess(tidegate: Tidegate) -> None:
    names = {tidegate("agent", "http", "3000").started["snapshot"]["endpoints"][0]["name"] for _ in range(5)}
    assert len(names) == 5
    assert all(len(name) == 16 and name == name.lower() and name.isalnum() for name in names)


def test_an_agent_has_no_admin_listener_unless_asked(tidegate: Tidegate) -> None:
    assert tidegate("agent", "tcp", "pg", "5432").started["admin"] is None


def test_an_agent_s_file_gives_the_connection_to_a_command_line(tidegate: Tidegate, tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("connect: {urls: ['http://gate:1']}\nendpoints: [{name: a, to: 1}, {name: b, to: 2}]\n")
    one = tidegate("agent", "http", "web", "3000", "--config", str(file)).started["snapshot"]
    assert (one["connect"]["urls"], [each["name"] for each in one["endpoints"]]) == (["http://gate:1"], ["web"])
    both = tidegate("agent", "start", "--config", str(file)).started["snapshot"]
    assert [each["name"] for each in both["endpoints"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("connect", "to", "option", "at_gateway", "at_service"),
    [
        ("https://gate", "3000", "--insecure-skip-verify", True, None),
        ("http://gate", "https://localhost:1", "--insecure-skip-verify", False, True),
        ("https://gate", "https://localhost:1", "--connect-insecure-skip-verify", True, False),
        ("https://gate", "https://localhost:1", "--service-insecure-skip-verify", False, True),
    ],
)
def test_tls_options_reach_the_side_they_are_for(  # noqa: PLR0917
    tidegate: Tidegate, connect: str, to: str, option: str, at_gateway: bool, at_service: bool | None
) -> None:
    snapshot = tidegate("agent", "http", "web", to, "--connect", connect, option).started["snapshot"]
    local = snapshot["endpoints"][0]["to"]["tls"]
    assert snapshot["connect"]["tls"]["insecure_skip_verify"] is at_gateway
    assert (local and local["insecure_skip_verify"]) == at_service


def test_a_tls_option_that_could_mean_two_things_is_refused(tidegate: Tidegate) -> None:
    ran = tidegate("agent", "http", "web", "https://x", "--connect", "https://gate", "--insecure-skip-verify")
    assert ran.code == 2
    assert "--connect-insecure-skip-verify or --service-insecure-skip-verify" in ran.stderr


def test_a_forward_takes_a_certificate_authority(tidegate: Tidegate, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(CERTIFICATE)
    ran = tidegate("forward", "5432", "pg", "--connect", "https://gate", "--ca", str(tmp_path / "ca.pem"))
    assert ran.started["snapshot"]["connect"]["tls"]["ca"] == CERTIFICATE


@pytest.mark.parametrize("words", [["127.0.0.1:1", "pg"], ["tcp", "127.0.0.1:1", "pg"]])
def test_a_forward_leads_to_an_endpoint(tidegate: Tidegate, words: list[str]) -> None:
    snapshot = tidegate("forward", *words).started["snapshot"]
    assert snapshot["forwards"] == [{"bind": ["127.0.0.1:1"], "endpoint": "pg", "udp_idle": None}]
    assert snapshot["connect"]["urls"] == ["http://localhost:8000"]


def test_an_option_may_come_from_the_environment(tidegate: Tidegate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_HOST_HEADER", "app.local")
    monkeypatch.setenv("TIDEGATE_TOKEN", "abc")
    ran = tidegate("agent", "http", "web", "3000")
    assert ran.started["snapshot"]["endpoints"][0]["host_header"] == {"set": "app.local"}
    assert ran.started["snapshot"]["connect"]["token"] == "abc"
    assert "abc" not in ran.started["source"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_prints_a_script(tidegate: Tidegate, shell: str) -> None:
    ran = tidegate("completion", shell)
    assert ran.code == 0
    assert "_TIDEGATE_COMPLETE" in ran.stdout
