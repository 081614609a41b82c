"""Whose word about a visitor counts: that of `trusted_proxies`, and of nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import access
from tests.support.raw import Raw
from tests.support.service import Service, echo
from tests.support.tidegate import Gateway

FORGED = (
    "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.test\r\n"
    "Forwarded: for=6.6.6.6\r\nX-Forwarded-Port: 1\r\nX-Real-IP: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\n"
)


def config(service: Service, trusted: list[str]) -> dict[str, Any]:
    """One route to a service."""
    return {
        "trusted_proxies": trusted,
        "routes": [
            {"host": "a.test", "to": {"addresses": [service.address]}},
            {"host": "move.test", "redirect": "{scheme}://{host}{path}"},
        ],
    }


@pytest.fixture(scope="module")
def trusting() -> Iterator[Gateway]:
    """A gateway that trusts this machine and a network."""
    with Service(echo) as service, Gateway(config(service, ["127.0.0.0/8", "10.0.0.0/8"])) as gateway:
        yield gateway


def came(gateway: Gateway, fields: str, target: str = "/") -> dict[str, list[str]]:
    """What reached the service of the fields that speak of the visitor."""
    with Raw(gateway.proxy) as raw:
        raw.send(f"GET {target} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n".encode())
        answer = raw.answer()
    found: dict[str, list[str]] = {}
    for name, value in answer.json()["fields"]:
        if name.lower().replace("_", "-").startswith(("x-forwarded", "forwarded", "x-real")):
            found.setdefault(name.lower(), []).append(value)
    return found


def test_case_37_a_stranger_speaks_for_nobody() -> None:
    with Service(echo) as service, Gateway(config(service, ["10.0.0.0/8"])) as gateway:
        assert came(gateway, FORGED, "/forged") == {
            "x-forwarded-for": ["127.0.0.1"],
            "x-forwarded-host": ["a.test"],
            "x-forwarded-proto": ["http"],
            "forwarded": ["for=127.0.0.1;host=a.test;proto=http"],
        }
        assert access.line(gateway, path="/forged")["client"].startswith("127.0.0.1:")


def test_a_trusted_proxy_is_believed_and_named_behind_the_visitor(trusting: Gateway) -> None:
    fields = (
        "X-Forwarded-For: 6.6.6.6, 203.0.113.7, 10.0.0.2\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: www.test\r\n"
    )

    assert came(trusting, fields, "/believed") == {
        "x-forwarded-for": ["203.0.113.7, 10.0.0.2, 127.0.0.1"],
        "x-forwarded-host": ["www.test"],
        "x-forwarded-proto": ["https"],
        "forwarded": ["for=203.0.113.7;host=www.test;proto=https, for=10.0.0.2, for=127.0.0.1"],
    }
    assert access.line(trusting, path="/believed")["client"] == "203.0.113.7"


def test_forwarded_of_rfc_7239_is_believed_where_there_is_no_list(trusting: Gateway) -> None:
    fields = 'Forwarded: for=6.6.6.6, for="[2001:db8::7]:4711";host="www.test:8443";proto=https\r\n'

    assert came(trusting, fields) == {
        "x-forwarded-for": ["2001:db8::7, 127.0.0.1"],
        "x-forwarded-host": ["www.test:8443"],
        "x-forwarded-proto": ["https"],
        "forwarded": ['for="[2001:db8::7]";host="www.test:8443";proto=https, for=127.0.0.1'],
    }


@pytest.mark.parametrize(
    ("fields", "visitor"),
    [
        ("", "127.0.0.1"),
        ("X-Forwarded-For: unknown\r\n", "127.0.0.1"),
        ("X-Forwarded-For: 1.2.3.4, \x01\r\n", None),
        ("X-Forwarded-For: 10.0.0.9\r\n", "10.0.0.9"),
        ("X-Forwarded-For: 203.0.113.7\r\nForwarded: for=6.6.6.6\r\n", "203.0.113.7"),
        ("X-Forwarded-For: 203.0.113.7\r\nConnection: X-Forwarded-For\r\n", "203.0.113.7"),
        ("X-Real-IP: 6.6.6.6\r\n", "127.0.0.1"),
    ],
)
def test_only_addresses_count(trusting: Gateway, fields: str, visitor: str | None) -> None:
    with Raw(trusting.proxy) as raw:
        raw.send(f"GET / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n".encode())
        answer = raw.answer()
    if visitor is None:
        assert answer.status == 400
        return
    said = [value for name, value in answer.json()["fields"] if name == "X-Forwarded-For"]
    assert [value.split(", ")[0] for value in said] == [visitor]


def test_a_redirect_knows_what_the_visitor_speaks_and_which_host_it_asked(trusting: Gateway) -> None:
    fields = "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: www.test:8443\r\n"
    with Raw(trusting.proxy) as raw:
        raw.send(f"GET /x HTTP/1.1\r\nHost: move.test\r\n{fields}\r\n".encode())
        assert raw.answer().field("location") == "https://www.test/x"
