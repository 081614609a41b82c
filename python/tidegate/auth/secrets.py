"""
Reads a secret from where a configuration says it is: a file, the environment or a command.

Whatever goes wrong is told without a word of the secret, and of a command without its words either, for they may hold
one too.
"""

import contextlib
import os
import selectors
import signal
import stat
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import SecretStr

from tidegate.errors import ConfigError

__all__ = ["LARGEST", "Secret", "Source", "of_command", "of_environment", "of_file", "read"]

LARGEST = 1 << 20
"""Bytes of a secret; what is larger is no secret, and could fill the memory."""

_COMMAND_SECONDS = 10.0


class Source(Protocol):
    """Where a secret is: exactly one of these."""

    @property
    def file(self) -> str | None:
        """The name of a file that holds it."""

    @property
    def env(self) -> str | None:
        """The name of the environment variable that holds it."""

    @property
    def command(self) -> Sequence[str] | None:
        """The words of a command that prints it."""

    @property
    def inline(self) -> SecretStr | None:
        """Itself, where it came from a predecessor's file or flag."""


@dataclass(frozen=True)
class Secret:
    """A secret that was read."""

    value: bytes = field(repr=False)
    """Its bytes, without the end of the last line."""
    warning: str | None = None
    """What is unwise about where it is, in a sentence."""


def read(source: Source, what: str) -> Secret:
    """The secret; `what` names it in a `ConfigError`, such as `verifiers.main.secret`."""
    if source.file is not None:
        return of_file(source.file, what)
    if source.env is not None:
        return of_environment(source.env, what)
    if source.command is not None:
        return of_command(source.command, what)
    if source.inline is not None and source.inline.get_secret_value():
        return Secret(source.inline.get_secret_value().encode())
    raise ConfigError(f"{what}: is empty")


def of_file(name: str, what: str) -> Secret:
    """What a file holds, without the end of its last line."""
    try:
        with open(name, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            value = file.read(LARGEST + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"{what}: {name}: cannot read it: {reason}") from None
    if len(value) > LARGEST:
        raise ConfigError(f"{what}: {name}: is larger than {LARGEST // 1024} KiB, which is no secret")
    warning = None
    if stat.S_ISREG(mode) and mode & stat.S_IROTH:
        warning = f"{what}: everybody on this machine can read {name} (`chmod 600 {name}`)"
    return Secret(_some(value, f"{what}: {name}"), warning)


def of_environment(name: str, what: str, env: Mapping[str, str] = os.environ) -> Secret:
    """What an environment variable holds."""
    text = env.get(name)
    if text is None:
        raise ConfigError(f"{what}: the environment variable {name} is not set")
    return Secret(_some(os.fsencode(text), f"{what}: the environment variable {name}"))


def of_command(words: Sequence[str], what: str, seconds: float = _COMMAND_SECONDS) -> Secret:
    """What a command prints."""
    try:
        # In a group of its own, so that whatever it has started ends with it.
        process = subprocess.Popen(  # noqa: S603  a user has written it
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or "is no command").lower()
        raise ConfigError(f"{what}: its command cannot be started: {reason}") from None
    with process:
        try:
            value = _output(process, what, seconds)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode != 0:
        raise ConfigError(f"{what}: its command has failed with exit code {process.returncode} (try it in a shell)")
    return Secret(_some(value, f"{what}: the output of its command"))


def _some(value: bytes, place: str) -> bytes:
    value = value.removesuffix(b"\n").removesuffix(b"\r")
    if not value:
        raise ConfigError(f"{place} is empty")
    return value


def _output(process: subprocess.Popen[bytes], what: str, seconds: float) -> bytes:
    assert process.stdout is not None  # noqa: S101
    deadline = time.monotonic() + seconds
    late = ConfigError(f"{what}: its command takes too long (it has {seconds:g} s)")
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
