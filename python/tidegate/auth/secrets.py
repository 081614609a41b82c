"""
Reads a secret from where a configuration says it is: a file, the environment or a command.

Whatever goes wrong is told without a word of the secret, and of a command without its words either, for they may hold
one too.
"""

import os
import selectors
import signal
import stat
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from tidegate.errors import ConfigError

__all__ = ["LARGEST", "Secret", "SecretSource", "Source", "read"]

LARGEST = 1 << 20
"""Bytes of a secret; what is larger is no secret, and could fill the memory."""

_COMMAND_SECONDS = 10.0


class Source(Protocol):
    """Where a secret is: exactly one of the three."""

    @property
    def file(self) -> str | None:
        """The name of a file that holds it."""

    @property
    def env(self) -> str | None:
        """The name of the environment variable that holds it."""

    @property
    def command(self) -> str | None:
        """A command of the shell that prints it."""


@dataclass(frozen=True)
class SecretSource:
    """The same, for those who have no configuration."""

    file: str | None = None
    """The name of a file."""
    env: str | None = None
    """The name of an environment variable."""
    command: str | None = field(default=None, repr=False)
    """A command of the shell."""


@dataclass(frozen=True)
class Secret:
    """A secret that was read."""

    value: bytes = field(repr=False)
    """Its bytes, without the end of the last line."""
    warning: str | None = None
    """What is unwise about where it is, in a sentence."""


def read(
    source: Source, what: str, *, env: Mapping[str, str] = os.environ, seconds: float = _COMMAND_SECONDS
) -> Secret:
    """The secret; `what` names it in a `ConfigError`, such as `verifiers.main.secret`."""
    warning = None
    if source.file is not None:
        place = source.file
        value, warning = _of_file(source.file, what)
    elif source.env is not None:
        place = f"the environment variable {source.env}"
        text = env.get(source.env)
        if text is None:
            raise ConfigError(f"{what}: {place} is not set")
        value = os.fsencode(text)
    elif source.command is not None:
        place = "the output of its command"
        value = _of_command(source.command, what, seconds)
    else:
        raise ConfigError(f"{what}: needs one of `file`, `env`, `command`")
    value = _without_newline(value)
    if not value:
        raise ConfigError(f"{what}: {place} is empty")
    return Secret(value, warning)


def _without_newline(value: bytes) -> bytes:
    return value.removesuffix(b"\n").removesuffix(b"\r")


def _of_file(name: str, what: str) -> tuple[bytes, str | None]:
    try:
        with open(name, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            value = file.read(LARGEST + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"{what}: {name}: cannot read it: {reason}") from None
    if len(value) > LARGEST:
        raise ConfigError(f"{what}: {name}: is larger than {LARGEST // 1024} KiB, which is no secret")
    if stat.S_ISREG(mode) and mode & stat.S_IROTH:
        return value, f"{what}: everybody on this machine can read {name} (`chmod 600 {name}`)"
    return value, None


def _of_command(command: str, what: str, seconds: float) -> bytes:
    # In a group of its own, so that whatever the shell has started ends with it.
    with subprocess.Popen(  # noqa: S602  the shell is what a user asked for
        command,
        shell=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            value = _output(process, what, time.monotonic() + seconds)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode != 0:
        raise ConfigError(f"{what}: its command ended with exit code {process.returncode} (try it in a shell)")
    return value


def _output(process: subprocess.Popen[bytes], what: str, deadline: float) -> bytes:
    assert process.stdout is not None  # noqa: S101
    late = ConfigError(f"{what}: its command takes too long (it has {_COMMAND_SECONDS:.0f} s)")
    value = b""
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not ready.select(max(0.0, deadline - time.monotonic())):
                raise late
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                break
            value += chunk
            if len(value) > LARGEST:
                raise ConfigError(f"{what}: its command prints more than {LARGEST // 1024} KiB, which is no secret")
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise late from None
    return value
