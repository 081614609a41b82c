"""gRPC by `grpcio`, end to end: to an address, with TLS on both sides, and through a tunnel."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.certificates import Authority
from tests.support.process import DEADLINE, until
from tests.support.tidegate import Agent, Gateway

OPTIONS = (("grpc.enable_http_proxy", 0),)
NAME = "web.example.com"
WAYS = ("address", "tls", "tunnel")


class Greeter:
    """A service of generic handlers: bytes in, bytes out."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.cancelled = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(16), options=OPTIONS)
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "Unary": grpc.unary_unary_rpc_method_handler(self._unary),
            "Down": grpc.unary_stream_rpc_method_handler(self._down),
            "Up": grpc.stream_unary_rpc_method_handler(self._up),
            "Both": grpc.stream_stream_rpc_method_handler(self._both),
            "Fail": grpc.unary_unary_rpc_method_handler(self._fail),
            "Wait": grpc.unary_stream_rpc_method_handler(self._wait),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Greeter", handlers),))
        address = "127.0.0.1:0"
        add = self._server.add_insecure_port
        port = add(address) if credentials is None else self._server.add_secure_port(address, credentials)
        self.address = f"127.0.0.1:{port}"
        self._server.start()

    def close(self) -> None:
        """Stops at once."""
        self._server.stop(None)

    def _unary(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata((("x-length", str(len(request))), ("x-bytes-bin", b"\x00\xff")))
        return b"hello " + request

    def _down(self, request: bytes, _: grpc.ServicerContext) -> Iterator[bytes]:
        for number in range(int(request)):
            yield str(number).encode()

    def _up(self, requests: Iterator[bytes], _: grpc.ServicerContext) -> bytes:
        return b",".join(requests)

    def _both(self, requests: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
        for request in requests:
            yield b"re: " + request

    def _fail(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, request.decode())

    def _wait(self, _: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        context.add_callback(self.cancelled.set)
        yield b"waiting"
        self.cancelled.wait(DEADLINE)


class Way:
    """A channel to the service, by one of the ways there are."""

    def __init__(self, greeter: Greeter | None, gateway: Gateway, authority: Authority | None = None) -> None:
        self.cancelled = greeter.cancelled if greeter else threading.Event()
        if authority is None:
            options = (*OPTIONS, ("grpc.default_authority", NAME))
            self.channel = grpc.insecure_channel(gateway.proxy, options=options)
        else:
            credentials = grpc.ssl_channel_credentials(authority.ca.read_bytes())
            options = (*OPTIONS, ("grpc.ssl_target_name_override", NAME))
            self.channel = grpc.secure_channel(gateway.proxy, credentials, options=options)

    def unary(self, method: str = "Unary") -> Callable[..., Any]:
        """A call of one request and one answer."""
        call: Callable[..., Any] = self.channel.unary_unary(f"/test.Greeter/{method}")
        return call

    def down(self, method: str = "Down") -> Callable[..., Any]:
        """A call of one request and many answers."""
        call: Callable[..., Any] = self.channel.unary_stream(f"/test.Greeter/{method}")
        return call

    def up(self) -> Callable[..., Any]:
        """A call of many requests and one answer."""
        call: Callable[..., Any] = self.channel.stream_unary("/test.Greeter/Up")
        return call

    def both(self) -> Callable[..., Any]:
        """A call of many requests and many answers."""
        call: Callable[..., Any] = self.channel.stream_stream("/test.Greeter/Both")
        return call


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    """Every way to the service, one after the other."""
    with contextlib.ExitStack() as stack:
        folder = tmp_path_factory.mktemp("grpc")
        way = _way(stack, request.param, folder)
        stack.callback(way.channel.close)
        yield way


def _way(stack: contextlib.ExitStack, kind: str, folder: Path) -> Way:
    if kind == "tls":
        return _tls(stack, Authority(folder))
    greeter = Greeter()
    stack.callback(greeter.close)
    if kind == "address":
        config = {"routes": [{"host": NAME, "to": {"addresses": [f"h2c://{greeter.address}"]}}]}
        return Way(greeter, stack.enter_context(Gateway(config)))
    gateway = stack.enter_context(Gateway())
    options = ("--upstream-protocol", "h2c")
    stack.enter_context(Agent(gateway.agents, "http", "web", greeter.address, *options))
    gateway.until_offered("web")
    return Way(greeter, gateway)


def _tls(stack: contextlib.ExitStack, authority: Authority) -> Way:
    cert, key = authority.issue("grpc", f"DNS:{NAME}", "IP:127.0.0.1")
    greeter = Greeter(grpc.ssl_server_credentials([(key.read_bytes(), cert.read_bytes())]))
    stack.callback(greeter.close)
    listener = {"bind": "127.0.0.1:0", "tls": {"certificates": [{"cert": str(cert), "key": str(key)}]}}
    to = {"addresses": [f"h2://{greeter.address}"], "tls": {"ca": str(authority.ca)}}
    gateway = Gateway({"listeners": {"proxy": listener}, "routes": [{"host": NAME, "to": to}]})
    return Way(greeter, stack.enter_context(gateway), authority)


def test_one_request_and_one_answer_with_trailers(way: Way) -> None:
    unary: Any = way.unary()

    answer, call = unary.with_call(b"you", timeout=DEADLINE)

    assert answer == b"hello you"
    assert dict(call.trailing_metadata()) == {"x-length": "3", "x-bytes-bin": b"\x00\xff"}


def test_a_message_of_many_frames(way: Way) -> None:
    assert len(way.unary()(b"x" * 3_000_000, timeout=DEADLINE)) == 3_000_006


def test_many_answers_to_one_request(way: Way) -> None:
    assert list(way.down()(b"500", timeout=DEADLINE)) == [str(number).encode() for number in range(500)]


def test_many_requests_and_one_answer(way: Way) -> None:
    assert way.up()(iter([b"a", b"b", b"c"]), timeout=DEADLINE) == b"a,b,c"


def test_requests_and_answers_in_turn(way: Way) -> None:
    turn = threading.Semaphore(1)

    def requests() -> Iterator[bytes]:
        for number in range(20):
            assert turn.acquire(timeout=DEADLINE)
            yield str(number).encode()

    answers = []
    for answer in way.both()(requests(), timeout=DEADLINE):
        answers.append(answer)
        turn.release()

    assert answers == [b"re: " + str(number).encode() for number in range(20)]


def test_an_error_of_the_service_arrives_whole(way: Way) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        way.unary("Fail")(b"not yet", timeout=DEADLINE)

    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "not yet")


def test_an_unknown_method_is_told_by_the_service(way: Way) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        way.unary("Nothing")(b"", timeout=DEADLINE)

    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("how", ["deadline", "cancel"])
def test_a_call_that_is_given_up_ends_at_the_service(way: Way, how: str) -> None:
    way.cancelled.clear()
    call = way.down("Wait")(b"", timeout=0.5 if how == "deadline" else DEADLINE)
    assert next(call) == b"waiting"

    if how == "cancel":
        call.cancel()
    expected = grpc.StatusCode.CANCELLED if how == "cancel" else grpc.StatusCode.DEADLINE_EXCEEDED
    with pytest.raises(grpc.RpcError):
        next(call)

    assert call.code() == expected
    until(way.cancelled.is_set, "the service learns of it")


def test_a_service_that_is_not_there_is_unavailable() -> None:
    with Gateway() as gateway:
        nobody = Way(None, gateway)
        with nobody.channel, pytest.raises(grpc.RpcError) as caught:
            nobody.unary()(b"", timeout=DEADLINE)

    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
