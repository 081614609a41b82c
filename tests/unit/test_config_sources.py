"""Which source wins, and what is said about it."""

from pathlib import Path

import pytest

from tidegate.config.model import Agent, Forward, Gateway
from tidegate.config.snapshot import gateway_snapshot
from tidegate.config.sources import Source, find_file, options
from tidegate.config.tree import Places
from tidegate.errors import ConfigError


def written(folder: Path, text: str) -> Path:
    file = folder / "tidegate.yaml"
    file.write_text(text)
    return file


def test_an_option_wins_over_the_environment_over_the_file_over_the_default(tmp_path: Path) -> None:
    file = written(tmp_path, "timeouts: {connect: 1s, head: 1s, idle: 1s}\n")
    env = {"TIDEGATE_TIMEOUTS_CONNECT": "2s", "TIDEGATE_TIMEOUTS_HEAD": "2s"}
    source = Source(Gateway, file, {"--timeouts-connect": "3s"}, env)

    timeouts = source.read().timeouts

    assert (timeouts.connect, timeouts.head, timeouts.idle, timeouts.response) == (3, 2, 1, 60)
    assert str(source) == f"{file}, --timeouts-connect, TIDEGATE_TIMEOUTS_HEAD"


def test_a_mistake_names_its_source(tmp_path: Path) -> None:
    source = Source(Gateway, written(tmp_path, "log: {level: loud}"), {"--workers": "x"}, {"TIDEGATE_ADMIN": "y"})
    with pytest.raises(ConfigError) as refused:
        source.read()
    assert [mistake.split(": ")[0] for mistake in refused.value.mistakes] == [
        f"{tmp_path}/tidegate.yaml:1", "TIDEGATE_ADMIN", "--workers",
    ]  # fmt: skip


def test_reading_again_sees_what_has_changed(tmp_path: Path) -> None:
    file = written(tmp_path, "grace_period: 1s")
    source = Source(Gateway, file, env={})
    assert source.read().grace_period == 1
    file.write_text("grace_period: 2s")
    assert source.read().grace_period == 2


def test_every_option_and_environment_name_is_taken_once() -> None:
    for model in (Gateway, Agent, Forward):
        flags = [known.flag for known in options(model)]
        assert len(flags) == len(set(flags))
        assert all(known.env == "TIDEGATE_" + known.flag[2:].replace("-", "_").upper() for known in options(model))
        assert all(known.help.endswith(".") for known in options(model))


def test_proxy_and_agents_set_the_listeners_without_a_file() -> None:
    config = Source(Gateway, None, {"--proxy": ":80"}, {"TIDEGATE_AGENTS": ":81"}).read()
    assert {name: each.bind for name, each in config.listeners.items()} == {"proxy": ":80", "agents": ":81"}


def test_proxy_sets_the_only_http_listener_of_a_file(tmp_path: Path) -> None:
    file = written(tmp_path, "listeners: {web: {bind: ':80'}, db: {bind: ':1', kind: tcp, to: {endpoint: pg}}}")
    config = Source(Gateway, file, {"--proxy": ":8080", "--agents": ":8001"}, {}).read()
    assert {name: each.bind for name, each in config.listeners.items()} == {
        "web": ":8080",
        "db": ":1",
        "agents": ":8001",
    }


def test_proxy_is_refused_where_several_listeners_could_be_meant(tmp_path: Path) -> None:
    file = written(tmp_path, "listeners: {a: {bind: ':80'}, b: {bind: ':81'}}")
    with pytest.raises(ConfigError, match="which listener is meant"):
        Source(Gateway, file, {"--proxy": ":8080"}, {}).read()


def test_file_names_start_from_the_file_or_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "etc").mkdir()
    file = written(tmp_path / "etc", "connect: {ca: ca.pem}")
    monkeypatch.chdir(tmp_path)
    connect = Source(Agent, file, {"--token-file": "token"}, {}).read().connect
    assert (connect.ca, connect.token_file) == (f"{tmp_path}/etc/ca.pem", f"{tmp_path}/token")


def test_a_token_takes_the_place_of_a_weaker_source_only(tmp_path: Path) -> None:
    file = written(tmp_path, "connect: {token_file: token}")
    connect = Source(Agent, file, {"--token": "abc"}, {"TIDEGATE_TOKEN_FILE": "other"}).read().connect
    assert (connect.token is not None, connect.token_file) == (True, None)
    with pytest.raises(ConfigError, match="exclude each other"):
        Source(Agent, None, {"--token": "abc", "--token-file": "f"}, {}).read()


def test_a_token_by_a_command_takes_the_place_of_a_weaker_source(tmp_path: Path) -> None:
    file = written(tmp_path, "connect: {token_file: token}")
    connect = Source(Agent, file, {"--token-command": "pass show 'a b'"}, {"TIDEGATE_TOKEN": "x"}).read().connect
    assert (connect.token, connect.token_file, connect.token_command) == (None, None, ("pass", "show", "a b"))
    with pytest.raises(ConfigError, match="`token_file` and `token_command` exclude each other"):
        Source(Agent, None, {"--token-command": "x", "--token-file": "y"}, {}).read()


def test_lists_in_the_environment_are_separated_by_commas() -> None:
    config = Source(Agent, None, {}, {"TIDEGATE_CONNECT": "http://a:1, http://b:2"}).read()
    assert config.connect.urls == ("http://a:1", "http://b:2")


def test_only_an_agent_has_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    own = tmp_path / ".config/tidegate/agent.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("")
    assert find_file(Agent, None, {}) == own
    assert find_file(Agent, None, {"TIDEGATE_CONFIG": "x"}) == Path("x")
    assert find_file(Agent, "y", {"TIDEGATE_CONFIG": "x"}) == Path("y")
    assert find_file(Gateway, None, {}) is None
    assert find_file(Forward, None, {}) is None


def test_a_file_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"^/nowhere/x\.yaml: cannot read it: no such file or directory$"):
        Source(Gateway, Path("/nowhere/x.yaml"), {}, {}).read()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("routes: [{host: '${HIDDEN}', respond: 200}]", "routes[0].host: '${HIDDEN}' is no host name"),
        ("timeouts: {idle: '${HIDDEN}'}", "timeouts.idle: '${HIDDEN}' is no duration"),
        ("timeouts: {idle: '5 ${HIDDEN}'}", "timeouts.idle: '5 ${HIDDEN}' is no duration"),
        ("admin: {bind: '${HIDDEN}:80'}", "admin.bind: '${HIDDEN}:80'"),
        ("routes: [{host: a, to: {addresses: ['http://me:${HIDDEN}@h:1']}}]", "'http://***@h:1' holds more"),
        ("routes: [{host: a, to: {addresses: ['${HIDDEN}:x']}}]", "to.addresses[0]"),
        ("error_pages: {html: '${HIDDEN}.html'}", "${HIDDEN}.html: no such file"),
    ],
)
def test_a_mistake_shows_the_name_of_a_variable_and_not_what_it_holds(
    text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tidegate.yaml"
    file.write_text(f"node: example\n{text}\n")
    monkeypatch.setenv("HIDDEN", "a S3cret/")
    with pytest.raises(ConfigError) as caught:
        gateway_snapshot(Source(Gateway, file).read(), Places(Source(Gateway, file).tree))
    assert told in str(caught.value)
    assert "s3cret" not in str(caught.value).lower()
