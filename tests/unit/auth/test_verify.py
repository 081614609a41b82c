"""Whether a token is good, and for what."""

import json
import threading
from concurrent.futures import Future
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.auth.making import NOW, SECRET, fixed, key, part, signed, token, verifier, verifiers
from tidegate.auth import keys
from tidegate.auth.jwks import KeysUnavailableError
from tidegate.auth.keys import Key
from tidegate.auth.verdict import EXPIRED, INVALID, UNKNOWN_TENANT, Granted, Refused, Unavailable, Verdict
from tidegate.auth.verify import FixedKeys, Verifier

GOOD = {"exp": NOW + 60, "tidegate": {"endpoints": ["web"]}}


def code(verdict: Verdict) -> str:
    assert isinstance(verdict, Refused), verdict
    return verdict.code


def granted(verdict: Verdict) -> Granted:
    assert isinstance(verdict, Granted), verdict
    return verdict


@pytest.mark.parametrize("algorithm", keys.ALGORITHMS)
def test_a_token_of_every_algorithm_is_good(algorithm: str) -> None:
    asked = verifiers(Verifier("main", fixed(algorithm)))
    assert granted(asked.verify(signed(algorithm, GOOD))).key.startswith("main/")
    assert code(asked.verify(signed(algorithm, GOOD, which=1))) == INVALID


@pytest.mark.parametrize("algorithm", keys.ALGORITHMS)
def test_a_token_of_pyjwt_is_good(algorithm: str) -> None:
    private = key(algorithm).private.strip()
    made = jwt.encode({"exp": int(NOW) + 60, "aud": ["gate"], "tidegate": {"endpoints": ["web"]}}, private, algorithm)
    asked = verifiers(Verifier("main", fixed(algorithm), audience=["gate", "other"]))
    assert granted(asked.verify(made)).listen == ("web",)


def test_the_engine_gets_what_was_granted() -> None:
    asked = verifiers(verifier(tenant="acme", unlimited=True, limits={"sessions": 3}, leeway=5))
    verdict = granted(asked.verify(token({"exp": NOW + 60.9})))
    assert verdict.key.startswith("main/")
    told = {"tenant": "acme", "listen": None, "reach": None, "expires": NOW + 65, "limits": {"sessions": 3}}
    assert verdict.as_verdict() == {"granted": {**told, "key": verdict.key}}


def test_the_engine_gets_why_it_was_refused() -> None:
    assert verifiers().verify(token({"exp": 1})).as_verdict() == {"refused": EXPIRED, "keep": 3600.0}
    assert Unavailable("away").as_verdict() == {"unavailable": "away"}


def test_a_token_that_names_nothing_is_good_for_all_only_where_that_is_said() -> None:
    assert granted(verifiers().verify(token({"exp": NOW + 1}))).listen == ()
    assert granted(verifiers(verifier(unlimited=True)).verify(token({"exp": NOW + 1}))).listen is None
    narrow = granted(verifiers(verifier(unlimited=True)).verify(token({**GOOD, "tidegate": {"reach": ["a"]}})))
    assert (narrow.listen, narrow.reach) == ((), ("a",))
    assert not narrow.may_listen("a")
    assert narrow.may_reach("a")


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", "", "hs256", "HS256 ", "HS1", "RS256", "PS256"])
def test_case_32_no_algorithm_counts_but_those_of_the_verifier(alg: str) -> None:
    head, body, signature = token(GOOD, header={"alg": alg}).split(".")
    for end in (signature, ""):
        assert code(verifiers().verify(f"{head}.{body}.{end}")) == INVALID


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_case_32_a_public_key_is_never_a_secret(algorithm: str) -> None:
    public = key(algorithm).public or b""
    asked = verifiers(Verifier("main", fixed(algorithm)))
    for secret in (public, public.strip()):
        assert code(asked.verify(token(GOOD, secret=secret))) == INVALID
        with pytest.raises(ValueError, match="public_key"):
            keys.secret_key(secret)


@pytest.mark.parametrize("algorithm", keys.ALGORITHMS)
def test_case_32_a_key_takes_no_algorithm_of_another_kind(algorithm: str) -> None:
    for other in keys.ALGORITHMS:
        kind = {"HS": "HS", "RS": "RS"}.get(other[:2], other)
        if algorithm.startswith(kind):
            continue
        asked = verifiers(Verifier("main", fixed(algorithm), algorithms=keys.ALGORITHMS))
        assert code(asked.verify(signed(other, GOOD))) == INVALID
        forged = f"{part({'alg': algorithm})}.{part(GOOD)}.{signed(other, GOOD).rpartition('.')[2]}"
        assert code(asked.verify(forged)) == INVALID


@pytest.mark.parametrize(("algorithm", "size"), [("ES256", 32), ("ES384", 48), ("ES512", 66)])
def test_case_32_a_signature_of_zeros_is_none(algorithm: str, size: int) -> None:
    asked = verifiers(Verifier("main", fixed(algorithm)))
    body = f"{part({'alg': algorithm})}.{part(GOOD)}"
    one = (1).to_bytes(size, "big")
    for signature in (bytes(2 * size), bytes(size) + one, one + bytes(size), b"", bytes(1), bytes(2 * size + 2)):
        assert code(asked.verify(f"{body}.{part(signature)}")) == INVALID


def test_case_32_keys_that_a_token_brings_or_names_are_not_used() -> None:
    strange = keys.secret_key(b"a key of the attacker that is long enough").material
    for member in (
        {"jwk": {"kty": "oct", "k": part(strange)}},
        {"jku": "https://attacker.example/jwks.json"},
        {"x5u": "https://attacker.example/cert.pem"},
        {"x5c": ["MIIB"]},
    ):
        header = {"alg": "HS256", **member}
        assert code(verifiers().verify(token(GOOD, header=header, secret=strange))) == INVALID
        assert granted(verifiers().verify(token(GOOD, header=header))).listen == ("web",)


def test_case_33_a_token_without_expiry_is_good_only_where_that_is_said() -> None:
    claims = {"tidegate": {"endpoints": ["web"]}}
    assert code(verifiers().verify(token(claims))) == INVALID
    assert granted(verifiers(verifier(require_expiry=False)).verify(token(claims))).expires is None


def test_case_33_times_count_to_the_second_with_the_leeway() -> None:
    assert code(verifiers().verify(token({"exp": NOW + 0.9}))) == EXPIRED
    assert granted(verifiers().verify(token({"exp": NOW + 1}))).expires == NOW + 1
    assert granted(verifiers(verifier(leeway=10)).verify(token({"exp": NOW - 9}))).expires == NOW + 1
    assert code(verifiers(verifier(leeway=10)).verify(token({"exp": NOW - 10}))) == EXPIRED
    assert code(verifiers().verify(token({"exp": NOW + 60, "nbf": NOW + 1}))) == INVALID
    assert granted(verifiers().verify(token({"exp": NOW + 60, "nbf": NOW + 0.9})))
    assert granted(verifiers(verifier(leeway=10)).verify(token({"exp": NOW + 60, "nbf": NOW + 10})))
    assert granted(verifiers().verify(token({"exp": NOW + 60, "iat": NOW + 1000})))


def test_what_may_become_good_is_not_refused_for_long() -> None:
    early = verifiers().verify(token({"exp": NOW + 60, "nbf": NOW + 2}))
    assert isinstance(early, Refused)
    assert early.keep == 2
    strange = verifiers().verify(signed("HS256", GOOD))
    assert isinstance(strange, Refused)
    assert strange.keep == 10


def test_issuer_and_audience_have_to_be_the_ones_that_are_expected() -> None:
    asked = verifiers(verifier(issuer="https://id", audience=["gate", "door"]))
    good = {**GOOD, "iss": "https://id"}
    assert granted(asked.verify(token({**good, "aud": "door"})))
    assert granted(asked.verify(token({**good, "aud": ["x", "gate"]})))
    others: list[dict[str, Any]] = [
        {"aud": "x"},
        {"aud": []},
        {"aud": ["Gate"]},
        {},
        {"aud": "gate", "iss": "https://id/"},
    ]
    for wrong in others:
        assert code(asked.verify(token({**good, **wrong}))) == INVALID
    assert granted(verifiers().verify(token({**good, "aud": "whoever"})))


@pytest.mark.parametrize(
    ("asked", "of_verifier", "claimed", "found"),
    [
        ("", "", None, ""),
        ("", "", "acme", "acme"),
        ("", "acme", None, "acme"),
        ("acme", "acme", "acme", "acme"),
        ("acme", "", "acme", "acme"),
        ("acme", "", None, None),
        ("acme", "other", None, None),
        ("acme", "", "Acme", None),
        ("", "acme", "other", None),
        ("", "", "unheard-of", None),
    ],
)
def test_everybody_has_to_mean_the_same_tenant(
    asked: str, of_verifier: str, claimed: str | None, found: str | None
) -> None:
    claims = {**GOOD, "tidegate": {"endpoints": ["web"], **({"tenant": claimed} if claimed else {})}}
    one = verifiers(verifier(tenant=of_verifier), tenants=["acme", "other", "Acme"])
    verdict = one.verify(token(claims), asked)
    if found is None:
        assert code(verdict) == UNKNOWN_TENANT
    else:
        assert granted(verdict).tenant == found


def test_any_verifier_may_accept() -> None:
    asked = verifiers(Verifier("one", fixed("ES256")), verifier("two"), Verifier("three", fixed("EdDSA", "three")))
    assert granted(asked.verify(token(GOOD))).key.startswith("two/")
    assert granted(asked.verify(signed("EdDSA", GOOD))).key.startswith("three/")
    assert len(asked.key_ids()) == 3


def test_of_several_reasons_the_one_that_says_most_is_told() -> None:
    asked = verifiers(Verifier("one", fixed("HS256", which=1)), verifier("two"), verifier("three", tenant="acme"))
    assert code(asked.verify(token({"exp": NOW - 1}))) == EXPIRED
    assert code(asked.verify(token(GOOD), "other")) == UNKNOWN_TENANT
    assert code(asked.verify(signed("HS256", GOOD))) == INVALID
    away = verifiers(verifier(), Verifier("far", Slow()))
    assert isinstance(away.verify(signed("HS256", {"exp": NOW - 1})), Unavailable)
    assert granted(away.verify(token(GOOD)))


class Slow(FixedKeys):
    """Keys that somebody has to wait for."""

    def __init__(self, *found: Key) -> None:
        super().__init__(*found)
        self.future: Future[None] = Future()
        self.asked = 0

    def find(self, kid: str | None, *, wait: bool) -> Any:
        self.asked += 1
        if wait:
            if not self._keys:
                self.future = Future()
                self.future.set_result(None)
            return self.future
        if not self._keys:
            raise KeysUnavailableError("away")
        return self._keys


def test_who_does_not_wait_is_answered_when_all_keys_have_come() -> None:
    one, two = Slow(*fixed()._keys), Slow(keys.secret_key(SECRET))
    told: list[Verdict] = []
    verifiers(Verifier("one", one), Verifier("two", two)).answer(token(GOOD), "", told.append)
    one.future.set_result(None)
    assert told == []
    two.future.set_result(None)
    assert [granted(each).key.partition("/")[0] for each in told] == ["two"]


def test_who_waits_is_answered_when_the_keys_have_come() -> None:
    slow = Slow(keys.secret_key(SECRET))
    told: list[Verdict] = []
    waiting = threading.Thread(target=lambda: told.append(verifiers(Verifier("main", slow)).verify(token(GOOD))))
    waiting.start()
    slow.future.set_result(None)
    waiting.join(10)
    assert granted(told[0])


class Broken(Slow):
    """Keys that come, and then cannot be looked at."""

    def find(self, kid: str | None, *, wait: bool) -> Any:
        if not wait:
            raise RuntimeError("a mistake of ours")
        return self.future


def test_a_mistake_of_ours_after_a_fetch_is_answered_too() -> None:
    broken = Broken(keys.secret_key(SECRET))
    told: list[Verdict] = []
    verifiers(Verifier("main", broken)).answer(token(GOOD), "", told.append)
    broken.future.set_result(None)
    [verdict] = told
    assert isinstance(verdict, Unavailable)


def test_nobody_waits_for_keys_where_another_verifier_accepts() -> None:
    slow = Slow(*fixed()._keys)
    told: list[Verdict] = []
    verifiers(Verifier("slow", slow), verifier()).answer(token(GOOD), "", told.append)
    assert granted(told[0])


def test_no_key_is_looked_for_where_the_claims_are_not_for_this_verifier() -> None:
    slow = Slow()
    asked = verifiers(Verifier("far", slow, issuer="https://id", audience=["gate"], algorithms=["RS256", "HS256"]))
    for claims in (GOOD, {**GOOD, "iss": "https://id"}, {**GOOD, "aud": "gate"}):
        assert code(asked.verify(token(claims))) == INVALID
    assert code(asked.verify(signed("ES256", {**GOOD, "iss": "https://id", "aud": "gate"}))) == INVALID
    assert slow.asked == 0


def test_nobody_verifies_nothing() -> None:
    empty = verifiers().__class__(())
    assert code(empty.verify(token(GOOD))) == INVALID


@given(st.text(max_size=40), st.text(max_size=8))
def test_anything_gets_a_verdict(text: str, tenant: str) -> None:
    assert code(verifiers().verify(text, tenant)) == INVALID


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(), each, max_size=3),
    max_leaves=8,
)
CLAIMS = st.dictionaries(st.sampled_from(["exp", "nbf", "iat", "iss", "aud", "tidegate", "piko", "x"]), JSON)


@given(CLAIMS, JSON)
def test_whatever_is_signed_gets_a_verdict(claims: dict[str, Any], inner: Any) -> None:
    for each in (claims, {**claims, "tidegate": {"endpoints": inner}}, {**claims, "piko": {"endpoints": inner}}):
        verdict = verifiers().verify(token(each))
        if isinstance(verdict, Granted):
            assert verdict.expires is not None
            assert verdict.listen is not None
        json.dumps(verdict.as_verdict(), allow_nan=False)
