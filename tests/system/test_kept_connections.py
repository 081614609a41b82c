"""What becomes of requests when connections that are kept or shared end under them, and what a reload changes there."""

from __future__ import annotations

import socket

import h2.connection
import h2.events

from tests.support.http2 import Two, TwoService
from tests.support.raw import Raw
from tests.support.service import TcpService
from tests.support.tidegate import Gateway

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ASK = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def hello(connection: h2.connection.H2Connection, event: h2.events.Event) -> None:
    """Answers every request."""
    if isinstance(event, h2.events.RequestReceived):
        assert event.stream_id is not None
        connection.send_headers(event.stream_id, [(":status", "200"), ("content-length", "2")])
        connection.send_data(event.stream_id, b"ok", end_stream=True)


def test_a_kept_connection_that_has_ended_costs_no_retry() -> None:
    def once(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(ANSWER)
        connection.recv(65536)

    with TcpService(once) as service:
        config = {"limits": {"retry_percent": 0}, "routes": [{"to": {"addresses": [service.address]}}]}
        with Gateway(config, "--workers", "1") as gateway, Raw(gateway.proxy) as raw:
            for _ in range(5):
                raw.send(ASK)
                assert raw.answer().status == 200


def test_a_service_that_ends_each_connection_at_once_is_not_dialled_again_and_again() -> None:
    with TcpService(lambda connection: connection.close()) as service:
        config = {"limits": {"retry_percent": 0}, "routes": [{"to": {"addresses": [f"h2c://{service.address}"]}}]}
        with Gateway(config, "--workers", "1") as gateway, Raw(gateway.proxy) as raw:
            for _ in range(3):
                raw.send(ASK)
                assert raw.answer().status == 502
            assert service.connections <= 6


def test_an_upgrade_that_a_service_of_http2_cannot_make_is_left_out() -> None:
    with (
        TwoService(hello) as service,
        Gateway({"routes": [{"to": {"addresses": [f"h2c://{service.address}"]}}]}) as gateway,
        Raw(gateway.proxy) as raw,
    ):
        raw.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert raw.answer().status == 200


def test_requests_of_an_old_connection_of_http2_have_the_settings_of_now() -> None:
    with TwoService(hello) as service:
        routes = [{"to": {"addresses": [f"h2c://{service.address}"]}}]
        with Gateway({"routes": routes}, "--workers", "1") as gateway, Two(gateway.proxy) as two:
            fields = [(f"x-field-{n}", "1") for n in range(20)]
            assert two.get(*fields).status == 200
            gateway.write({"routes": routes, "limits": {"head_fields": 10}})
            assert gateway.reload().status == 200
            assert two.get(*fields).status == 431
