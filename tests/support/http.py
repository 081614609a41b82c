"""Plain requests: one connection each, nothing is followed, retried or decoded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPMessage
from typing import Any

from tests.support.process import DEADLINE

_waiting = ThreadPoolExecutor(max_workers=64, thread_name_prefix="request")


@dataclass(frozen=True)
class Response:
    """A whole response."""

    status: int
    headers: HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def request(
    address: str,
    path: str = "/",
    *,
    method: str = "GET",
    endpoint: str | None = None,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    timeout: float = DEADLINE,
) -> Response:
    """Asks `host:port`; `endpoint` goes into the header that names one."""
    fields = dict(headers or {})
    if endpoint is not None:
        fields["x-tidegate-endpoint"] = endpoint
    connection = HTTPConnection(address, timeout=timeout)
    try:
        connection.request(method, path, body, fields)
        response = connection.getresponse()
        return Response(response.status, response.msg, response.read())
    finally:
        connection.close()


def ask(
    address: str, path: str = "/", *, endpoint: str | None = None, headers: Mapping[str, str] | None = None
) -> Future[Response]:
    """The same without waiting, for a request that must be running while something else happens."""
    return _waiting.submit(request, address, path, endpoint=endpoint, headers=headers)
