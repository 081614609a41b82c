"""`tidegate nanoproxy`: the command line, file and environment of NanoProxy."""

import os
import socket
from pathlib import Path

import click

from tidegate.cli.moving import start_beside, tell
from tidegate.cli.options import Command, given, knob_options
from tidegate.config.knobs import knobs
from tidegate.config.model import SHORTCUTS, Gateway
from tidegate.config.whole import whole
from tidegate.errors import ConfigError
from tidegate.importers.nanoproxy import Settings, gateway
from tidegate.importers.source import Foreign

__all__ = ["nanoproxy"]

_NAMES = ("CONF_FILE", "TIMEOUT", "PORT", "DEBUG", "CERT_PATH", "TLS_SKIP_VERIFY", "CONFIG_B64")
_PROXY = next(known for known in SHORTCUTS if known.flag == "--proxy")


def _nanoproxy(config: str | None, **_: object) -> int:
    """
    Run the file of NanoProxy: hosts and paths to upstreams, the first rule that matches counts.

    FILE is ./config.yaml unless --config, -config, -c or CONF_FILE names another one. It is read again when it
    changes; a broken or empty one changes nothing. TIMEOUT, PORT, DEBUG, CERT_PATH, TLS_SKIP_VERIFY and CONFIG_B64 mean
    what they mean to NanoProxy. Admin is on 127.0.0.1:8003 or, where that port is taken, on a free one that the start
    line names.

    \b
    Examples:
      tidegate nanoproxy -c config.yaml
      PORT=9000 TIMEOUT=30 tidegate nanoproxy
      tidegate config import --from nanoproxy config.yaml > tidegate.yaml
    """
    settings = Settings.of(os.environ)
    path = Path(config or os.environ.get("CONF_FILE") or "./config.yaml")
    if settings.content is not None:
        _check(settings)
        _write(path, settings.content)
    flags = given(click.get_current_context())

    def source(admin: str) -> Foreign:
        return Foreign(
            file=path,
            flags=flags,
            env=dict(os.environ),
            translate=lambda text: gateway(text, str(path), settings, socket.gethostname() or "unknown"),
            optional=True,
            tell=tell,
            admin=admin,
            addresses=(_PROXY,),
            also=tuple(name for name in _NAMES if os.environ.get(name)),
        )

    return start_beside(source, f":{settings.port}")


def _check(settings: Settings) -> None:
    """Refuses what cannot be a file, before the one that is there is lost."""
    try:
        text = (settings.content or b"").decode()
    except UnicodeDecodeError:
        raise ConfigError("CONFIG_B64: is not UTF-8 text") from None
    whole(Gateway, gateway(text, "CONFIG_B64", settings, "unknown").tree)


def _write(path: Path, content: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content)
    except OSError as error:
        problem = (error.strerror or str(error)).lower()
        raise ConfigError(f"CONFIG_B64: cannot be written to {path}: {problem}") from None


nanoproxy = Command(
    "nanoproxy",
    callback=_nanoproxy,
    help=_nanoproxy.__doc__,
    params=[
        click.Option(["-c", "-config", "--config", "config"], metavar="FILE", help="The file. [CONF_FILE]"),
        *knob_options([_PROXY, *knobs(Gateway)]),
    ],
)
