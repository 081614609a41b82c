"""
Asks whether a token is good for the admin listener, and remembers good ones for a moment.

Whoever waits for a key to be fetched holds up nobody else; how many wait is bounded, of one address and in all. What is
remembered ends with the token, its key or its verifiers. Where a token stands in a request is `gate`'s.
"""

import asyncio
import contextlib
import hashlib
import ipaddress
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tidegate.auth.verdict import Granted, Verdict
from tidegate.control.background import Background

if TYPE_CHECKING:
    from tidegate.auth.verify import VerifierSet

__all__ = ["OverloadedError", "Tokens"]

KEPT = 60.0
"""Seconds for which a good token need not be verified again."""
MOST_KEPT = 1000
"""Good tokens that are remembered."""
MOST_WAITING = 256
"""Tokens that wait to be verified; strangers can send more than that."""
MOST_OF_ONE = 8
"""And from one address."""


class OverloadedError(Exception):
    """Too many tokens wait to be verified."""


@dataclass(frozen=True)
class _Good:
    verdict: Granted
    until: float


class Tokens:
    """The tokens that are shown to one admin listener."""

    def __init__(self, background: Background, clock: Callable[[], float] = time.monotonic) -> None:
        """Signatures are verified on `background`."""
        self._clock = clock
        self._background = background
        self._auth: VerifierSet | None = None
        self._good: dict[bytes, _Good] = {}
        self._waiting: Counter[str] = Counter()

    async def judge(self, auth: "VerifierSet", token: str, client: str) -> Verdict:
        """What a token from an address is good for, or `OverloadedError`."""
        if auth is not self._auth:
            self._auth, self._good = auth, {}
        digest = hashlib.sha256(token.encode()).digest()
        good = self._good.get(digest)
        if good is not None and self._clock() < good.until and good.verdict.key in auth.key_ids():
            return good.verdict
        place = _place(client)
        if self._waiting[place] >= MOST_OF_ONE or self._waiting.total() >= MOST_WAITING:
            raise OverloadedError
        self._waiting[place] += 1
        try:
            verdict = await self._ask(auth, token)
        finally:
            self._waiting[place] -= 1
            self._waiting += Counter()  # leaves out who waits no more
        if isinstance(verdict, Granted) and auth is self._auth:
            self._keep(digest, verdict)
        return verdict

    async def _ask(self, auth: "VerifierSet", token: str) -> Verdict:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Verdict] = loop.create_future()

        def settle(verdict: Verdict) -> None:
            if not answered.done():
                answered.set_result(verdict)

        def done(verdict: Verdict) -> None:
            # A key may have been fetched after the role has ended.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(settle, verdict)

        await self._background.run(auth.answer, token, "", done)
        return await answered

    def _keep(self, digest: bytes, verdict: Granted) -> None:
        left = KEPT if verdict.expires is None else min(KEPT, verdict.expires - time.time())
        self._good.pop(digest, None)
        self._good[digest] = _Good(verdict, self._clock() + left)
        if len(self._good) > MOST_KEPT:
            del self._good[next(iter(self._good))]


def _place(client: str) -> str:
    """Whom an address counts for: whoever has one of IPv6 has a whole network of them."""
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return client
    if address.version == 4 or address.ipv4_mapped is not None:
        return str(address)
    return str(ipaddress.ip_network((int(address), 64), strict=False))
