"""Addresses to bind: what they stand for, and which of them exclude each other."""

import pytest

from tidegate.config import binds
from tidegate.config.binds import resolve_bind
from tidegate.config.load import parse, validate
from tidegate.config.model import Forward, Gateway
from tidegate.config.snapshot import forward_snapshot, gateway_snapshot
from tidegate.errors import ConfigError


def gateway(listeners: str) -> None:
    gateway_snapshot(validate(Gateway, parse(f"listeners: {listeners}", "f")))


def test_all_interfaces_are_one_dual_stack_address_where_there_is_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binds, "_has_ipv6", lambda _: True)
    assert resolve_bind(":80") == ["[::]:80"]
    assert resolve_bind("localhost:80") == ["127.0.0.1:80", "[::1]:80"]
    assert resolve_bind("localhost:0") == ["127.0.0.1:0"]
    monkeypatch.setattr(binds, "_has_ipv6", lambda _: False)
    assert resolve_bind(":80") == ["0.0.0.0:80"]
    assert resolve_bind("localhost:80") == ["127.0.0.1:80"]


def test_two_entries_with_one_address_are_both_named() -> None:
    text = "forwards: [{bind: '127.0.0.1:1', endpoint: a}, {bind: '127.0.0.1:1', endpoint: b}]"
    config = validate(Forward, parse(text, "f"))
    with pytest.raises(ConfigError) as refused:
        forward_snapshot(config)
    assert str(refused.value) == "forwards[1].bind: forwards[0].bind binds 127.0.0.1:1 already"
    with pytest.raises(ConfigError, match=r"^listeners\.b\.bind: listeners\.a\.bind binds 127\.0\.0\.1:1 already$"):
        gateway("{a: {bind: 'localhost:1'}, b: {bind: '127.0.0.1:1'}}")
    with pytest.raises(ConfigError, match=r"^listeners\.a\.bind: admin\.bind binds 127\.0\.0\.1:8003 already$"):
        gateway("{a: {bind: '127.0.0.1:8003'}}")
    gateway("{a: {bind: 'localhost:0'}, b: {bind: '127.0.0.1:0'}}")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("[::]:8100", "127.0.0.1:8100"),
        ("[::]:8100", "[::1]:8100"),
        ("[::]:8100", "0.0.0.0:8100"),
        ("0.0.0.0:8100", "127.0.0.1:8100"),
    ],
)
def test_every_address_of_a_port_leaves_none_for_another_listener(first: str, second: str) -> None:
    listeners = "{a: {bind: '%s'}, b: {bind: '%s'}}"
    with pytest.raises(ConfigError) as refused:
        gateway(listeners % (first, second))
    (told,) = refused.value.mistakes
    assert told == (
        f"listeners.b.bind: listeners.a.bind binds {first}, which is every address, {second} too (take another port)"
    )
    with pytest.raises(ConfigError, match=r"^listeners\.b\.bind: .* every address"):
        gateway(listeners % (second, first))


def test_addresses_of_different_families_are_bound_beside_each_other() -> None:
    gateway("{a: {bind: '0.0.0.0:8100'}, b: {bind: '[::1]:8100'}, c: {bind: '[::]:8101'}}")


def test_a_listener_on_every_address_meets_the_admin_listener_too() -> None:
    with pytest.raises(
        ConfigError, match=r"^listeners\.a\.bind: 0\.0\.0\.0:8003 is every address, and admin\.bind binds"
    ):
        gateway("{a: {bind: '0.0.0.0:8003'}}")
