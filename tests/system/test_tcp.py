"""Raw TCP through `forward` and through a listener of the gateway: whoever speaks first, however it ends."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import pytest

from tests.support import access
from tests.support.certificates import Authority
from tests.support.process import until
from tests.support.raw import Raw, told_by
from tests.support.service import TcpService
from tests.support.tidegate import Agent, Forward, Gateway
from tests.system.over_quic import Quic

Handler = Callable[[socket.socket], None]
Reach = Callable[[Handler], AbstractContextManager[str]]


@pytest.fixture(params=["forward", "listener", "quic", "forward-quic"])
def reach(request: pytest.FixtureRequest, authority: Authority) -> Reach:
    """Starts everything in front of a handler; gives the address that leads to it."""

    @contextmanager
    def start(handle: Handler) -> Iterator[str]:
        listeners: dict[str, Any] = {"db": {"bind": "127.0.0.1:0", "kind": "tcp", "to": {"endpoint": "db"}}}
        with ExitStack() as stack:
            service = stack.enter_context(TcpService(handle))
            quic = Quic(authority) if "quic" in request.param else None
            if quic is not None:
                listeners |= {"agents": quic.listener(), "proxy": quic.reached()}
            if "forward" in request.param:
                # What a listener leads to is not reached by its name.
                del listeners["db"]
            gateway = stack.enter_context(Gateway({"listeners": listeners}))
            words = (gateway.agents, "tcp", "db", service.address)
            stack.enter_context(quic.agent(*words) if quic is not None else Agent(*words))
            gateway.until_offered("db")
            if "forward" not in request.param:
                yield gateway.address("db")
            elif quic is None:
                yield stack.enter_context(Forward(gateway.proxy, "db")).address
            else:
                yield stack.enter_context(quic.forward(gateway.proxy, "db")).address

    return start


def read_all(connection: socket.socket) -> bytes:
    """Reads to the end."""
    got = bytearray()
    while data := connection.recv(65536):
        got += data
    return bytes(got)


def test_a_service_may_speak_first(reach: Reach) -> None:
    def greet(connection: socket.socket) -> None:
        connection.sendall(b"220 ready\r\n")
        connection.sendall(b"bye " + connection.recv(100))

    with reach(greet) as address, Raw(address) as downstream:
        assert downstream.until(b"\r\n") == b"220 ready\r\n"
        downstream.send(b"quit")
        assert downstream.rest() == b"bye quit"


def test_a_downstream_that_has_said_everything_still_hears_the_answer(reach: Reach) -> None:
    def count(connection: socket.socket) -> None:
        connection.sendall(b"%d bytes" % len(read_all(connection)))

    with reach(count) as address, Raw(address) as downstream:
        downstream.send(b"x" * 300_000)
        downstream.end()
        assert downstream.rest() == b"300000 bytes"


def test_a_service_that_has_said_everything_still_hears_the_downstream(reach: Reach) -> None:
    heard: list[bytes] = []

    def say_and_listen(connection: socket.socket) -> None:
        connection.sendall(b"that is all")
        connection.shutdown(socket.SHUT_WR)
        if got := read_all(connection):  # nothing where the agent looked whether somebody is there
            heard.append(got)

    with reach(say_and_listen) as address, Raw(address) as downstream:
        assert downstream.rest() == b"that is all"
        downstream.send(b"y" * 300_000)
        downstream.end()
        until(lambda: heard, "the service hears the end")
    assert heard == [b"y" * 300_000]


def test_a_reset_by_the_service_is_a_reset_at_the_downstream(reach: Reach) -> None:
    def reset(connection: socket.socket) -> None:
        connection.recv(5)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with reach(reset) as address, Raw(address) as downstream:
        downstream.send(b"hello")
        with pytest.raises(ConnectionResetError):
            read_all(downstream.socket)


def test_a_reset_by_the_downstream_is_a_reset_at_the_service(reach: Reach) -> None:
    ends: list[str] = []
    begun = threading.Event()

    def listen(connection: socket.socket) -> None:
        if not connection.recv(5):
            return  # the agent looked whether somebody is there
        begun.set()
        try:
            read_all(connection)
            ends.append("end")
        except ConnectionResetError:
            ends.append("reset")

    with reach(listen) as address:
        downstream = Raw(address)
        downstream.send(b"hello")
        assert begun.wait(20)
        downstream.reset()
        until(lambda: ends, "the service sees the end")
    assert ends == ["reset"]


def test_both_directions_are_full_at_once_without_a_standstill(reach: Reach) -> None:
    block, number = b"z" * 65536, 200

    def write_then_read(connection: socket.socket) -> None:
        for _ in range(number):
            connection.sendall(block)
        connection.shutdown(socket.SHUT_WR)
        read_all(connection)

    with reach(write_then_read) as address, Raw(address) as downstream:
        reading = threading.Thread(target=lambda: got.append(len(downstream.rest())))
        got: list[int] = []
        reading.start()
        for _ in range(number):
            downstream.send(block)
        downstream.end()
        reading.join(20)
    assert got == [number * len(block)]


def test_a_downstream_that_does_not_read_does_not_hold_up_another(reach: Reach) -> None:
    def pour(connection: socket.socket) -> None:
        if connection.recv(1) == b"p":
            while True:
                connection.sendall(b"z" * 65536)
        connection.sendall(b"quick")

    with reach(pour) as address, Raw(address) as stuck:
        stuck.send(b"p")
        stuck.take(1)
        for _ in range(10):
            with Raw(address) as quick:
                quick.send(b"q")
                assert quick.take(5) == b"quick"


def test_where_nobody_offers_the_endpoint_the_connection_ends() -> None:
    listeners = {"db": {"bind": "127.0.0.1:0", "kind": "tcp", "to": {"endpoint": "db"}}}
    with Gateway({"listeners": listeners}) as gateway:
        assert told_by(gateway.address("db")) == b""
        assert access.line(gateway, listener="db")["error"] == "no_upstream"
