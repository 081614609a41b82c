"""Lines of access logs."""

from __future__ import annotations

import json
from typing import Any

from tests.support.process import Program, until


def lines(program: Program, **fields: object) -> list[dict[str, Any]]:
    """The lines so far with these fields."""
    found = []
    for line in program.log.splitlines():
        if not line.startswith('{"answered"'):
            continue
        entry = json.loads(line)
        if all(entry.get(key) == value for key, value in fields.items()):
            found.append(entry)
    return found


def line(program: Program, **fields: object) -> dict[str, Any]:
    """The only line with these fields, once it is there."""
    found = until(lambda: lines(program, **fields), f"{program.name} logs an access with {fields}")
    assert len(found) == 1, found
    return found[0]
