"""`tidegate token`: makes keys, signs tokens, and tells what they are good for. One file a command."""

import click

from tidegate.cli.lazy import Lazy

__all__ = ["token"]

_COMMANDS = {
    "key": "Write a new key that signs tokens.",
    "sign": "Print a token for an agent, a visitor or the admin listener.",
    "verify": "Tell whether a token is good, and for what.",
    "inspect": "Show what a token says, without believing it.",
}


@click.group(cls=Lazy, package="tidegate.cli.token", known=_COMMANDS)
def token() -> None:
    """
    Make keys, sign tokens, and tell what they are good for.

    A token says which endpoints its holder may listen on and reach, and until when. Whoever has the key can make any
    token that a gateway with this key believes.

    \b
    Examples:
      tidegate token key                                # writes token.key
      tidegate token sign --key token.key --endpoint web --expires 30d --out token
      tidegate token verify --key token.key --token-file token
      tidegate token inspect --token-file token
    """
