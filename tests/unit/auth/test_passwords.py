"""Users and their passwords."""

import argon2
import bcrypt
import pytest

from tidegate.auth import passwords
from tidegate.auth.verdict import Granted, Refused

FAST = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


def bcrypt_of(password: str, prefix: bytes = b"2b") -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4, b"2b")).decode().replace("$2b$", f"${prefix.decode()}$")


TEXT = f"""
# people
ann:{FAST.hash("correct horse")}
bob:{bcrypt_of("battery staple", b"2y")}
  eve:{bcrypt_of("päss:wörd")}
"""


def test_a_right_password_is_good_for_the_route_and_offers_nothing() -> None:
    users = passwords.parse(TEXT, "users/1", "users")
    for user, password in {"ann": "correct horse", "bob": "battery staple", "eve": "päss:wörd"}.items():
        verdict = users.verify(user, password)
        assert isinstance(verdict, Granted)
        assert (verdict.tenant, verdict.listen, verdict.reach, verdict.expires) == ("", (), None, None)
        assert verdict.key in users.key_ids()


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("ann", "Correct horse"), ("ann", ""), ("Ann", "correct horse"), ("bob", "correct horse"), ("", ""),
        ("nobody", "correct horse"), ("ann", "x" * 2000), ("bob", "battery staple\0"), ("bob", "\ud800"),
    ],
)  # fmt: skip
def test_any_other_is_refused_in_the_same_words(user: str, password: str) -> None:
    verdict = passwords.parse(TEXT, "users/1", "users").verify(user, password)
    assert isinstance(verdict, Refused)
    assert (verdict.code, verdict.reason) == ("invalid_token", "the user or the password is wrong")


def test_an_unknown_users_password_is_checked_against_a_hash_as_dear_as_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    users = passwords.parse(TEXT, "users/1", "users")
    checked: list[str] = []

    def matches(known: str, password: str) -> bool:
        checked.append(known)
        return True

    monkeypatch.setattr(passwords, "_matches", matches)
    assert isinstance(users.verify("nobody", "x"), Refused)
    assert checked == [users.hashes["bob"]]  # two of the three are of this kind


def test_who_gets_another_password_gets_another_key() -> None:
    one = passwords.parse(TEXT, "users/1", "users").key_ids()
    other = passwords.parse(TEXT.replace("bob", "rob"), "users/1", "users").key_ids()
    assert len(one) == len(other) == 3
    assert len(one & other) == 2


def test_long_passwords_count_as_htpasswd_counts_them() -> None:
    users = passwords.parse(f"ann:{bcrypt_of('x' * 72)}", "users/1", "users")
    assert isinstance(users.verify("ann", "x" * 100), Granted)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("zoe:$apr1$x$yyyyyyyyyy", "a hash of MD5 is guessed too fast"),
        ("zoe:{SHA}hunter2=", "a hash of SHA-1 is guessed too fast"),
        ("zoe:$6$salt$hunter2", "a hash of SHA-512 is guessed too fast"),
        ("zoe:$argon2i$v=19$m=8,t=1,p=1$aaaa$hunter2", "a hash of argon2i is guessed too fast"),
        ("zoe:hunter2", "this is no hash of bcrypt or argon2id"),
        ("zoe:rl.3StKT.4T8M", "this is no hash of bcrypt or argon2id"),
        ("zoe:$2y$05$hunter2", "this is no hash of bcrypt or argon2id"),
        ("zoe:", "this is no hash"),
        ("zoe", "expected USER:HASH"),
        (":hunter2", "expected USER:HASH"),
        ("bob:hunter2", "this user stands twice"),
    ],
)
def test_what_is_guessed_too_fast_or_no_hash_is_told_with_its_line_only(line: str, message: str) -> None:
    with pytest.raises(ValueError, match="users:6: ") as error:
        passwords.parse(f"{TEXT}{line}\n", "users/1", "users")
    assert message in str(error.value)
    assert "hunter2" not in str(error.value)


BCRYPT_REST = "N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy"


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ("$argon2id$v=19$m=1048577,t=1,p=1$aaaa$bbbb", "m=1048577 is too much: 1048576 (1 GiB) at most"),
        (
            "$argon2id$v=19$m=99999999999999999999,t=1,p=1$aaaa$bbbb",
            "m=99999999999999999999 is too much: 1048576 (1 GiB) at most",
        ),
        ("$argon2id$v=19$m=65536,t=21,p=1$aaaa$bbbb", "t=21 is too much: 20 at most"),
        ("$argon2id$v=19$m=65536,t=1,p=17$aaaa$bbbb", "p=17 is too much: 16 at most"),
        ("$argon2id$v=19$m=1048576,t=5,p=4$aaaa$bbbb", "m=1048576 t=5 is too much: their product is 4194304 at most"),
        (f"$2b$17${BCRYPT_REST}", "17 rounds are too many: 16 at most"),
        (f"$2y$31${BCRYPT_REST}", "31 rounds are too many: 16 at most"),
        (f"$2y$99${BCRYPT_REST}", "99 rounds are too many: 16 at most"),
    ],
)
def test_a_hash_that_costs_too_much_to_check_is_refused_with_its_line(known: str, said: str) -> None:
    with pytest.raises(ValueError, match="users:6: ") as error:
        passwords.parse(f"{TEXT}zoe:{known}\n", "users/1", "users")
    assert str(error.value) == f"users:6: checking this hash takes too long or too much memory: {said}"


@pytest.mark.parametrize(
    "known",
    [
        "$argon2id$v=19$m=0,t=1,p=1$aaaa$bbbb", "$argon2id$v=19$m=8,t=0,p=1$aaaa$bbbb",
        "$argon2id$v=19$m=8,t=1,p=0$aaaa$bbbb", "$argon2id$v=19$m=15,t=1,p=2$aaaa$bbbb",
        f"$argon2id$v=19$m={'9' * 5000},t=1,p=1$aaaa$bbbb", "$argon2id$v=19$m=٣٣,t=1,p=1$aaaa$bbbb",
        f"$2b$03${BCRYPT_REST}",
    ],
)  # fmt: skip
def test_a_hash_that_no_password_can_have_is_none(known: str) -> None:
    with pytest.raises(ValueError, match="users:1: this is no hash of bcrypt or argon2id"):
        passwords.parse(f"zoe:{known}\n", "users/1", "users")


@pytest.mark.parametrize(
    "known",
    [
        "$argon2id$v=19$m=65536,t=3,p=4$aaaa$bbbb", "$argon2id$v=19$m=19456,t=2,p=1$aaaa$bbbb",
        "$argon2id$v=19$m=1048576,t=4,p=16$aaaa$bbbb", f"$2y$05${BCRYPT_REST}", f"$2b$16${BCRYPT_REST}",
    ],
)  # fmt: skip
def test_what_is_recommended_and_the_most_that_is_taken_are_good(known: str) -> None:
    assert passwords.parse(f"zoe:{known}\n", "users/1", "users").hashes == {"zoe": known}


def test_every_line_that_is_wrong_is_told() -> None:
    with pytest.raises(ValueError, match=r"(?s)users:1: .*users:2: "):
        passwords.parse("a\nb:c\n", "users/1", "users")
    with pytest.raises(ValueError, match="users: names no user"):
        passwords.parse("# nobody\n", "users/1", "users")


def test_no_hash_is_in_a_repr() -> None:
    assert "$2" not in repr(passwords.parse(TEXT, "users/1", "users"))


@pytest.mark.parametrize(
    ("hashes", "kinds"),
    [
        ([bcrypt_of("a"), bcrypt_of("b", b"2y")], 1),
        ([FAST.hash("a"), FAST.hash("b")], 1),
        ([FAST.hash("a"), bcrypt_of("b"), bcrypt_of("c")], 2),
        ([bcrypt_of("a"), bcrypt.hashpw(b"b", bcrypt.gensalt(5)).decode()], 2),
    ],
    ids=range(4),
)
def test_it_is_known_how_many_kinds_and_costs_of_hashes_there_are(hashes: list[str], kinds: int) -> None:
    text = "\n".join(f"user{number}:{each}" for number, each in enumerate(hashes))
    assert passwords.parse(text, "users/1", "users").kinds == kinds
