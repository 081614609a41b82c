"""`tidegate quic-client`: the command line of the agent of quic-reverse-http-tunnel that serves CONNECT."""

import os

import click

from tidegate.cli import options
from tidegate.cli.moving import tell
from tidegate.cli.quic import AgentLine, QuicCommand, agent_knobs, flags_of
from tidegate.importers.quic_tunnel import CLIENT, COMMAND_LINE, agent

__all__ = ["ALLOW", "quic_client", "run"]

ALLOW = "allow"


def run(program: str) -> int:
    """Runs what the command line of the current context says."""
    context = click.get_current_context()
    own = flags_of(program, context.params)
    allow = context.params.get(ALLOW, ())
    translation = agent(program, own, allow, COMMAND_LINE)
    for note in translation.notes:
        tell(note)
    source = AgentLine(translation=translation, flags=options.given(context), env=dict(os.environ))
    said = sorted(f"--{name}" for name in (*own, *([ALLOW] if allow else [])))
    return options.start(source.read(), ", ".join(said))


def _quic_client(**_: object) -> int:
    """
    Run the agent of quic-reverse-http-tunnel: a CONNECT server at the other end of a server's TCP port.

    Without --allow it leads to every address but loopback, link-local and metadata addresses and its own admin port;
    with it, to what is written and nothing else.

    \b
    Examples:
      tidegate quic-client --server gate.example.com:8888 --ca-file ca.crt --cert-file tls.crt --cert-key tls.key
      tidegate quic-client ... --allow 10.0.0.0/8:10250 --allow '*.corp.example:443'
    """
    return run(CLIENT)


quic_client = QuicCommand(
    CLIENT,
    _quic_client,
    _quic_client.__doc__ or "",
    agent_knobs(),
    [
        click.Option(
            ["--allow", ALLOW],
            multiple=True,
            metavar="NET|NAME[:PORT|:LOW-HIGH] ...",
            help="What CONNECT may reach; by default everything that is not of this machine or its link.",
        )
    ],
)
