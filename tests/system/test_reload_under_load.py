"""Two hundred reloads, half of them broken, while visitors come and streams run: nothing is lost and nothing is cut."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from tests.support.http import Response, request
from tests.support.process import until
from tests.support.raw import Raw, at
from tests.support.service import Exchange, Service
from tests.support.tidegate import Agent, Gateway
from tests.system.breaking import BIND, broken, taken
from tests.system.load import Visitors

RELOADS = 200


class Endless:
    """Answers with numbered lines until it is told to end; everything else at once."""

    def __init__(self) -> None:
        self.enough = threading.Event()

    def __call__(self, exchange: Exchange) -> None:
        exchange.read()
        if not exchange.target.startswith("/long"):
            exchange.answer("200 OK", body=b"served")
            return
        exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        number = 0
        while not self.enough.wait(0.005):
            line = b"%d\n" % number
            exchange.send(b"%x\r\n%s\r\n" % (len(line), line))
            number += 1
        exchange.send(b"0\r\n\r\n")


class Download:
    """Reads a long answer in a thread of its own."""

    def __init__(self, address: str, host: str) -> None:
        self._raw = Raw(address)
        self._raw.send(b"GET /long HTTP/1.1\r\nHost: %s\r\n\r\n" % host.encode())
        self._thread = threading.Thread(target=self._read, daemon=True)
        self.body = b""
        self._thread.start()

    def _read(self) -> None:
        self.body = self._raw.answer().body

    def check(self) -> None:
        """Everything came, in order, up to the end."""
        self._thread.join(30)
        lines = self.body.split()
        assert len(lines) > 100
        assert lines == [b"%d" % number for number in range(len(lines))]
        self._raw.close()


class KeptConnection:
    """Sends one request after the other on one connection."""

    def __init__(self, raw: Raw, host: str) -> None:
        self._raw = raw
        self._host = host

    def ask(self) -> None:
        """One more."""
        self._raw.send(b"GET /kept HTTP/1.1\r\nHost: %s\r\n\r\n" % self._host.encode())
        assert self._raw.answer().status == 200


def echo(connection: ServerConnection) -> None:
    """Sends back what comes."""
    for message in connection:
        connection.send(message)


def asking(address: str, host: str) -> Callable[[], Response]:
    """What a visitor does."""
    return lambda: request(address, headers={"Host": host})


def config(turn: int, service: str, websocket: str) -> dict[str, Any]:
    """The same routes for the visitors, and others that change with each turn."""
    routes = [
        {"host": f"h{number}.example", "path": f"/{turn}", "respond": {"status": 200, "body": str(turn)}}
        for number in range(turn % 7)
    ]
    routes += [
        {"host": "direct.example", "to": {"addresses": [service]}},
        {"host": "ws.example", "to": {"addresses": [websocket]}},
        {"host": "tunnel.example", "to": {"endpoint": "web"}},
    ]
    if turn % 2:
        routes.reverse()
    listeners = {f"more{turn % 3}": {"bind": BIND}} if turn % 4 else {}
    return {"listeners": listeners, "routes": routes, "limits": {"head_fields": 100 + turn % 5}}


def test_two_hundred_reloads_half_of_them_broken_lose_nothing_and_cut_no_stream() -> None:
    answering = Endless()
    with ExitStack() as stack:
        holder, port = taken()
        stack.enter_context(holder)
        service = stack.enter_context(Service(answering))
        chat = stack.enter_context(serve(echo, "127.0.0.1", 0))
        threading.Thread(target=chat.serve_forever, daemon=True).start()
        stack.callback(chat.shutdown)
        websocket = f"127.0.0.1:{chat.socket.getsockname()[1]}"
        gateway = stack.enter_context(Gateway(config(0, service.address, websocket)))
        stack.enter_context(Agent(gateway.agents, "http", "web", service.address))
        gateway.until_offered("web")

        hosts = ("direct.example", "tunnel.example")
        downloads = [Download(gateway.proxy, host) for host in hosts]
        kept = [KeptConnection(stack.enter_context(Raw(gateway.proxy)), host) for host in hosts]
        port_of_proxy = gateway.proxy.rpartition(":")[2]
        socket = stack.enter_context(
            connect(f"ws://ws.example:{port_of_proxy}/", address=at(gateway.proxy), proxy=None)
        )
        visitors = [stack.enter_context(Visitors(asking(gateway.proxy, host), 2)) for host in hosts]
        results = {200: 0, 422: 0}
        for turn in range(1, RELOADS // 2 + 1):
            gateway.write(config(turn, service.address, websocket))
            assert gateway.reload().status == 200
            results[200] += 1
            ways = list(broken(gateway, port).values())
            gateway.write(ways[turn % len(ways)][0])
            assert gateway.reload().status == 422
            results[422] += 1
            for one in kept:
                one.ask()
            socket.send(str(turn))
            assert socket.recv(timeout=10) == str(turn)
        answering.enough.set()
        for download in downloads:
            download.check()
        for each in visitors:
            each.until_served(10)
            assert each.lost == []
        assert results == {200: RELOADS // 2, 422: RELOADS // 2}
        found = request(gateway.admin, "/status/config").json()
        assert found["reloads"]["applied"] >= RELOADS // 2
        until(lambda: gateway.status()["connections"] < 64, "connections of listeners that are gone have ended")
