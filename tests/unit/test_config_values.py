"""The small languages inside values."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.config.values import bind_parts, connect_url, duration, endpoint_name, service, size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("1m30s", 90), ("100ms", 0.1), ("2h", 7200), ("0.5", 0.5), (15, 15), (0, 0), ("1.5h", 5400)],
)
def test_a_duration_is_seconds_or_has_units(text: object, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@given(st.integers(0, 100), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_the_parts_of_a_duration_add_up(hours: int, minutes: int, seconds: int, milliseconds: int) -> None:
    written = f"{hours}h{minutes}m{seconds}s{milliseconds}ms"
    assert duration(written) == pytest.approx(hours * 3600 + minutes * 60 + seconds + milliseconds / 1000)


@given(st.one_of(st.text(), st.floats(), st.booleans(), st.none()))
def test_any_duration_is_a_finite_number_or_a_mistake(value: object) -> None:
    try:
        seconds = duration(value)
    except ValueError:
        return
    assert 0 <= seconds < float("inf")


@pytest.mark.parametrize(("text", "count"), [("64KiB", 65536), (10, 10), ("1 MB", 1_000_000), ("2gib", 2 * 1024**3)])
def test_a_size_is_bytes_or_has_a_unit(text: object, count: int) -> None:
    assert size(text) == count


@pytest.mark.parametrize("text", ["", "-1", "1.5KiB", "KiB", "1 parsec", True])
def test_what_is_no_size_is_a_mistake(text: object) -> None:
    with pytest.raises(ValueError, match="is no size"):
        size(text)


@given(st.text(max_size=140))
def test_endpoint_names_are_exactly_the_permitted_characters(text: str) -> None:
    permitted = re.fullmatch(r"[A-Za-z0-9._-]{1,128}", text) is not None and not text.endswith("\n")
    try:
        assert endpoint_name(text) == text
        accepted = True
    except ValueError:
        accepted = False
    assert accepted == permitted


@pytest.mark.parametrize(
    ("text", "parts"),
    [(":80", ("", 80)), ("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:443", ("::1", 443)), ("a.b:1", ("a.b", 1))],
)
def test_an_address_to_bind_is_host_and_port(text: str, parts: tuple[str, int]) -> None:
    assert bind_parts(text) == parts


@pytest.mark.parametrize("text", ["80", "::1:80", "a b:80", "host:", "host:65536", "host:-1", "http://x:80", "[x]:1"])
def test_what_is_no_address_to_bind_is_a_mistake(text: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        bind_parts(text)


@pytest.mark.parametrize(
    ("text", "kind", "meant"),
    [
        ("3000", "http", "http://localhost:3000"),
        (3000, "tcp", "tcp://localhost:3000"),
        ("10.0.0.1:80", "http", "http://10.0.0.1:80"),
        ("https://app.local", "http", "https://app.local:443"),
        ("https://localhost:8443/", "http", "https://localhost:8443"),
        ("http://[::1]:3000", "http", "http://[::1]:3000"),
        ("tcp://localhost:5432", "http", "tcp://localhost:5432"),
    ],
)
def test_a_local_service_is_written_as_people_do(text: object, kind: str, meant: str) -> None:
    assert str(service(text, kind)) == meant


@pytest.mark.parametrize("text", ["web", "ftp://x:1", "http://x:1/path", "http://u@x:1", "x:0", "x:99999", ""])
def test_what_is_no_local_service_is_a_mistake(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        service(text)


def test_an_http_service_is_no_tcp_service() -> None:
    with pytest.raises(ValueError, match="tcp://"):
        service("http://localhost:3000", "tcp")


@pytest.mark.parametrize("url", ["http://localhost:8001", "https://gate.example.com/prefix", "ws://[::1]:1", "wss://x"])
def test_a_gateway_is_named_by_a_url(url: str) -> None:
    assert connect_url(url) == url


@pytest.mark.parametrize(
    "url", ["gate:8001", "ftp://x", "http://", "http://x:y", "http://x?a=b", "http://x/\n", "http://x y"]
)
def test_what_is_no_gateway_is_a_mistake(url: str) -> None:
    with pytest.raises(ValueError, match="is no URL"):
        connect_url(url)


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="cannot hold") as refused:
        connect_url("http://user:hunter2@gate:8001")
    assert "hunter2" not in str(refused.value)
