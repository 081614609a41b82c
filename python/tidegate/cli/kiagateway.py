"""`tidegate kiagateway`: the command line and file of kiagateway."""

import os
from pathlib import Path

import click

from tidegate.cli.moving import start_beside, tell
from tidegate.cli.options import Command, given, knob_options
from tidegate.config.knobs import Knob, knobs
from tidegate.config.model import Gateway
from tidegate.importers.kiagateway import HTTP, HTTPS, gateway
from tidegate.importers.source import Foreign

__all__ = ["kiagateway"]

ADDRESSES = tuple(
    Knob(
        path=("listeners", listener, "bind"),
        flag=f"--{listener}",
        env=f"TIDEGATE_{listener.upper()}",
        help=what,
        default=default,
        label="ADDR",
        is_flag=False,
        multiple=False,
        advanced=False,
    )
    for listener, default, what in (
        (HTTP, ":80", "Address for HTTP, routed by Host."),
        (HTTPS, ":443", "Address for TLS, routed by server name and not decrypted."),
    )
)


def _kiagateway(file: str, **_: object) -> int:
    """
    Run the file of kiagateway: HTTP by Host on port 80, TLS by server name, not decrypted, on port 443.

    FILE is servers.toml in the current folder unless another one is named. It is read again when it changes. Admin is
    on 127.0.0.1:8003 or, where that port is taken, on a free one that the start line names.

    \b
    Examples:
      tidegate kiagateway
      tidegate kiagateway /etc/kiagateway/servers.toml
      tidegate kiagateway --http :8080 --https :8443
      tidegate config import --from kiagateway servers.toml > tidegate.yaml
    """
    path = Path(file)
    flags = given(click.get_current_context())

    def source(admin: str) -> Foreign:
        return Foreign(
            file=path,
            flags=flags,
            env=dict(os.environ),
            translate=lambda text: gateway(text, str(path)),
            tell=tell,
            admin=admin,
            addresses=ADDRESSES,
        )

    return start_beside(source)


kiagateway = Command(
    "kiagateway",
    callback=_kiagateway,
    help=_kiagateway.__doc__,
    params=[
        click.Argument(["file"], default="servers.toml", metavar="[FILE]"),
        *knob_options([*ADDRESSES, *knobs(Gateway)]),
    ],
)
