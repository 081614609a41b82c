"""`tidegate forward`: reaches TCP endpoints from local ports."""

import os
from typing import Any

import click

from tidegate.cli.options import Command, config_option, given, knob_options, start
from tidegate.config.knobs import knobs
from tidegate.config.model import ClientTls, Forward
from tidegate.config.sources import Source, find_file, options
from tidegate.errors import ConfigError

__all__ = ["forward"]

_PLAIN_TLS = list(knobs(ClientTls))


def _forward(words: tuple[str, ...], config: str | None, **_: object) -> int:
    """
    Reach a TCP endpoint of a gateway from a local port.

    \b
    Examples:
      tidegate forward 5432 postgres        # then: psql -h localhost -p 5432
      tidegate forward 127.0.0.1:2222 ssh --connect https://gate.example.com
      tidegate forward start --config forward.yaml

    ADDR is a port on localhost, HOST:PORT, or :PORT for all interfaces. `tcp` may stand before it. The gateway's
    address is --connect, by default http://localhost:8000 (where its visitors come, not its agents).

    \b
    # forward.yaml
    connect: {urls: [https://gate.example.com]}
    forwards: [{bind: "127.0.0.1:5432", endpoint: postgres}]
    """
    context = click.get_current_context()
    fixed: dict[str, Any] = {}
    if words[:1] == ("udp",):
        raise ConfigError("`tidegate forward udp` is not built yet in this version")
    if words != ("start",):
        given_words = words[1:] if words[:1] == ("tcp",) and len(words) != 2 else words
        if len(given_words) != 2:
            raise click.UsageError("expected [tcp] ADDR ENDPOINT, or start", context)
        fixed = {"forwards": [{"bind": given_words[0], "endpoint": given_words[1]}]}
    flags = given(context)
    for plain in _PLAIN_TLS:
        if plain.flag in flags:
            flags.setdefault(f"--connect-{plain.flag.removeprefix('--')}", flags.pop(plain.flag))
    source = Source(Forward, find_file(Forward, config, os.environ), flags, dict(os.environ), fixed)
    if not fixed and source.file is None:
        raise ConfigError("no configuration: write --config FILE, or `tidegate forward ADDR ENDPOINT`")
    return start(source.read(), str(source))


forward = Command(
    "forward",
    callback=_forward,
    help=_forward.__doc__,
    params=[
        click.Argument(["words"], nargs=-1, metavar="[tcp|udp] ADDR ENDPOINT | start"),
        config_option("A configuration, such as forward.yaml."),
        *knob_options(options(Forward)),
        *knob_options(_PLAIN_TLS, lambda _: "Short for the same --connect-... option"),
    ],
)
