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

from collections.abc import Iterable

__all__ = ["AuthError", "ConfigError", "EngineError", "ListenError", "NoUpstream", "TidegateError", "TunnelClosed"]


class TidegateError(Exception):
    """Any error that tidegate raises on purpose; its text is one a person can act on."""


class ConfigError(TidegateError):
    """What somebody wrote cannot be used. Every mistake is told at once, one a line."""

    def __init__(self, mistakes: str | Iterable[str]) -> None:
        self.mistakes = (mistakes,) if isinstance(mistakes, str) else tuple(mistakes)
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
