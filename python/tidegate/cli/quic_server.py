"""`tidegate quic-server`: the command line of the server of quic-reverse-http-tunnel."""

import os

import click

from tidegate.cli.moving import start_beside, tell
from tidegate.cli.options import given
from tidegate.cli.quic import QuicCommand, flags_of
from tidegate.config.knobs import knobs
from tidegate.config.model import Gateway
from tidegate.importers.quic_tunnel import COMMAND_LINE, SERVER, server
from tidegate.importers.source import Foreign

__all__ = ["quic_server"]


def _quic_server(**_: object) -> int:
    """
    Run the server of quic-reverse-http-tunnel: every TCP connection becomes a stream to an agent.

    Agents come over QUIC with a certificate of --client-ca-file, and expect a certificate for quic-tunnel-server. The
    agent with the fewest streams is next. Admin is on 127.0.0.1:8003 or, where that port is taken, on a free one that
    the start line names.

    \b
    Examples:
      tidegate quic-server --cert-file tls.crt --cert-key tls.key --client-ca-file ca.crt
      curl -p --proxy localhost:8443 http://10.0.0.7/
    """
    context = click.get_current_context()
    own, flags = flags_of(SERVER, context.params), given(context)
    translation = server(own, COMMAND_LINE)

    def source(admin: str) -> Foreign:
        return Foreign(
            flags=flags,
            env=dict(os.environ),
            translate=lambda _: server(own, COMMAND_LINE),
            tell=tell,
            admin=admin,
            also=tuple(sorted(f"--{name}" for name in own)),
        )

    return start_beside(source, *(listener["bind"] for listener in translation.tree.data["listeners"].values()))


quic_server = QuicCommand(SERVER, _quic_server, _quic_server.__doc__ or "", knobs(Gateway))
