"""
What a file looks like from outside, so that a change of it is seen without reading it.

A look follows symbolic links: a swapped link, a file renamed over another one and an edit in place all differ.
"""

import os
import stat
from collections.abc import MutableMapping

__all__ = ["Look", "Looks", "differing", "look"]

Look = tuple[int, ...]
"""Nothing for what is no file, such as a pipe: it cannot change, and could not be read again."""

Looks = MutableMapping[str, Look]
"""The files that a configuration was read from, each as it looked just before that."""


def look(name: str) -> Look:
    """What a file looks like now; a missing one looks like its error."""
    try:
        found = os.stat(name)
    except OSError as error:
        return (error.errno or 0,)
    if not stat.S_ISREG(found.st_mode):
        return ()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def differing(seen: Looks) -> bool:
    """Whether any file looks different now."""
    return any(look(name) != before for name, before in seen.items())
