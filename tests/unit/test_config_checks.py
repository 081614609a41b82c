"""Mistakes between parts; what is said of each is in `tests/golden/config`."""

import pytest

from tidegate.config.load import parse, validate
from tidegate.config.model import Gateway
from tidegate.errors import ConfigError


def mistakes(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refused:
        validate(Gateway, parse(text, "f"))
    return refused.value.mistakes


def test_what_is_wrong_in_itself_is_not_told_as_missing_too() -> None:
    text = (
        "listeners:\n  web: {bind: nowhere}\nupstreams:\n  shop: {addresses: []}\n"
        "routes:\n  - {host: a.example, listeners: [web], to: {upstream: shop}}\n"
        "  - {host: a.example, to: {upstream: shpo}}\n"
    )
    told = [mistake.split(": ")[:2] for mistake in mistakes(text)]
    assert told == [
        ["f:2", "listeners.web.bind"], ["f:4", "upstreams.shop"],
        ["f:7", "routes[1].to.upstream"], ["f:7", "routes[1]"],
    ]  # fmt: skip


def test_the_nearest_name_is_looked_for_only_so_often_that_a_long_file_stays_fast() -> None:
    names = "".join(f"  shop{number}: {{addresses: ['h:1']}}\n" for number in range(100))
    routes = "".join(f"  - {{host: h{number}.example, to: {{upstream: shp{number}}}}}\n" for number in range(100))
    found = mistakes(f"upstreams:\n{names}routes:\n{routes}")
    assert len(found) == 100
    assert sum("did you mean `shop" in mistake for mistake in found) == 20
    assert found[-1].endswith("(known: " + ", ".join(f"shop{number}" for number in range(10)) + " and 90 more)")
