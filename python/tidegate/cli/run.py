"""
Puts a role together with its admin listener and runs it: what every command that starts a role calls last.

Nothing is decided here; running is `control.roles`, the admin listener `admin.server`.
"""

import contextlib
import resource
from typing import TYPE_CHECKING, Any

from tidegate.config.looks import Looks
from tidegate.control import roles
from tidegate.control.reload import Again
from tidegate.control.state import Admin, Configuration
from tidegate.control.tokens import TokenSource

if TYPE_CHECKING:
    from tidegate.admin.server import Server

__all__ = ["run"]


def run(
    role: str,
    configuration: Configuration,
    *,
    describe: dict[str, Any],
    again: Again | None = None,
    files: Looks | None = None,
    token: TokenSource | None = None,
) -> int:
    """Runs a role until it ends and returns the exit code; raises `TidegateError` where it cannot start."""
    _raise_descriptors()
    return roles.run(
        role, configuration, describe=describe, open_admin=_open_admin, again=again, files=files, token=token
    )


def _raise_descriptors() -> None:
    # Every connection takes one or two, and the usual 1,024 are for programs that still call select().
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _open_admin(admin: Admin) -> "Server":
    # The HTTP server takes a tenth of a second to import, which an agent without --admin need not wait for.
    from tidegate.admin.server import Server  # noqa: PLC0415

    return Server(admin)
