"""Ports on which nobody listens, as long as a test wants it so."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reserved() -> Iterator[str]:
    """
    `host:port` that the system gives to nobody else, and on which nobody listens until a program is told to.

    A socket that is bound and does not listen keeps it; Linux lets another bind it that allows reuse, as servers do.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{holder.getsockname()[1]}"
