"""
The programs under test: `Gateway`, `Agent`, `Forward`, each a context manager.

Ports are the system's choice and are learned from events. What stands behind them is left to the test.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.http import Response, request
from tests.support.process import Program

Config = Mapping[str, Any]

LISTENERS: Config = {
    "proxy": {"bind": "127.0.0.1:0"},
    "agents": {"bind": "127.0.0.1:0", "kind": "tunnel"},
}
"""The listeners of a gateway that is told nothing else."""


def command(*arguments: str | Path) -> list[str]:
    """The command line of a tidegate command, with the interpreter that runs the tests."""
    return [sys.executable, "-m", "tidegate", *map(str, arguments)]


class Tidegate(Program):
    """Any tidegate command with its events as JSON."""

    def __init__(
        self, *arguments: str | Path, env: Mapping[str, str] | None = None, under: Sequence[str | Path] = ()
    ) -> None:
        whole = [*under, *command(*arguments, "--log-format", "json")]
        super().__init__(whole, name=f"tidegate {arguments[0]}", env=env)


class Gateway(Tidegate):
    """
    A gateway on ports of the system's choice.

    `config` is merged over the default listeners and admin port, one level deep; `listeners` in it adds to them.
    `under` is a command that starts it, as its own process.
    """

    def __init__(
        self,
        config: Config | None = None,
        *options: str,
        env: Mapping[str, str] | None = None,
        under: Sequence[str | Path] = (),
    ) -> None:
        given = dict(config or {})
        listeners = {**LISTENERS, **given.pop("listeners", {})}
        self.config = {"listeners": listeners, "admin": {"bind": "127.0.0.1:0"}, **given}
        self._folder = tempfile.TemporaryDirectory(prefix="tidegate-")
        self.file = Path(self._folder.name) / "tidegate.yaml"
        # YAML reads JSON.
        self.file.write_text(json.dumps(self.config))
        super().__init__("gateway", "--config", self.file, *options, env=env, under=under)
        for listener in (*listeners, "admin"):
            self.ready("listening", listener=listener)

    def write(self, config: Config | str) -> None:
        """Saves a configuration as editors do, by a rename; it is merged like the first one. Text is saved as it is."""
        if not isinstance(config, str):
            listeners = {**LISTENERS, **config.get("listeners", {})}
            self.config = {"admin": {"bind": "127.0.0.1:0"}, **config, "listeners": listeners}
            config = json.dumps(self.config)
        fresh = self.file.with_suffix(".new")
        fresh.write_text(config)
        fresh.replace(self.file)

    def reload(self) -> Response:
        """Asks for a reload and returns the answer."""
        return request(self.admin, "/reload", method="POST")

    @property
    def proxy(self) -> str:
        """`host:port` where downstreams connect."""
        return self.address("proxy")

    @property
    def agents(self) -> str:
        """`host:port` where agents connect."""
        return self.address("agents")

    @property
    def admin(self) -> str:
        """`host:port` of the admin API."""
        return self.address("admin")

    def address(self, listener: str) -> str:
        """`host:port` of a listener, by its name."""
        return str(self.event("listening", listener=listener)["address"])

    def status(self) -> Any:
        """What `/status` says."""
        response = request(self.admin, "/status")
        assert response.status == 200, response
        return response.json()

    def until_offered(self, endpoint: str, tunnels: int = 1) -> None:
        """Waits until so many tunnels have come for an endpoint since the start."""
        self.event("agent connected", endpoint=endpoint, nth=tunnels)

    def kill(self) -> None:
        """Ends the gateway and removes its configuration file."""
        super().kill()
        self._folder.cleanup()


class Agent(Tidegate):
    """An agent that offers one endpoint; `connect` is `host:port` of a tunnel listener."""

    def __init__(
        self,
        connect: str,
        kind: str,
        endpoint: str,
        to: str,
        *options: str,
        connections: int = 1,
        wait: bool = True,
        scheme: str = "http",
        env: Mapping[str, str] | None = None,
        under: Sequence[str | Path] = (),
    ) -> None:
        self.endpoint = endpoint
        self.connections = connections
        arguments = ("agent", kind, endpoint, to, "--connect", f"{scheme}://{connect}")
        super().__init__(*arguments, "--connections", str(connections), *options, env=env, under=under)
        if wait:
            self.until_connected()

    def until_connected(self, times: int = 1) -> None:
        """Waits until every tunnel has been there so many times since the start."""
        self.ready("connected", nth=times * self.connections)


class Forward(Tidegate):
    """A forward from a port of the system's choice; `connect` is `host:port` of a proxy listener."""

    def __init__(
        self,
        connect: str,
        endpoint: str,
        *options: str,
        scheme: str = "http",
        env: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__("forward", "127.0.0.1:0", endpoint, "--connect", f"{scheme}://{connect}", *options, env=env)
        self.address = str(self.ready("listening", endpoint=endpoint)["address"])
