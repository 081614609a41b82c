"""Reading files: variables, lines, and all mistakes at once."""

from typing import Any

import pytest

from tidegate.config.load import dump, parse, validate
from tidegate.config.model import Agent, Gateway
from tidegate.config.tree import expand
from tidegate.errors import ConfigError


def gateway(text: str) -> Gateway:
    return validate(Gateway, parse(text, "tidegate.yaml"))


def mistakes(text: str, model: Any = Gateway) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refused:
        validate(model, parse(text, "tidegate.yaml"))
    return refused.value.mistakes


def test_an_empty_file_is_the_default() -> None:
    assert gateway("") == Gateway()
    assert gateway("# nothing\n") == Gateway()


def test_an_unknown_key_is_told_with_file_line_and_the_nearest_one() -> None:
    text = "listeners:\n  web:\n    bind: ':80'\n    knd: http\n"
    assert mistakes(text) == ("tidegate.yaml:4: listeners.web: unknown key `knd` (did you mean `kind`?)",)


def test_all_mistakes_are_told_at_once() -> None:
    found = mistakes("timeouts:\n  connect: soon\nlimits:\n  connections: 0\nwrkers: 2\n")
    assert len(found) == 3
    assert found[0].startswith("tidegate.yaml:2: timeouts.connect: 'soon' is no duration")
    assert found[1].startswith("tidegate.yaml:4: limits.connections:")
    assert found[2] == "tidegate.yaml:5: unknown key `wrkers` (did you mean `workers`?)"


def test_a_key_that_is_written_twice_is_a_mistake() -> None:
    assert mistakes("log:\n  level: info\n  level: debug\n") == ("tidegate.yaml:3: log.level is written twice",)


@pytest.mark.parametrize(
    "text",
    [
        "cluster: {join: [gate-0:8002]}",
        "cluster: {tls: {}}",
    ],
)
def test_what_is_not_built_yet_is_refused_and_never_ignored(text: str) -> None:
    assert "not built yet" in "".join(mistakes(text))


def test_an_empty_permission_is_never_read_as_everything() -> None:
    assert "dynamic_endpoints" in "".join(mistakes("listeners: {web: {bind: ':80', dynamic_endpoints: }}"))
    assert "allow" in "".join(mistakes("listeners: {web: {bind: ':80', dynamic_endpoints: {allow: }}}"))
    assert "allow" in "".join(mistakes("listeners: {web: {bind: ':80', dynamic_endpoints: {alow: [a]}}}"))


@pytest.mark.parametrize(
    "text",
    [
        "listeners: {web: {bind: ':80', tls: }}",
        "listeners: {web: {bind: ':80', tls: {certificates: [{cert: a, key: b}], client_ca: }}}",
        "admin: {tls: }",
        *[
            f"routes: [{{path: /a, to: {{endpoint: a}}, {key}: {nothing}}}]"
            for key in ("host", "sni", "listeners", "methods", "headers")
            for nothing in ("", "[]", "null")
        ],
    ],
)
def test_a_key_that_narrows_is_never_empty(text: str) -> None:
    assert "has no value" in "".join(mistakes(text))


def test_keys_belong_to_their_kind_of_listener() -> None:
    assert "needs `to:" in "".join(mistakes("listeners: {a: {bind: ':80', kind: tcp}}"))
    assert "belongs to" in "".join(mistakes("listeners: {a: {bind: ':80', to: {endpoint: x}}}"))
    assert "belongs to" in "".join(mistakes("listeners: {a: {bind: ':80', kind: tunnel, dynamic_endpoints: true}}"))


def test_variables_expand_in_values_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "81")
    monkeypatch.setenv("LEVEL", "debug")
    monkeypatch.setenv("EVIL", "x: {y: z}")
    read = parse("a: ${PORT}\nb: ':${PORT}'\nc: ${NOWHERE:7}\nd: $${PORT}\ne: ${EVIL}\n${PORT}: 1\n", "f").data
    assert read == {"a": 81, "b": ":81", "c": 7, "d": "${PORT}", "e": "x: {y: z}", "${PORT}": 1}


def test_a_variable_that_is_not_set_is_told_with_its_line() -> None:
    assert mistakes("public_url:\n  ${NOWHERE_AT_ALL}\n")[0].startswith(
        "tidegate.yaml:2: public_url: ${NOWHERE_AT_ALL} is not set"
    )


def test_a_variable_that_is_not_closed_or_no_name_is_told_with_its_line() -> None:
    assert mistakes("log: {}\npublic_url: https://${HOME\nnode: '${a-b}'\n") == (
        "tidegate.yaml:2: public_url: '${HOME' has no } at its end "
        "(write ${NAME} or ${NAME:default}; $${ stands for ${ itself)",
        "tidegate.yaml:3: node: '${a-b}' is no variable (write ${NAME} or ${NAME:default}; $${ stands for ${ itself)",
    )


def test_a_merge_key_takes_over_what_is_not_written() -> None:
    text = (
        "log: {level: warn}\nlimits:\n  <<: [&a {connections: 7, head_fields: 9}, &b {head_fields: 8, http2_streams: 5}"
        "]\n  connections: 6\n"
    )
    tree = parse(text, "tidegate.yaml")
    assert tree.data["limits"] == {"connections": 6, "head_fields": 9, "http2_streams": 5}
    assert [tree.where["limits", key] for key in ("connections", "head_fields")] == [
        "tidegate.yaml:4",
        "tidegate.yaml:3",
    ]


def test_a_merge_key_of_an_alias_is_read_where_it_stands() -> None:
    text = "listeners:\n  a: &a {bind: 'localhost:1'}\n  web:\n    <<: *a\n    bind: 'localhost:2'\n"
    tree = parse(text, "tidegate.yaml")
    assert tree.data["listeners"] == {"a": {"bind": "localhost:1"}, "web": {"bind": "localhost:2"}}


def test_a_merge_key_that_is_no_mapping_is_told_with_its_line() -> None:
    assert mistakes("log:\n  <<: warn\n") == (
        "tidegate.yaml:2: log: `<<` takes over the keys of mappings (`<<: *name`, `<<: [*one, *two]`)",
    )


def test_a_merge_key_of_a_mapping_that_it_stands_in_is_told_with_its_line() -> None:
    told = "`<<` takes over the keys of a mapping that it stands in itself"
    assert mistakes("routes:\n  - &c {<<: *c, host: c}\n") == (f"tidegate.yaml:2: routes[0]: {told}",)
    assert f"tidegate.yaml:3: log.limits: {told}" in mistakes("log: &a\n  level: info\n  limits: {<<: *a}\n")


def test_a_mistake_that_is_taken_over_is_told_once_where_it_stands() -> None:
    text = "log: &a {level: '${NOWHERE_AT_ALL}'}\nlimits: {<<: *a}\ntimeouts: {<<: *a}\n"
    first = mistakes(text)[0]
    assert first.startswith("tidegate.yaml:1: log.level: ${NOWHERE_AT_ALL} is not set")
    assert sum("NOWHERE_AT_ALL" in each for each in mistakes(text)) == 1


def test_thousands_of_routes_take_over_the_same_keys_with_their_places() -> None:
    lines = ["x: &d {host: a.example.com, path: /}", "routes:", *["  - {<<: *d}"] * 10_000]
    tree = parse("\n".join(lines), "tidegate.yaml")
    assert tree.data["routes"] == [{"host": "a.example.com", "path": "/"}] * 10_000
    assert tree.where["routes", 9_999, "host"] == "tidegate.yaml:1"


def test_merge_keys_do_not_grow_without_end() -> None:
    wide = ", ".join(f"k{n}: 1" for n in range(2_000))
    lines = [f"a: &a {{{wide}}}", *[f"b{n}: {{<<: *a}}" for n in range(600)]]
    assert mistakes("\n".join(lines)) == ("tidegate.yaml:502: merge keys take over more than 1,000,000 keys",)


@pytest.mark.parametrize("opened", ["[", "{a: ", "- ", "? ", "a: [", "{", "[{? "])
def test_what_is_nested_deeper_than_a_stack_is_refused(opened: str) -> None:
    assert mistakes(opened * 40_000) == ("tidegate.yaml:1: nested too deeply",)


def test_a_tag_is_refused_but_the_one_of_text() -> None:
    assert mistakes("log: !Foo {level: info}\nnode: !bar x\nlimits: {connections: !!int 5}\n") == (
        "tidegate.yaml:1: log: the tag !Foo is not known here (write the value without it)",
        "tidegate.yaml:2: node: the tag !bar is not known here (write the value without it)",
        "tidegate.yaml:3: limits.connections: the tag !!int is not known here (write the value without it)",
    )
    assert parse("a: !!str 5\nb: !!str true\n", "f").data == {"a": "5", "b": "true"}


@pytest.mark.parametrize(("character", "called"), [("\0", "U+0000"), ("\x1b", "U+001B"), ("\x7f", "U+007F")])
def test_a_control_character_is_told_with_its_line(character: str, called: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(f"log: {{}}\nnode: a{character}b\n", "f")
    assert str(refused.value) == f"f:2: holds the control character {called} (it may be a binary file)"


def test_words_that_yaml_makes_into_something_else_stay_words() -> None:
    assert parse("a: off\nb: no\nc: 2024-01-01\nd: 12:30\ne: '5'\nf: 5\ng: true\nh: 1.5", "f").data == {
        "a": "off", "b": "no", "c": "2024-01-01", "d": "12:30", "e": "5", "f": 5, "g": True, "h": 1.5,
    }  # fmt: skip


@pytest.mark.parametrize("text", ["a: [", "- 1", "just words", "? [a]\n: b\nlog: {}", "a: &x [*x]", "\x00"])
def test_a_file_that_cannot_be_used_is_one_sentence_with_its_name(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^f(:\d+)?: [^\n]*$"):
        validate(Gateway, parse(text, "f"))


def test_a_variable_between_braces_gets_a_hint_about_quotes() -> None:
    with pytest.raises(ConfigError, match="needs quotes"):
        parse("a: {b: ${PORT}}", "f")


def test_expansion_knows_its_own_escape() -> None:
    assert expand("$${A} ${B:x} ${C}", {"C": "y"}) == "${A} x y"


def test_secrets_are_in_no_message_and_no_repr() -> None:
    token = "to-ken"
    agent = validate(Agent, parse(f"connect: {{token: {token}}}", "agent.yaml"))
    assert token not in repr(agent)
    assert token in dump(agent)
    assert "hunter 2" not in "".join(mistakes("connect: {token: 'hunter 2'}", Agent))


def test_a_dump_reads_back_the_same() -> None:
    text = "listeners:\n  db: {bind: ':1', kind: tcp, to: {endpoint: pg}}\ntimeouts: {idle: 3m}\nlog: {level: warn}\n"
    assert gateway(dump(gateway(text))) == gateway(text)


def test_an_endpoint_is_offered_once() -> None:
    found = mistakes("endpoints: [{name: a, to: 1}, {name: a, to: 2}]", Agent)
    assert "offered twice" in "".join(found)


def test_a_listener_s_name_is_told_in_one_line() -> None:
    (found,) = mistakes("listeners: {\"a\\nb\": {bind: ':80'}}")
    assert "is no listener name" in found
    assert "\n" not in found
    assert "[key]" not in found


def test_aliases_of_aliases_are_refused_before_they_fill_memory() -> None:
    lines = ["a0: &a0 [" + ", ".join(["x"] * 9) + "]"]
    lines += [f"a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * 9) + "]" for n in range(1, 9)]
    with pytest.raises(ConfigError, match="aliases repeat more than 10,000 values"):
        parse("\n".join(lines), "tidegate.yaml")
