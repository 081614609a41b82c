"""Many bytes that are cheap to make and hard to confuse: one random block, turned by one byte for each repetition."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

BLOCK = 1024 * 1024
GIBIBYTE = 1024


class Bulk:
    """`blocks` MiB of which no two are alike, with the hash of the whole."""

    def __init__(self, blocks: int) -> None:
        block = os.urandom(BLOCK)
        self._twice = memoryview(block + block)
        self.blocks = blocks
        self.size = blocks * BLOCK
        whole = hashlib.sha256()
        for part in self:
            whole.update(part)
        self.hash = whole.hexdigest()

    def __iter__(self) -> Iterator[memoryview]:
        for turn in range(self.blocks):
            yield self._twice[turn : turn + BLOCK]
