"""`tidegate forward`: reaches TCP endpoints from local ports."""

import os
from typing import Any

import click

from tidegate.cli.options import (
    Command,
    config_option,
    given,
    knob_options,
    short_tls_options,
    spell_out_tls,
    start,
)  # fmt: skip
from tidegate.config.model import Forward
from tidegate.config.sources import Source, find_file, options
from tidegate.errors import ConfigError

__all__ = ["forward"]


def _forward(words: tuple[str, ...], config: str | None, **_: object) -> int:
    """
    Reach a TCP or UDP endpoint of a gateway from a local port.

    \b
    Examples:
      tidegate forward 5432 postgres        # then: psql -h localhost -p 5432
      tidegate forward 127.0.0.1:2222 ssh --connect https://gate.example.com
      tidegate forward udp 5353 dns --connect https://gate.example.com
      tidegate forward start --config forward.yaml

    ADDR is a port on localhost, HOST:PORT, or :PORT for all interfaces. `tcp` may stand before it, `udp` has to: that
    goes by QUIC alone, so the gateway's URL begins with https:// and its listener takes QUIC. The gateway's
    address is --connect, by default http://localhost:8000 (where its visitors come, not its agents).

    \b
    # forward.yaml
    connect: {urls: [https://gate.example.com]}
    forwards: [{bind: "127.0.0.1:5432", endpoint: postgres}]
    """
    context = click.get_current_context()
    fixed: dict[str, Any] = {}
    if words != ("start",):
        given_words = words[1:] if words[:1] in (("tcp",), ("udp",)) else words
        if len(given_words) != 2:
            raise click.UsageError("expected [tcp|udp] ADDR ENDPOINT, or start", context)
        kind = {"kind": "udp"} if words[0] == "udp" else {}
        fixed = {"forwards": [{"bind": given_words[0], "endpoint": given_words[1], **kind}]}
    flags = given(context)
    spell_out_tls(flags)
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
        *short_tls_options(),
    ],
)
