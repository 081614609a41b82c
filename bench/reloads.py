"""
New configurations for a running gateway, one after the other, half of them broken.

Each one that is good has to be applied and each broken one refused; what visitors notice of it is measured elsewhere.
"""

import http.client
import json
from pathlib import Path
from typing import Any

from programs import BenchError

__all__ = ["TIMES", "reload_often", "write"]

TIMES = 100
"""How often in a row."""

_BROKEN = (
    "",
    "listeners: {",
    "listners: {}\n",
    "limits: {head_fields: many}\n",
    "listeners: {web: {bind: '127.0.0.1:0', tls: {certificates: [{cert: gone.pem, key: gone.key}]}}}\n",
    "workers: 999\n",
    "routes: [{path: /, to: {upstream: nobody}}]\n",
)


def write(file: Path, config: dict[str, Any] | str) -> None:
    """Saves a configuration by a rename."""
    fresh = file.with_suffix(".new")
    fresh.write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
    fresh.replace(file)


def reload_often(file: Path, config: dict[str, Any], admin: str, times: int = TIMES) -> None:
    """Reloads so often; afterwards the configuration is the one that was given."""
    for turn in range(times // 2):
        write(file, _BROKEN[turn % len(_BROKEN)])
        _expect(admin, 422)
        last = turn == times // 2 - 1
        write(file, config if last else _another(config, turn))
        _expect(admin, 200)


def _another(config: dict[str, Any], turn: int) -> dict[str, Any]:
    """The same for visitors and agents, with a listener and limits that come and go."""
    more = {f"more{turn % 3}": {"bind": "127.0.0.1:0"}} if turn % 4 else {}
    listeners = {**config["listeners"], **more}
    return {**config, "listeners": listeners, "limits": {"head_fields": 100 + turn % 7}}


def _expect(admin: str, status: int) -> None:
    connection = http.client.HTTPConnection(admin, timeout=10)
    try:
        connection.request("POST", "/reload")
        response = connection.getresponse()
        said = response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"a reload was not answered: {error}") from None
    finally:
        connection.close()
    if response.status != status:
        raise BenchError(f"a reload was answered with {response.status} instead of {status}: {said}")
