"""
What can go wrong, as a caller sees it.

TidegateError
├── ConfigError        names the file and the key; a mistake a line
├── AuthError          a credential is missing, wrong or not good for this
└── EngineError        the engine could not do what was asked
    ├── ListenError    the address could not be bound
    ├── NoUpstream     nobody offers this endpoint
    └── TunnelClosed   reconnecting is up to you
"""

import re
from collections.abc import Iterable

__all__ = [
    "AuthError", "ConfigError", "EngineError", "ListenError", "NoUpstream", "TidegateError", "TunnelClosed",
    "without_userinfo",
]  # fmt: skip

# A quoted value is hidden up to its last @, so that a password may hold anything.
_QUOTED = re.compile(r"""(?P<open>(?P<sign>['"])(?:[A-Za-z][\w+.-]*://)?)(?:\\.|(?!(?P=sign)).)*@""")
_BARE = re.compile(r"""(?P<open>://|(?<!\S)(?=[^\s"'/@:]+:))[^\s"']*@""")


def without_userinfo(text: str) -> str:
    """Hides who and with which password, in what may be addresses of somebody: they are shown to more people."""
    return _BARE.sub(r"\g<open>***@", _QUOTED.sub(r"\g<open>***@", text)) if "@" in text else text


class TidegateError(Exception):
    """Any error that tidegate raises on purpose; its text is one a person can act on."""


class ConfigError(TidegateError):
    """What somebody wrote cannot be used. Every mistake is told at once, one a line, and no password with it."""

    def __init__(self, mistakes: str | Iterable[str]) -> None:
        told = (mistakes,) if isinstance(mistakes, str) else mistakes
        self.mistakes = tuple(without_userinfo(mistake) for mistake in told)
        super().__init__("\n".join(self.mistakes))


class AuthError(TidegateError):
    """A credential is missing, wrong, or not good for what was asked."""


class EngineError(TidegateError):
    """The engine could not do what was asked."""


class ListenError(EngineError):
    """An address could not be bound."""


class NoUpstream(EngineError):  # noqa: N818
    """Nobody offers this endpoint."""


class TunnelClosed(EngineError):  # noqa: N818
    """The tunnel has ended; reconnecting is up to the caller."""
