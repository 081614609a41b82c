"""Whatever is written in a file: it becomes a configuration, or mistakes that a person can read."""

from typing import Any, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from tidegate.config.effective import as_json, as_yaml
from tidegate.config.knobs import child_model, plain_type
from tidegate.config.load import parse, validate
from tidegate.config.model import Agent, Forward, Gateway
from tidegate.config.names import host_pattern, request_path
from tidegate.config.tree import Tree
from tidegate.errors import ConfigError

WORDS = (
    "", "a", "web", "shop", "a.example.com", "*.example.com", "A.Example.", "/", "/api", "tcp", "true", "10.0.0.7:80",
    "https://h:1", "h2c://[::1]:2", "10.0.0.0/8", "keep", "cookie", "GET", "1.2", "5s", "127.0.0.1:0", "specific",
    "first", "http", "tunnel", "x-a", "Connection", "{path}", "https://a{path}", "Ä", "\u0000", "%",
)  # fmt: skip
SCALARS = st.one_of(st.sampled_from(WORDS), st.none(), st.booleans(), st.integers(-1, 70000), st.floats(0, 2))


def written(model: type[BaseModel], depth: int = 0) -> st.SearchStrategy[Any]:
    """Something like what a person writes for this model: its keys, with values that often fit."""
    values: dict[str, st.SearchStrategy[Any]] = {}
    for name, field in model.model_fields.items():
        child, kind = child_model(field), get_origin(plain_type(field))
        one = SCALARS if child is None or depth > 4 else st.one_of(written(child, depth + 1), SCALARS)
        choices = [one, SCALARS]
        if kind is tuple:
            choices += [st.lists(one, max_size=3)] * 2
        elif kind is dict:
            choices += [st.dictionaries(st.sampled_from(WORDS), one, max_size=3)] * 2
        elif get_args(plain_type(field)):
            choices.append(st.sampled_from([str(each) for each in get_args(plain_type(field))]))
        values[name] = st.one_of(choices)
    values["unknown"] = SCALARS
    return st.fixed_dictionaries({}, optional=values)


def outcome(model: Any, tree: Tree) -> tuple[Any, tuple[str, ...]]:
    """The configuration, or None and the mistakes."""
    try:
        return validate(model, tree), ()
    except ConfigError as refused:
        return None, refused.mistakes


@pytest.mark.parametrize("model", [Gateway, Agent, Forward])
def test_anything_becomes_a_configuration_or_readable_mistakes(model: Any) -> None:
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(written(model))
    def check(data: dict[str, Any]) -> None:
        tree = Tree(data=data, name="f", base="/")
        config, mistakes = outcome(model, tree)
        assert all(mistake.isprintable() for mistake in mistakes)
        if config is None:
            return
        # What is shown may be written again, and then means the same.
        shown = as_yaml(config, tree)
        validate(model, parse(shown, "shown", expanded=None))
        assert as_json(config, tree)["configuration"]

    check()


@given(st.text(max_size=30))
def test_a_form_stays_as_it_is(text: str) -> None:
    for check in (host_pattern, request_path):
        try:
            once = check(text)
        except ValueError:
            continue
        assert check(once) == once


@given(st.lists(st.tuples(st.sampled_from(("a", "b")), st.sampled_from(("/", "/x", "/x/", None)), st.booleans())))
def test_two_routes_are_equal_as_a_slow_and_obvious_comparison_says(
    matches: list[tuple[str, str | None, bool]],
) -> None:
    routes = [
        {"host": host, **({"path": path, "exact": exact} if path else {}), "respond": 204}
        for host, path, exact in matches
    ]

    def meaning(host: str, path: str | None, exact: bool) -> tuple[str, frozenset[str]]:
        asked = ("/", "/x", "/x/", "/x/y", "/xy")
        if path is None:
            return host, frozenset(asked)
        if exact:
            return host, frozenset({path})
        prefix = path.removesuffix("/")
        return host, frozenset(each for each in asked if each == prefix or each.startswith(f"{prefix}/"))

    wanted = {
        position
        for position, match in enumerate(matches)
        if any(meaning(*match) == meaning(*before) for before in matches[:position])
    }
    _, mistakes = outcome(Gateway, Tree(data={"routes": routes}, name="f"))
    assert {int(mistake.split("[")[1].split("]")[0]) for mistake in mistakes} == wanted
