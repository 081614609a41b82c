"""`tidegate quic-client-tcp`: the command line of the agent of quic-reverse-http-tunnel that leads to one address."""

from tidegate.cli.quic import QuicCommand, agent_knobs
from tidegate.cli.quic_client import run
from tidegate.importers.quic_tunnel import CLIENT_TCP

__all__ = ["quic_client_tcp"]


def _quic_client_tcp(**_: object) -> int:
    """
    Run the agent of quic-reverse-http-tunnel that passes every stream to one address.

    \b
    Examples:
      tidegate quic-client-tcp --server gate.example.com:8888 --ca-file ca.crt --cert-file tls.crt --cert-key tls.key \\
        --upstream www.example.com:443
    """
    return run(CLIENT_TCP)


quic_client_tcp = QuicCommand(CLIENT_TCP, _quic_client_tcp, _quic_client_tcp.__doc__ or "", agent_knobs())
