"""What a token says, and what no token may say."""

import contextlib
import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.auth.making import part, token
from tidegate.auth.token import InvalidTokenError, claims_of, name_pattern, permits, read

NAMES = st.text("abcXYZ019._-", min_size=1, max_size=8)
PATTERNS = st.one_of(NAMES, NAMES.map(lambda name: f"{name}*"), st.just("*"))


def said(claims: Any) -> Any:
    return claims_of(read(token(claims)))


def refused(claims: Any) -> str:
    with pytest.raises(InvalidTokenError) as error:
        said(claims)
    return str(error.value)


def test_names_count_for_both_directions_or_for_one() -> None:
    found = said({"tidegate": {"endpoints": ["a", "b*"], "listen": ["c", "a"], "reach": ["d"], "tenant": "acme"}})
    assert (found.listen, found.reach, found.tenant) == (("a", "b*", "c"), ("a", "b*", "d"), "acme")


def test_who_names_one_direction_means_nothing_in_the_other() -> None:
    found = said({"tidegate": {"listen": ["a"]}})
    assert (found.listen, found.reach) == (("a",), ())


@pytest.mark.parametrize("claims", [{}, {"piko": {}}, {"piko": {"endpoints": []}}, {"tidegate": {"tenant": "acme"}}])
def test_a_token_may_name_nothing_at_all(claims: dict[str, Any]) -> None:
    found = said(claims)
    assert (found.listen, found.reach) == (None, None)


def test_an_empty_list_of_ours_is_an_empty_list() -> None:
    found = said({"tidegate": {"endpoints": []}})
    assert (found.listen, found.reach) == ((), ())


def test_pikos_endpoints_count_where_ours_name_none() -> None:
    assert said({"piko": {"endpoints": ["a"], "other": 1}}).listen == ("a",)
    assert said({"piko": {"endpoints": ["a"]}, "tidegate": {"tenant": "t"}}).reach == ("a",)
    assert said({"piko": {"endpoints": ["a"]}, "tidegate": {"endpoints": ["b"]}}).reach == ("b",)


@pytest.mark.parametrize(
    "claims",
    [
        {"tidegate": ["a"]},
        {"tidegate": {"endpoint": ["a"]}},
        {"tidegate": {"endpoints": "a"}},
        {"tidegate": {"endpoints": None}},
        {"tidegate": {"endpoints": [1]}},
        {"tidegate": {"endpoints": ["a*b"]}},
        {"tidegate": {"endpoints": ["a/b"]}},
        {"tidegate": {"endpoints": [""]}},
        {"tidegate": {"endpoints": ["x" * 129]}},
        {"tidegate": {"tenant": ""}},
        {"tidegate": {"tenant": "a*"}},
        {"tidegate": {"tenant": None}},
        {"tidegate": {}, "piko": {"endpoints": [None]}},
        {"piko": {"endpoints": "a"}},
        {"piko": ["a"]},
        {"tidegate": None},
        {"iss": 1},
        {"iss": None},
        {"aud": 1},
        {"aud": None},
        {"aud": ["a", 1]},
        {"aud": {"a": 1}},
    ],
)
def test_a_claim_of_another_form_is_not_passed_over(claims: dict[str, Any]) -> None:
    refused(claims)


@pytest.mark.parametrize("claim", [None, {}, {"endpoints": None}, {"endpoints": []}])
def test_a_piko_claim_that_names_nothing_is_as_good_as_none(claim: dict[str, Any] | None) -> None:
    """Programs in Go write null for an empty list."""
    assert (said({"piko": claim}).listen, said({"piko": claim}).reach) == (None, None)
    assert said({"piko": claim, "tidegate": {"endpoints": ["a"]}}).listen == ("a",)


def test_an_audience_is_a_text_or_a_list() -> None:
    assert said({"aud": "a"}).audience == ("a",)
    assert said({"aud": ["a", "b"]}).audience == ("a", "b")
    assert said({}).audience == ()


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize(
    "written",
    ['"1800000000"', "-1", "-0.5", "1e400", "1e16", "9007199254740993", "null", "true", "[1]", "{}", "1" * 400],
)
def test_case_33_a_time_that_is_no_number_from_0_to_2_53_makes_a_token_invalid(name: str, written: str) -> None:
    refused(f'{{"{name}": {written}}}')


def test_case_33_a_number_that_no_reader_takes_makes_a_token_invalid() -> None:
    for written in ("NaN", "Infinity", "-Infinity", "1" * 5000, "0x10", "01", "+1"):
        refused(f'{{"exp": {written}}}')


@given(st.one_of(st.integers(0, 2**53), st.floats(0, 2**53)))
def test_case_33_a_time_is_read_without_its_fraction(number: float) -> None:
    found = said({"exp": number, "nbf": number, "iat": number})
    assert found.expires == found.not_before == number // 1
    assert Fraction(found.expires) <= Fraction(number) < Fraction(found.expires) + 1


@given(
    st.one_of(
        st.integers(max_value=-1),
        st.integers(min_value=2**53 + 1),
        st.floats(max_value=-1e-300, allow_nan=False, allow_infinity=False),
        st.floats(min_value=2**53, exclude_min=True, allow_nan=False, allow_infinity=False),
    )
)
def test_case_33_no_other_number_is_a_time(number: float) -> None:
    refused({"exp": number})


def test_case_33_a_missing_time_is_no_mistake_of_form() -> None:
    assert (said({}).expires, said({}).not_before) == (None, None)


@given(st.lists(PATTERNS), NAMES)
def test_a_pattern_permits_itself_and_what_begins_with_it(patterns: list[str], name: str) -> None:
    expected = False
    for pattern in patterns:
        beginning, star, _ = pattern.partition("*")
        expected = expected or (name[: len(beginning)] == beginning and (bool(star) or len(name) == len(beginning)))
    assert permits(patterns, name) == expected
    assert permits(None, name)


@given(st.lists(NAMES, max_size=3), st.lists(PATTERNS, max_size=3), st.lists(PATTERNS, max_size=3), NAMES)
def test_what_a_token_names_is_what_it_permits(both: list[str], listen: list[str], reach: list[str], name: str) -> None:
    found = said({"tidegate": {"endpoints": both, "listen": listen, "reach": reach}})
    assert permits(found.listen, name) == permits([*both, *listen], name)
    assert permits(found.reach, name) == permits([*both, *reach], name)


@given(st.text())
def test_what_is_written_by_hand_is_checked_as_a_token_is(text: str) -> None:
    try:
        name_pattern(text)
    except ValueError:
        refused({"tidegate": {"endpoints": [text]}})
    else:
        assert said({"tidegate": {"endpoints": [text]}}).listen == (text,)


def test_case_32_members_that_stand_twice_are_refused_at_any_depth() -> None:
    refused('{"exp": 1, "exp": 2}')
    refused('{"tidegate": {"endpoints": ["a"], "endpoints": ["b"]}}')
    refused('{"x": [{"y": 1, "\\u0079": 2}]}')
    with pytest.raises(InvalidTokenError):
        read(token({}, header='{"alg": "HS256", "alg": "none"}'))


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "HS256", "crit": ["b64"]},
        {"alg": "HS256", "crit": []},
        {"alg": "HS256", "crit": None},
        {"alg": "HS256", "kid": 1},
        {"alg": "HS256", "kid": None},
        {"alg": ["HS256"]},
        {"alg": None},
        {},
        ["alg"],
        "HS256",
        '{"alg": "HS256"} x',
        '\ufeff{"alg": "HS256"}',
        b'{"alg": "HS256", "x": "\xff"}',
        json.dumps({"alg": "HS256"}).encode("utf-16"),
        '{"alg": "HS256", "x": ' + "[" * 3000 + "]" * 3000 + "}",
    ],
)
def test_case_32_a_header_of_another_form_is_refused(header: Any) -> None:
    with pytest.raises(InvalidTokenError):
        read(token({}, header=header))


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "." * (1 << 20),
        "a.b",
        "a.b.c.d.e",
        f"{part({'alg': 'HS256'})}.{part({})}",
        f"{part({'alg': 'dir', 'enc': 'A256GCM'})}..{part('iv')}.{part('text')}.{part('tag')}",
        f"{part({'alg': 'HS256'})}.{part({})}.sig=",
        f"{part({'alg': 'HS256'})}.{part({})}.a+/b",
        f"{part({'alg': 'HS256'})}.{part({})}.abcde",
        f"{part({'alg': 'HS256'})}.{part({})}.ab",
        f"{part({'alg': 'HS256'})}.{part({})}.äöü",
        f" {part({'alg': 'HS256'})}.{part({})}.",
        f"{part({'alg': 'HS256'})}.{part({})}.\n",
        f"{part({'alg': 'HS256'})}.{part({'x': 'y' * 16384})}.",
    ],
    ids=range(16),
)
def test_case_32_what_is_no_token_is_refused_by_its_form(text: str) -> None:
    with pytest.raises(InvalidTokenError):
        read(text)


@given(
    st.one_of(st.text(), st.lists(st.binary(), min_size=3, max_size=3).map(lambda parts: ".".join(map(part, parts))))
)
def test_anything_is_a_token_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidTokenError):
        claims_of(read(text))


def test_nothing_of_a_token_stands_in_a_reason() -> None:
    for claims in ({"iss": ["s3cr3t"]}, {"tidegate": {"s3cr3t": 1}}, {"tidegate": {"endpoints": ["s3cr3t/"]}}):
        assert "s3cr3t" not in refused(claims)
