"""
Keeps the token of an agent or forward fresh: its file is read again when it changes, its command run again in time.

Flow: the file looks different and then stays as it is for a moment, or the token in force comes near its expiry; the
new one is read on a thread and handed to the role, which shows it to gateways from then on. Where none can be read the
one before stays in force, which is said once, and it is tried again. Nothing here believes a token or shows it.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from tidegate.auth import secrets
from tidegate.auth.token import InvalidTokenError, claims_of
from tidegate.auth.token import read as read_claims
from tidegate.config.connect import read_token, token_text
from tidegate.config.looks import look
from tidegate.config.model import Connect
from tidegate.control.background import Background
from tidegate.control.logs import Log
from tidegate.errors import ConfigError

__all__ = ["Renewal", "TokenSource", "due_in"]

INTERVAL = 0.5
"""How often a file is looked at, and how long it has to look the same: it may be half written."""
NO_EXPIRY = 60.0
"""A command is run again after so long, where its token does not say when it expires."""
LONGEST = 3600.0
"""And after so long at most: a key may have been changed before the token expires."""
SHORTEST = 1.0
"""A command is run again after so long at least: the first time that it has failed, then after twice as long..."""
SLOWEST = 5.0
"""...and after so long in the end."""
USED_UP = 0.8
"""A token is renewed when so much of its time is over: a few attempts fit into what is left."""


@dataclass(frozen=True)
class TokenSource:
    """Where a token can be read again: a file, or a command."""

    file: str | None
    """The file."""
    command: tuple[str, ...] | None
    """The command, word by word."""

    @classmethod
    def of(cls, connect: Connect) -> "TokenSource | None":
        """What a configuration says, where it says either."""
        if connect.token_file is None and connect.token_command is None:
            return None
        return cls(connect.token_file, connect.token_command)

    def read(self) -> str:
        """The token as it is now, or `ConfigError`. A command may take seconds."""
        try:
            if self.file is not None:
                return read_token(self.file)
            assert self.command is not None  # noqa: S101  it is one of the two
            printed = secrets.of_command(self.command, "connect.token_command").value
            return token_text(printed.decode("ascii", "replace"), "connect.token_command prints")
        except ValueError as error:
            raise ConfigError(str(error)) from None


class Renewal:
    """The token of a running role."""

    def __init__(
        self, source: TokenSource, token: str, set_token: Callable[[str], None], log: Log, *, interval: float = INTERVAL
    ) -> None:
        """`token` is the one in force; `set_token` puts another one in force."""
        self._source = source
        self._token = token
        self._set_token = set_token
        self._log = log
        self._interval = interval
        self._background = Background("token")
        self._told = ""

    async def watch(self) -> None:
        """Renews the token whenever it is time, until it is cancelled."""
        with closing(self._background):
            if self._source.file is not None:
                await self._follow(self._source.file)
            else:
                await self._ask_in_time()

    async def _follow(self, file: str) -> None:
        seen = None  # it may have changed since the start
        while True:
            now = await self._background.run(look, file)
            if now != seen:
                await asyncio.sleep(self._interval)
                if await self._background.run(look, file) != now:
                    continue
                if await self._renew():
                    seen = now
            await asyncio.sleep(self._interval)

    async def _ask_in_time(self) -> None:
        pause, patience = due_in(self._token, time.time()), SHORTEST
        while True:
            await asyncio.sleep(pause)
            renewed = await self._renew()
            pause = due_in(self._token, time.time())
            if renewed and pause > SHORTEST:
                patience = SHORTEST
            else:  # what is used up when it comes is no better than nothing
                pause, patience = patience, min(2 * patience, SLOWEST)

    async def _renew(self) -> bool:
        """Whether a token could be read."""
        try:
            token = await self._background.run(self._source.read)
        except ConfigError as error:
            reason = "; ".join(error.mistakes)
            if reason != self._told:
                sentence = f"the token stays as it was: {reason}"
                self._log.say("warn", "token not renewed", sentence, reason=reason)
            self._told = reason
            return False
        self._told = ""
        if token != self._token:
            self._set_token(token)
            self._token = token
            expires = _expiry(token)
            until = "" if expires is None else f", good until {time.strftime('%H:%M:%SZ', time.gmtime(expires))}"
            self._log.say("info", "token renewed", f"a new token is in use{until}", expires=expires)
        return True


def due_in(token: str, now: float) -> float:
    """Seconds until a command is run again for the token that comes after this one."""
    expires = _expiry(token)
    if expires is None:
        return NO_EXPIRY
    return min(max((expires - now) * USED_UP, SHORTEST), LONGEST)


def _expiry(token: str) -> float | None:
    """When a token says that it expires; a gateway has the last word."""
    try:
        return claims_of(read_claims(token)).expires
    except InvalidTokenError:
        return None
