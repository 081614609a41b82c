"""`tidegate config`: what each command prints and how it ends."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Authority
from tests.unit.test_config_routes import EVERYTHING
from tidegate.cli import main
from tidegate.config.load import parse, validate
from tidegate.config.model import Agent, Forward, Gateway

ROLES: dict[str, tuple[Any, str]] = {
    "gateway": (Gateway, "tidegate.yaml"),
    "agent": (Agent, "agent.yaml"),
    "forward": (Forward, "forward.yaml"),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("TIDEGATE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def tidegate(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: str) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as ended:
            main.main(["config", *words])
        return ended.value.code, *capsys.readouterr()

    return run


def written(text: str, name: str = "tidegate.yaml") -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


@pytest.mark.parametrize("role", ROLES)
def test_a_file_to_begin_with_is_good_and_replaces_nothing(tidegate: Any, role: str) -> None:
    _, name = ROLES[role]
    assert tidegate("init", "--role", role) == (0, f"{name}: written (`tidegate config check {name}` checks it)\n", "")
    code, said, _ = tidegate("check", name)
    assert (code, said.startswith(f"{name}: ok ({role}: ")) == (0, True)
    before = Path(name).read_text()
    assert tidegate("init", "--role", role) == (2, "", f"error: {name} is there already; it was left alone\n")
    assert Path(name).read_text() == before


@pytest.mark.parametrize("role", ROLES)
def test_what_the_first_file_has_in_comments_is_good_too(role: str) -> None:
    model, name = ROLES[role]
    text = (Path(main.__file__).parents[1] / "config/starters" / name).read_text()
    opened = "\n".join(_opened(line) for line in text.splitlines())
    assert opened != text
    validate(model, parse(opened, name))


def _opened(line: str) -> str:
    """A line of YAML that was a comment; prose stays one."""
    before, mark, rest = line.partition("# ")
    is_yaml = rest.lstrip().startswith("- {") or rest.lstrip().partition(" ")[0].endswith(":")
    return before + rest if mark and not before.strip() and is_yaml else line


def test_init_writes_where_it_is_told_to(tidegate: Any) -> None:
    Path("etc").mkdir()
    assert tidegate("init", "etc")[0] == 0
    assert Path("etc/tidegate.yaml").is_file()
    code, _, error = tidegate("init", "nowhere/x.yaml")
    assert (code, error) == (2, "error: nowhere/x.yaml: cannot be written: no such file or directory\n")


def test_check_makes_no_log_file_and_asks_no_environment(tidegate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_WORKERS", "none")
    monkeypatch.setenv("PORT", "8000")
    written("access_log: {to: access.log}\nlisteners: {web: {bind: '127.0.0.1:${PORT}'}}")
    assert tidegate("check", "tidegate.yaml")[0] == 0
    assert not Path("access.log").exists()


def test_check_warns_of_a_certificate_that_soon_ends(tidegate: Any, tmp_path: Path) -> None:
    Authority(tmp_path).issue("a")
    written("listeners:\n  web:\n    bind: '127.0.0.1:0'\n    tls: {certificates: [{cert: a.pem, key: a.key}]}")
    code, _, said = tidegate("check", "tidegate.yaml")
    assert code == 0
    assert said.startswith("warning: tidegate.yaml:4: listeners.web.tls.certificates[0].cert: ")
    assert "a.pem expires on " in said


def test_a_gateway_that_cannot_start_names_the_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    file = written("listeners:\n  web:\n    bind: '127.0.0.1:0'\n    tls: {certificates: [{cert: a.pem, key: a.key}]}")
    with pytest.raises(SystemExit) as ended:
        main.main(["gateway", "--config", file])
    first, _ = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert first.startswith("error: tidegate.yaml:4: listeners.web.tls.certificates[0].cert: cannot read ")


def test_a_file_that_is_not_there_is_one_sentence(tidegate: Any) -> None:
    assert tidegate("check", "x.yaml") == (2, "", "error: x.yaml: cannot read it: no such file or directory\n")
    assert tidegate("check")[0] == 2


def test_every_value_is_shown_with_its_origin(tidegate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_GRACE_PERIOD", "5s")
    file = written(
        "log: {level: debug}\nlisteners:\n  web:\n    bind: '127.0.0.1:1'\n"
        "routes:\n  - {host: A.example, headers: {X-B: 1}, to: {endpoint: a}}"
    )
    code, said, _ = tidegate("show", "--config", file, "--workers", "3")
    lines = said.splitlines()
    assert code == 0
    assert lines[0] == "# tidegate.yaml, --workers, TIDEGATE_GRACE_PERIOD"
    for line in (
        "  level: debug  # tidegate.yaml:1",
        "  format: auto  # default",
        "    bind: 127.0.0.1:1  # tidegate.yaml:4",
        "    dynamic_endpoints: false  # default",
        "  - host: a.example  # tidegate.yaml:6",
        "      x-b: '1'  # tidegate.yaml:6",
        "grace_period: 5  # TIDEGATE_GRACE_PERIOD",
        "workers: 3  # --workers",
    ):
        assert line in lines


def test_what_is_shown_reads_back_as_the_same(tidegate: Any) -> None:
    before = validate(Gateway, parse(EVERYTHING, "f"))
    said = tidegate("show", "--config", written(EVERYTHING), "--node-name", "n", "--workers", "2")[1]
    again = validate(Gateway, parse(said, "f"))
    named = before.model_copy(update={"node": "n", "workers": 2})
    assert again.model_dump(exclude={"listeners"}) == named.model_dump(exclude={"listeners"})
    assert {name: each.bind for name, each in again.listeners.items()} == {
        name: each.bind for name, each in before.listeners.items()
    }


def test_secrets_are_shown_as_stars(tidegate: Any) -> None:
    file = written(
        "connect: {token: hunter2, proxy: 'http://me:hunter2@proxy:3128'}\nendpoints: [{name: a, to: 1}]", "agent.yaml"
    )
    gateway = written(
        "routes: [{host: a.example, to: {endpoint: a},"
        " request_headers: {set: {Authorization: hunter2, x-api-key: hunter2, x-a: shown}}}]"
    )
    for words in (("--config", file), ("--config", gateway), ("--config", gateway, "-o", "json")):
        code, said, _ = tidegate("show", *words)
        assert (code, "hunter2" in said, "***" in said) == (0, False, True)
    assert "shown" in said


def test_values_and_origins_are_shown_as_json(tidegate: Any) -> None:
    file = written("listeners: {web: {bind: ':80'}}\nupstreams: {a: {addresses: ['h:80'], health: /up}}")
    shown = json.loads(tidegate("show", "--config", file, "-o", "json")[1])
    assert shown["configuration"]["upstreams"]["a"]["health"]["path"] == "/up"
    assert shown["origins"]["upstreams.a.health.path"] == "tidegate.yaml:2"
    assert shown["origins"]["upstreams.a.addresses[0].address"] == "tidegate.yaml:2"
    assert shown["origins"]["tunnel.ping_interval"] == "default"


def test_show_knows_the_options_of_a_role(tidegate: Any) -> None:
    assert "connections: 3  # --connections" in tidegate("show", "--role", "agent", "--connections", "3")[1]
    code, _, error = tidegate("show", "--connections", "3")
    assert (code, error.partition(" (")[0]) == (2, "error: --connections is no option of `tidegate gateway`")


@pytest.mark.parametrize("role", ROLES)
def test_the_schema_has_every_key_of_the_model_and_says_what_it_is(tidegate: Any, role: str) -> None:
    code, said, _ = tidegate("schema", "--role", role)
    schema = json.loads(said)
    assert code == 0
    assert set(schema["properties"]) == set(ROLES[role][0].model_fields)
    assert schema["additionalProperties"] is False
    assert not {"flag", "advanced"} & set(_words(schema))


def test_the_schema_has_the_short_forms(tidegate: Any) -> None:
    schema = json.loads(tidegate("schema")[1])
    assert [form["type"] for form in schema["$defs"]["Redirect"]["anyOf"]] == ["string", "object"]
    assert {"const": "tcp"} in schema["$defs"]["Health"]["anyOf"]
    timeout = schema["$defs"]["Timeouts"]["properties"]["connect"]
    assert timeout["description"]
    assert [form["type"] for form in timeout["anyOf"]] == ["number", "string"]


def _words(node: Any) -> list[str]:
    if isinstance(node, dict):
        return [*node, *(word for item in node.values() for word in _words(item))]
    return [word for item in node for word in _words(item)] if isinstance(node, list) else []
