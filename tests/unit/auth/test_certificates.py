"""Client certificates as credentials."""

import pytest

from tests.unit.auth.making import NOW, certificate
from tidegate.auth.certificates import Names
from tidegate.auth.verdict import EXPIRED, INVALID, UNKNOWN_TENANT, Granted, Refused, Verdict


def granted(verdict: Verdict) -> Granted:
    assert isinstance(verdict, Granted), verdict
    return verdict


def code(verdict: Verdict) -> str:
    assert isinstance(verdict, Refused), verdict
    return verdict.code


def test_dns_names_stand_for_endpoints_until_the_certificate_ends() -> None:
    found = granted(Names("c/1", "dns").verify(certificate(("cn",), dns=("web", "a.b", "web", "*.c", "x y")), NOW))
    assert found.listen == found.reach == ("web", "a.b")
    assert found.expires == NOW + 86400
    assert found.key.startswith("c/1/")


def test_the_common_name_stands_for_one_endpoint() -> None:
    assert granted(Names("c/1", "cn").verify(certificate(("web",), dns=("other",)), NOW)).listen == ("web",)
    assert granted(Names("c/1", "cn").verify(certificate(()), NOW)).listen == ()
    assert code(Names("c/1", "cn").verify(certificate(("a", "b")), NOW)) == INVALID


@pytest.mark.parametrize("name", ["*", "web*", "*.example.com", "a b", "ä"])
def test_no_name_of_a_certificate_is_a_pattern(name: str) -> None:
    found = granted(Names("c/1", "cn").verify(certificate((name,)), NOW))
    assert found.listen == ()
    assert not found.may_listen("web")


@pytest.mark.parametrize("field", ["o", "ou"])
def test_the_organisation_or_its_unit_is_the_tenant(field: str) -> None:
    names = Names("c/1", "cn", field, tenants=["acme", "other"])
    der = certificate(**{field: ("acme",)})  # type: ignore[arg-type]
    assert granted(names.verify(der, NOW)).tenant == "acme"
    assert granted(names.verify(der, NOW, "acme")).tenant == "acme"
    assert code(names.verify(der, NOW, "other")) == UNKNOWN_TENANT
    for wrong in ((), ("acme", "other"), ("Acme",), ("a b",)):
        assert code(names.verify(certificate(**{field: wrong}), NOW)) == UNKNOWN_TENANT  # type: ignore[arg-type]


def test_a_certificate_without_a_tenant_is_of_none() -> None:
    assert granted(Names("c/1", "cn").verify(certificate(o=("acme",)), NOW)).tenant == ""
    assert code(Names("c/1", "cn").verify(certificate(o=("acme",)), NOW, "acme")) == UNKNOWN_TENANT


def test_a_certificate_counts_from_its_first_second_to_its_last() -> None:
    names = Names("c/1", "cn")
    assert code(names.verify(certificate(days=(-2, 0)), NOW)) == EXPIRED
    assert granted(names.verify(certificate(days=(0, 1)), NOW))
    assert code(names.verify(certificate(days=(1, 2)), NOW)) == INVALID


def test_another_certificate_is_another_key() -> None:
    names = Names("c/1", "cn")
    assert granted(names.verify(certificate(), NOW)).key != granted(names.verify(certificate(), NOW)).key


@pytest.mark.parametrize("der", [b"", b"x", certificate()[:-1], certificate() + b"x"])
def test_what_is_no_certificate_is_refused(der: bytes) -> None:
    assert code(Names("c/1", "cn").verify(der, NOW)) == INVALID
