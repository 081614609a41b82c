"""A gateway, an agent and the service behind it, in one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from tests.support.raw import Raw
from tests.support.service import Exchange, Service, echo
from tests.support.tidegate import Agent, Config, Gateway


class Site:
    """The endpoint `web` of a gateway, with an HTTP service of the test process behind it."""

    def __init__(
        self,
        answer: Callable[[Exchange], None] = echo,
        config: Config | None = None,
        *agent_options: str,
        connections: int = 1,
    ) -> None:
        with ExitStack() as stack:
            self.service = stack.enter_context(Service(answer))
            self.gateway = stack.enter_context(Gateway(config))
            to = self.service.address
            agent = Agent(self.gateway.agents, "http", "web", to, *agent_options, connections=connections)
            self.agent = stack.enter_context(agent)
            self.gateway.until_offered("web", connections)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def proxy(self) -> str:
        """`host:port` where downstreams connect."""
        return self.gateway.proxy

    @property
    def port(self) -> str:
        """The port of that."""
        return self.proxy.rpartition(":")[2]

    def url(self, path: str = "/") -> str:
        """The URL of a path, under a name of the endpoint that needs no resolver."""
        return f"http://web.localhost:{self.port}{path}"

    def connect(self) -> Raw:
        """A connection to the gateway."""
        return Raw(self.proxy)
