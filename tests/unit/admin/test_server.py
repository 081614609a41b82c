"""The admin listener's sockets: bound early, served in the role's loop, silent about signals."""

import asyncio
import errno
import signal
import socket
from contextlib import closing, suppress
from typing import Any

import httpx
import pytest

from tests.unit.admin.fixed_role import FixedRole
from tidegate.admin import server as server_module
from tidegate.admin.server import Server
from tidegate.control.state import Admin, State
from tidegate.errors import ConfigError, ListenError


def test_it_answers_on_the_port_it_names_and_gives_it_back() -> None:
    async def scene() -> None:
        server = Server(Admin("127.0.0.1:0"))
        (address,) = server.addresses
        async with server.serve(State(FixedRole(), "gateway")), httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"http://{address}/ready")
            assert answer.status_code == 200
            assert "server" not in answer.headers
        host, port = address.split(":")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(host, int(port))

    asyncio.run(scene())


def answered(sent: bytes) -> bytes:
    """What comes back on one connection until it is ended."""

    async def scene() -> bytes:
        server = Server(Admin("127.0.0.1:0"))
        async with server.serve(State(FixedRole(), "gateway")):
            host, port = server.addresses[0].split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(sent)
            answer = b""
            with suppress(ConnectionResetError):
                answer = await asyncio.wait_for(reader.read(), 10)
            writer.close()
            return answer

    return asyncio.run(scene())


def test_a_connection_that_asks_nothing_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "CONNECTION_SECONDS", 0.01)
    assert answered(b"GET /health HTTP/1.1\r\n") == b""


def test_a_connection_serves_one_request() -> None:
    answer = answered(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nok\n")


def test_it_leaves_signals_alone() -> None:
    async def scene() -> None:
        before = signal.getsignal(signal.SIGTERM)
        server = Server(Admin("127.0.0.1:0"))
        async with server.serve(State(FixedRole(), "gateway")), httpx.AsyncClient(trust_env=False) as client:
            await client.get(f"http://{server.addresses[0]}/health")
            assert signal.getsignal(signal.SIGTERM) == before

    asyncio.run(scene())


def test_a_failure_of_the_role_ends_the_server_too() -> None:
    async def scene() -> None:
        with closing(Server(Admin("127.0.0.1:0"))) as server:
            async with server.serve(State(FixedRole(), "gateway")):
                raise RuntimeError("the role's own")

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(scene())
    assert caught.group_contains(RuntimeError, match="the role's own")


def test_a_port_in_use_is_told_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ListenError, match=address):
            Server(Admin(address))


@pytest.mark.parametrize("address", ["8003", "::1:8003", "localhost:", "localhost:99999", "localhost:http"])
def test_what_is_no_address_is_a_mistake_in_the_configuration(address: str) -> None:
    with pytest.raises(ConfigError, match="admin"):
        Server(Admin(address))


def test_an_empty_host_means_every_interface() -> None:
    server = Server(Admin(":0"))
    host, port = server.addresses[0].rsplit(":", 1)
    assert host in ("[::]", "0.0.0.0")
    socket.create_connection(("127.0.0.1", int(port))).close()
    server.close()


def test_a_name_takes_every_address_it_stands_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Server(Admin(f"localhost:{port}"))
    assert f"127.0.0.1:{port}" in server.addresses
    server.close()


def test_without_descriptors_it_fails_once_a_round_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(_: socket.socket) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    async def scene() -> None:
        problems: list[dict[str, Any]] = []
        failed = asyncio.Event()

        def handle(_: asyncio.AbstractEventLoop, problem: dict[str, Any]) -> None:
            problems.append(problem)
            failed.set()

        asyncio.get_running_loop().set_exception_handler(handle)
        server = Server(Admin("127.0.0.1:0"))
        async with server.serve(State(FixedRole(), "gateway")):
            host, port = server.addresses[0].split(":")
            with monkeypatch.context() as patch:
                patch.setattr(socket.socket, "accept", exhausted)
                reader, writer = await asyncio.open_connection(host, int(port))
                await asyncio.wait_for(failed.wait(), 10)
            writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = await asyncio.wait_for(reader.read(), 10)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            writer.close()
        assert len(problems) == 1

    asyncio.run(scene())
