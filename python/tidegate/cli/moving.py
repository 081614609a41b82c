"""
What the commands that stand in for a predecessor share: its notes on stderr, and a free port for admin.

Nothing of one predecessor stands here; that is in its command and its importer.
"""

import errno
import socket
from collections.abc import Callable

import click

from tidegate.cli.options import start_source
from tidegate.errors import ListenError
from tidegate.importers.source import Foreign
from tidegate.importers.translation import Note

__all__ = ["ADMIN", "free_admin", "start_beside", "tell"]

ADMIN = ("127.0.0.1", 8003)


def start_beside(source: Callable[[str], Foreign], *taken: str) -> int:
    """Runs what `source` makes of an admin address, and returns the exit code."""
    address = free_admin(*taken)
    try:
        return start_source(source(address))
    except ListenError as error:
        # Another program took it between the look and the bind.
        if not str(error).startswith(f'listener "admin": {address} is in use'):
            raise
    return start_source(source(f"{ADMIN[0]}:0"))


def tell(note: Note) -> None:
    """Writes a note for the person who starts the program."""
    click.echo(f"note: {note}", err=True)


def free_admin(*taken: str) -> str:
    """The usual admin address or, where somebody has its port, one that the system picks; `taken` are our own."""
    host, port = ADMIN
    picked = f"{host}:0"
    if any(address.rpartition(":")[2] == str(port) for address in taken):
        return picked
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(ADMIN)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return picked
    return f"{host}:{port}"
