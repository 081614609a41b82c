"""`tidegate config init --domain`: from nothing to a gateway on the Internet."""

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.support.certificates import Authority
from tidegate.auth.credentials import Credentials
from tidegate.auth.verdict import Granted
from tidegate.cli.main import cli
from tidegate.config.credentials import verifier_sets
from tidegate.config.load import parse, validate
from tidegate.config.model import Gateway
from tidegate.errors import ConfigError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(*words: str) -> Result:
    return CliRunner().invoke(cli, ["config", "init", *words])


def read(file: str = "tidegate.yaml") -> Gateway:
    return validate(Gateway, parse(Path(file).read_text(), file))


def test_everything_is_written_and_the_token_is_good_for_one_endpoint(folder: Path) -> None:
    ran = init("--domain", "Gate.Example.com")
    assert ran.exit_code == 0, ran.output
    config = read()
    assert (config.listeners["web"].bind, config.listeners["agents"].kind) == (":443", "tunnel")
    assert config.admin.bind == "127.0.0.1:8003"
    assert config.public_url == "https://{endpoint}.gate.example.com"
    assert (folder / "token.key").stat().st_mode & 0o777 == 0o600
    for said in (
        "gate.example.com.    A",
        "*.gate.example.com.  A",
        "tidegate gateway --config tidegate.yaml",
        "certbot",
    ):
        assert said in ran.output
    token = re.search(r"TIDEGATE_TOKEN=(\S+)", ran.output)
    assert token is not None
    (members,) = verifier_sets(config).values()
    verdict = Credentials({"": members}, {}, {}, None)[""].verify(token[1])
    assert isinstance(verdict, Granted)
    assert (verdict.listen, verdict.reach) == (("web",), ("web",))
    assert (folder / "token.key").read_text().strip() not in ran.output


def test_check_says_which_files_are_missing_and_nothing_once_they_are_there(folder: Path) -> None:
    init("--domain", "gate.example.com")
    checked = CliRunner().invoke(cli, ["config", "check", "tidegate.yaml"])
    assert "/etc/letsencrypt/live/gate.example.com/fullchain.pem: no such file" in str(checked.exception)
    (folder / "other").mkdir()
    cert, key = Authority(folder).issue("gate.example.com")
    ran = init("--domain", "gate.example.com", "--cert", cert.name, "--key", str(key), "other")
    assert ran.exit_code == 0, ran.output
    assert "certbot" not in ran.output + (folder / "other/tidegate.yaml").read_text()
    checked = CliRunner().invoke(cli, ["config", "check", "other/tidegate.yaml"])
    assert checked.exit_code == 0, checked.exception


@pytest.mark.parametrize(
    ("names", "lacking"),
    [
        (("gate.example.com", "*.gate.example.com"), None),
        (("*.example.com", "*.Gate.example.com"), None),
        (("gate.example.com",), "*.gate.example.com"),
        (("*.gate.example.com", "example.com"), "gate.example.com"),
        (("other.example.com", "*.com"), "gate.example.com and *.gate.example.com"),
    ],
    ids=range(5),
)
def test_a_certificate_for_other_names_is_told_at_once_with_its_names(
    folder: Path, names: tuple[str, ...], lacking: str | None
) -> None:
    cert, key = Authority(folder).issue("gate", *(f"DNS:{each}" for each in names))
    ran = init("--domain", "gate.example.com", "--cert", str(cert), "--key", str(key))
    assert ran.exit_code == 0, ran.output
    assert (folder / "tidegate.yaml").exists()
    assert ("warning" in ran.stderr) == bool(lacking), ran.stderr
    if lacking:
        held = ", ".join(names).lower()
        said = f"is not for {lacking} (it is for {held}): browsers and agents will refuse it"
        assert ran.stderr == f"warning: {cert}: {said}\n"


def test_a_certificate_that_is_not_there_or_will_not_do_is_told_at_once(folder: Path) -> None:
    authority = Authority(folder)
    cert, key = authority.issue("gate.example.com", "DNS:gate.example.com", "DNS:*.gate.example.com")
    (folder / "text").write_text("no certificate")
    _, other = authority.issue("other.example.com")
    for given, said in (
        (("none.pem", str(key)), "none.pem: cannot be read now: no such file or directory (it has to be there before"),
        ((str(cert), "none.key"), "none.key: cannot be read now: no such file or directory (it has to be there before"),
        (("text", str(key)), "text: holds no certificate"),
        ((str(cert), str(other)), f"{other} is not the key of {cert}"),
        ((str(folder), str(key)), f"{folder}: cannot be read now: is a directory"),
    ):
        ran = init("--domain", "gate.example.com", "--cert", given[0], "--key", given[1])
        assert ran.exit_code == 0, ran.output
        assert f"warning: {said}" in ran.stderr
        for each in ("tidegate.yaml", "token.key"):
            (folder / each).unlink()


@pytest.mark.parametrize("there", ["tidegate.yaml", "token.key"])
def test_nothing_is_overwritten_and_nothing_half_done(folder: Path, there: str) -> None:
    (folder / there).write_text("mine")
    ran = init("--domain", "gate.example.com")
    assert isinstance(ran.exception, ConfigError)
    assert f"{there} is there already" in str(ran.exception)
    assert [each.name for each in folder.iterdir()] == [there]
    assert (folder / there).read_text() == "mine"


def test_a_key_without_its_configuration_is_not_left_behind(folder: Path) -> None:
    ran = init("--domain", "gate.example.com", "no-such-folder/tidegate.yaml")
    assert isinstance(ran.exception, ConfigError)
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    "domain", ["10.0.0.1", "::1", "localhost", "a b.c", "https://gate.example.com", "*.example.com"]
)
def test_what_has_no_names_below_it_is_no_domain(folder: Path, domain: str) -> None:
    assert "--domain" in str(init("--domain", domain).exception)
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    "words",
    [("--cert", "a", "--key", "b"), ("--domain", "a.b", "--cert", "a"), ("--domain", "a.b", "--role", "agent")],
)
def test_options_that_do_not_fit_are_told(words: Any) -> None:
    assert init(*words).exit_code == 2
