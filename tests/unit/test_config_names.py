"""The small languages of routes and upstreams."""

from collections.abc import Callable

import pytest

from tidegate.config.names import (
    address,
    field_value,
    host_name,
    host_pattern,
    network,
    normal_path,
    redirect_target,
    request_path,
    server_name,
)  # fmt: skip


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("App.Example.COM", "app.example.com"),
        ("app.example.com.", "app.example.com"),
        ("localhost", "localhost"),
        ("Bücher.example", "xn--bcher-kva.example"),
        ("faß.example", "xn--fa-hia.example"),
        ("_dmarc.a-b.example", "_dmarc.a-b.example"),
        ("10.0.0.7", "10.0.0.7"),
        ("[FD00::0:1]", "[fd00::1]"),
        ("::1", "[::1]"),
    ],
)
def test_a_host_has_one_form(written: str, meant: str) -> None:
    assert host_name(written) == host_pattern(written) == meant


def test_a_wildcard_stands_in_front() -> None:
    assert host_pattern("*.Example.com.") == "*.example.com"
    assert server_name("*.Example.com.") == "*.example.com"


@pytest.mark.parametrize(
    ("check", "written"),
    [
        (host_name, "*.example.com"), (host_name, "-a.example"), (host_name, "a" * 64 + ".example"), (host_name, "."),
        (host_name, "a." * 126 + "example"), (host_name, "1.2.3"), (host_name, "a_\u0000"), (host_name, "[::1"),
        (host_pattern, "*"), (host_pattern, "*example.com"), (host_pattern, "*.*.example.com"), (host_pattern, "*."),
        (server_name, "[::1]"), (server_name, "10.0.0.1"),
        (request_path, "*"), (request_path, "/a#b"), (request_path, "/a\nb"), (request_path, ""),
        (redirect_target, "//evil.example\n"), (redirect_target, "{scheme}"), (redirect_target, "ftp://a"),
        (redirect_target, "https:///x"), (redirect_target, "https://{hots}/"), (redirect_target, "https://a/{"),
        (network, "10.0.0.0/8/8"), (network, "example.com"), (network, ""),
    ],
)  # fmt: skip
def test_anything_else_is_refused(check: Callable[[str], str], written: str) -> None:
    with pytest.raises(ValueError, match=r"^'"):
        check(written)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("10.0.0.7:8080", "http://10.0.0.7:8080"),
        ("http://Shop.Internal", "http://shop.internal:80"),
        ("https://shop.internal/", "https://shop.internal:443"),
        ("h2c://shop:50051", "h2c://shop:50051"),
        ("h2://[fd00::1]", "h2://[fd00::1]:443"),
        ("[::1]:80", "http://[::1]:80"),
    ],
)
def test_an_address_says_what_is_spoken_there(written: str, meant: str) -> None:
    assert str(address(written)) == meant
    assert address(written) == address(meant)


@pytest.mark.parametrize(
    "written",
    [
        "shop",
        "shop:",
        ":80",
        "http://",
        "http://user@shop",
        "shop:80?x",
        "shop:65536",
        "[::1]",
        "tcp://shop:1",
        "::1:80",
    ],
)
def test_what_is_no_address_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r"is no|scheme|holds more|brackets"):
        address(written)


def test_no_field_has_a_second_line() -> None:
    assert field_value(" a\tb ") == "a\tb"
    assert field_value(2) == "2"
    for value in ("a\r\nb", "a\nb", "a\x00", "ä", True, None, ["a"]):
        with pytest.raises(ValueError, match="the value of a header field"):
            field_value(value)


def test_networks_are_written_as_they_are_meant() -> None:
    assert network("10.0.0.0/8") == "10.0.0.0/8"
    assert network("fd00::1") == "fd00::1/128"
    # Whoever comes by IPv4 is known by that, on a socket of IPv6 too.
    assert network("::ffff:10.0.0.0/104") == "10.0.0.0/8"
    assert network("::ffff:127.0.0.1") == "127.0.0.1/32"
    assert network("::ffff:0:0/96") == "0.0.0.0/0"
    assert network("::/0") == "::/0"
    with pytest.raises(ValueError, match=r"did you mean `10\.0\.0\.0/8`\?"):
        network("10.1.2.3/8")


@pytest.mark.parametrize("written", ["https://new.example.com{path}{query}", "{scheme}://a{path}", "/x", "{path}x"])
def test_a_redirect_leads_to_a_url_or_a_path(written: str) -> None:
    assert redirect_target(written) == written


@pytest.mark.parametrize(
    ("written", "compared"),
    [
        ("/%61pi/%7Euser", "/api/~user"),
        ("/a%2fb;%3b", "/a%2Fb;%3B"),
        ("/a\\b%5c", "/a%5Cb%5C"),
        ("/%2e%2E/", "/../"),
        ("/%2561", "/%2561"),
        ("/100%", "/100%25"),
        ("/%zz%%32F", "/%25zz%252F"),
        ("/%C3%bc", "/\xc3\xbc"),
    ],
)
def test_paths_are_compared_in_the_form_of_the_engine(written: str, compared: str) -> None:
    assert normal_path(written) == compared
