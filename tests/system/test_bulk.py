"""A gibibyte in each direction: every byte arrives, and memory stays where it was."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.support.bulk import BLOCK, GIBIBYTE, Bulk
from tests.support.process import Program, until
from tests.support.raw import Raw
from tests.support.service import Exchange, TcpService
from tests.support.tidegate import Agent, Forward, Gateway
from tests.system.site import Site

MOST = 150 * 1024 * 1024
"""Bytes of memory that a program may need more than at its start."""


@pytest.fixture(scope="module")
def bulk() -> Bulk:
    """The bytes."""
    return Bulk(GIBIBYTE)


@contextmanager
def bounded(*programs: Program) -> Iterator[None]:
    """Checks that none of the programs needs much more memory in the block than before."""
    before = [program.peak_memory() for program in programs]
    yield
    for program, start in zip(programs, before, strict=True):
        needed = program.peak_memory() - start
        assert needed < MOST, f"{program.name} needed {needed // BLOCK} MiB more"


def hash_of(connection: socket.socket, size: int | None = None) -> str:
    """The hash of what comes on a connection, up to its end or a size."""
    whole, buffer, left = hashlib.sha256(), memoryview(bytearray(BLOCK)), size
    while left is None or left:
        number = connection.recv_into(buffer, min(BLOCK, left) if left is not None else BLOCK)
        if not number:
            break
        whole.update(buffer[:number])
        left = left - number if left is not None else None
    return whole.hexdigest()


def test_a_gibibyte_comes_down_through_http(bulk: Bulk) -> None:
    def pour(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % bulk.size)
        for block in bulk:
            exchange.socket.sendall(block)

    with Site(pour) as site, bounded(site.gateway, site.agent), site.connect() as downstream:
        downstream.send(b"GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n")
        downstream.until(b"\r\n\r\n")
        assert hash_of(downstream.socket, bulk.size) == bulk.hash


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_gibibyte_goes_up_through_http(bulk: Bulk, chunked: bool) -> None:
    def swallow(exchange: Exchange) -> None:
        whole = hashlib.sha256()
        for block in exchange.chunks():
            whole.update(block)
        exchange.answer("200 OK", whole.hexdigest().encode())

    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % bulk.size
    with Site(swallow) as site, bounded(site.gateway, site.agent), site.connect() as downstream:
        downstream.send(b"PUT / HTTP/1.1\r\nHost: web.example.com\r\n" + framing + b"\r\n\r\n")
        for block in bulk:
            if chunked:
                downstream.send(b"%x\r\n" % BLOCK)
            downstream.socket.sendall(block)
            if chunked:
                downstream.send(b"\r\n")
        if chunked:
            downstream.send(b"0\r\n\r\n")
        assert downstream.answer("PUT").body.decode() == bulk.hash


@pytest.mark.parametrize("way", ["forward", "listener"])
def test_a_gibibyte_passes_through_tcp_in_both_directions(bulk: Bulk, way: str) -> None:
    heard: list[str] = []

    def pour_then_listen(connection: socket.socket) -> None:
        if connection.recv(2) != b"go":
            return
        for block in bulk:
            connection.sendall(block)
        connection.shutdown(socket.SHUT_WR)
        heard.append(hash_of(connection))

    listeners = {"db": {"bind": "127.0.0.1:0", "kind": "tcp", "to": {"endpoint": "db"}}}
    with ExitStack() as stack:
        service = stack.enter_context(TcpService(pour_then_listen))
        gateway = stack.enter_context(Gateway({"listeners": listeners} if way == "listener" else None))
        programs: list[Program] = [gateway, stack.enter_context(Agent(gateway.agents, "tcp", "db", service.address))]
        gateway.until_offered("db")
        if way == "forward":
            forward = stack.enter_context(Forward(gateway.proxy, "db"))
            programs.append(forward)
        with (
            bounded(*programs),
            Raw(forward.address if way == "forward" else gateway.address("db")) as downstream,
        ):
            downstream.send(b"go")
            assert hash_of(downstream.socket) == bulk.hash
            for block in bulk:
                downstream.socket.sendall(block)
            downstream.end()
            until(lambda: heard, "the service has heard everything")
    assert heard == [bulk.hash]


def test_what_a_downstream_does_not_read_stays_with_the_service() -> None:
    stuck: list[int] = []

    def pour(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (BLOCK * GIBIBYTE))
        stuck.append(push(exchange.socket))

    with Site(pour) as site, bounded(site.gateway, site.agent), site.connect() as downstream:
        downstream.send(b"GET / HTTP/1.1\r\nHost: web.example.com\r\n\r\n")
        downstream.until(b"\r\n\r\n")
        until(lambda: stuck, "the service can send no more")
    assert stuck[0] < 128


def test_what_a_service_does_not_read_stays_with_the_downstream() -> None:
    done = threading.Event()

    def wait(exchange: Exchange) -> None:
        done.wait(20)

    with Site(wait) as site, bounded(site.gateway, site.agent), site.connect() as downstream:
        length = b"Content-Length: %d" % (BLOCK * GIBIBYTE)
        downstream.send(b"PUT / HTTP/1.1\r\nHost: web.example.com\r\n" + length + b"\r\n\r\n")
        blocks = push(downstream.socket)
        done.set()
    assert blocks < 128


def push(connection: socket.socket) -> int:
    """Sends blocks until nothing has moved for two seconds; how many went."""
    block = b"x" * BLOCK
    connection.settimeout(2)
    for number in range(GIBIBYTE):
        try:
            connection.sendall(block)
        except TimeoutError:
            return number
    return GIBIBYTE
