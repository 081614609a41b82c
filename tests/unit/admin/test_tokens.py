"""Tokens that are shown to the admin listener: who waits for whom, and what is remembered."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import closing
from typing import Any

import pytest

from tests.unit.auth.making import SECRET, token
from tidegate.admin import tokens
from tidegate.admin.tokens import OverloadedError, Tokens
from tidegate.auth.keys import Key, secret_key
from tidegate.auth.verdict import Granted, Refused, Verdict
from tidegate.auth.verify import Verifier, VerifierSet
from tidegate.control.background import Background

HERE, THERE = "192.0.2.1", "198.51.100.1"


class Keys:
    """A key, and a fetch that goes on for all other names until it is settled."""

    def __init__(self) -> None:
        self.changed = lambda _: None
        self.keys: tuple[Key, ...] = (secret_key(SECRET),)
        self.fetched: Future[None] = Future()
        self.asked = 0

    def find(self, kid: str | None, *, wait: bool) -> "tuple[Key, ...] | Future[None]":
        self.asked += 1
        if kid is None:
            return self.keys
        return self.fetched if wait else ()

    def ids(self) -> frozenset[str]:
        return frozenset(key.id for key in self.keys)

    def tend(self) -> None: ...

    def patience(self) -> float:
        return 1.0


class Scene:
    """Tokens that are judged by one set of verifiers."""

    def __init__(self, background: Background) -> None:
        self.keys = Keys()
        self.auth = self.set()
        self.now = 0.0
        self.tokens = Tokens(background, lambda: self.now)

    def set(self) -> VerifierSet:
        """Verifiers, as a new configuration would bring them."""
        return VerifierSet([Verifier("ops", self.keys)])

    async def waiting(self, *clients: str) -> "list[asyncio.Task[Verdict]]":
        """Tokens with made-up keys, one from each address, which wait for a fetch."""
        asked = self.keys.asked + len(clients)
        made = [asyncio.create_task(self.judge(made_up(n), each)) for n, each in enumerate(clients)]
        async with asyncio.timeout(20):
            while self.keys.asked < asked:  # noqa: ASYNC110  a thread counts
                await asyncio.sleep(0.001)
        return made

    def judge(self, shown: str, client: str = HERE) -> Coroutine[Any, Any, Verdict]:
        return self.tokens.judge(self.auth, shown, client)


def run(scene: Callable[[Scene], Awaitable[None]]) -> None:
    async def whole() -> None:
        with closing(Background("admin-token")) as background:
            async with asyncio.timeout(20):
                await scene(Scene(background))

    asyncio.run(whole())


def good(**claims: Any) -> str:
    return token({"exp": int(time.time() + 600), **claims})


def made_up(number: int) -> str:
    return token({"exp": int(time.time() + 600)}, header={"alg": "HS256", "kid": f"made-up-{number}"})


def test_who_waits_for_a_fetch_holds_up_nobody_else() -> None:
    async def scene(scene: Scene) -> None:
        waiting = await scene.waiting(*[HERE] * tokens.MOST_OF_ONE)
        assert isinstance(await scene.judge(good(), THERE), Granted)
        with pytest.raises(OverloadedError):
            await scene.judge(good(jti="another"))
        assert not any(each.done() for each in waiting)
        scene.keys.fetched.set_result(None)
        assert all(isinstance(each, Refused) for each in await asyncio.gather(*waiting))
        assert isinstance(await scene.judge(good()), Granted)

    run(scene)


def test_a_good_token_is_remembered_and_passes_those_who_wait() -> None:
    async def scene(scene: Scene) -> None:
        known = good()
        assert isinstance(await scene.judge(known), Granted)
        waiting = await scene.waiting(*[HERE] * tokens.MOST_OF_ONE)
        assert isinstance(await scene.judge(known), Granted)
        assert scene.keys.asked == len(waiting) + 1
        scene.keys.fetched.set_result(None)
        await asyncio.gather(*waiting)

    run(scene)


def test_what_is_remembered_ends_with_the_key_and_with_the_configuration() -> None:
    async def scene(scene: Scene) -> None:
        known = good()
        await scene.judge(known)
        scene.auth = scene.set()
        await scene.judge(known)
        assert scene.keys.asked == 2
        scene.keys.keys = (secret_key(SECRET[::-1]),)
        assert isinstance(await scene.judge(known), Refused)

    run(scene)


def test_what_is_remembered_ends_with_the_token_and_after_a_minute() -> None:
    async def scene(scene: Scene) -> None:
        short, long = good(exp=int(time.time()) + 30), good()
        for seconds, asked in ((0, 2), (25, 2), (35, 3), (59, 3), (61, 4)):
            scene.now = seconds
            await scene.judge(long)
            if seconds <= 35:
                await scene.judge(short)
            assert scene.keys.asked == asked, seconds

    run(scene)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(scene: Scene) -> None:
        first = good(jti="first")
        for shown in (first, good(jti="1"), good(jti="2"), good(jti="2"), first):
            await scene.judge(shown)
        assert scene.keys.asked == 4

    monkeypatch.setattr(tokens, "MOST_KEPT", 2)
    run(scene)


def test_addresses_of_one_network_of_ipv6_share_their_places() -> None:
    async def scene(scene: Scene) -> None:
        waiting = await scene.waiting(*(f"2001:db8::{n}" for n in range(tokens.MOST_OF_ONE)))
        with pytest.raises(OverloadedError):
            await scene.judge(good(), "2001:db8::ffff:1")
        assert isinstance(await scene.judge(good(), "2001:db8:0:1::1"), Granted)
        scene.keys.fetched.set_result(None)
        await asyncio.gather(*waiting)

    run(scene)
