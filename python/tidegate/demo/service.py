"""
The sample service of the demonstration: HTTP, WebSocket, server-sent events, an upload, TCP, UDP, and HTTP with its own
TLS.

Run as `python -m tidegate.demo.service`. Picks free loopback ports and names each by a JSON line on stderr, as the
other programs do. Knows nothing of gateways.
"""

import asyncio
import hashlib
import json
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from tidegate.demo.certificates import serving

__all__ = ["EVENTS", "EVENT_SECONDS", "GREETING", "main"]

EVENTS = 5
"""Events that /events sends before it ends."""
EVENT_SECONDS = 0.1
"""The time between two of them."""
GREETING = b"tidegate demo, say something\n"
"""What the TCP service says before it is asked."""


async def hello(request: Request) -> Response:
    """Greets, and says by which name it was asked."""
    return PlainTextResponse(f"hello from the sample service, you asked for {request.headers.get('host', 'nobody')}\n")


async def events(_: Request) -> Response:
    """Sends events one by one, each when its time has come."""

    async def one_by_one() -> AsyncIterator[str]:
        for number in range(1, EVENTS + 1):
            yield f"data: event {number}\n\n"
            await asyncio.sleep(EVENT_SECONDS)

    return StreamingResponse(one_by_one(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def upload(request: Request) -> Response:
    """Hashes a body while it arrives."""
    digest, size = hashlib.sha256(), 0
    try:
        async for block in request.stream():
            digest.update(block)
            size += len(block)
    except ClientDisconnect:
        return Response(status_code=400)
    return JSONResponse({"bytes": size, "sha256": digest.hexdigest()})


async def echo(websocket: WebSocket) -> None:
    """Sends every message back."""
    await websocket.accept()
    try:
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if message.get("text") is not None:
                await websocket.send_text(message["text"])
            else:
                await websocket.send_bytes(message["bytes"])
    except WebSocketDisconnect:
        return


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Speaks first, gives every line back in capitals, and says goodbye after the other side's last byte."""
    received = 0
    try:
        writer.write(GREETING)
        while line := await reader.readline():
            received += len(line)
            writer.write(line.upper())
            await writer.drain()
        writer.write(f"bye after {received} bytes\n".encode())
        await writer.drain()
    except (OSError, ValueError):
        pass  # the other side is gone, or its line was too long
    finally:
        writer.close()


class Words(asyncio.DatagramProtocol):
    """Gives every datagram back in capitals."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps what is answered by."""
        # Not of that class in every version of Python, but always of that shape.
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answers."""
        self._transport.sendto(data.upper(), addr)


async def sealed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Greets over TLS that nobody on the way has ended."""
    try:
        await reader.readuntil(b"\r\n\r\n")
        body = b"hello from the sample service, sealed\n"
        head = (
            f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass  # the other side is gone, or never asked
    finally:
        writer.close()


def _app() -> Starlette:
    return Starlette(
        routes=[
            Route("/", hello),
            Route("/events", events),
            Route("/upload", upload, methods=["PUT", "POST"]),
            WebSocketRoute("/echo", echo),
        ]
    )


def _announce(name: str, address: tuple[str, int]) -> None:
    event = {"event": "listening", "level": "info", "listener": name, "address": f"{address[0]}:{address[1]}"}
    sys.stderr.write(json.dumps(event) + "\n")
    sys.stderr.flush()


async def _serve() -> None:
    config = uvicorn.Config(
        _app(),
        lifespan="off",
        ws="websockets-sansio",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    # Named by its protocol, or asyncio leaves TCP_NODELAY out and every answer of two parts waits 40 ms for an ACK.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as web:
        web.bind(("127.0.0.1", 0))
        web.listen()
        lines = await asyncio.start_server(talk, "127.0.0.1", 0)
        with tempfile.TemporaryDirectory(prefix="tidegate-demo-") as folder:
            secret = await asyncio.start_server(sealed, "127.0.0.1", 0, ssl=serving(Path(folder)))
        words, _ = await asyncio.get_running_loop().create_datagram_endpoint(Words, ("127.0.0.1", 0))
        _announce("words", words.get_extra_info("sockname"))
        _announce("lines", lines.sockets[0].getsockname())
        _announce("sealed", secret.sockets[0].getsockname())
        _announce("web", web.getsockname())
        try:
            await server.serve(sockets=[web])
        finally:
            words.close()
            lines.close()
            secret.close()


def main() -> None:
    """Serves until SIGTERM or SIGINT."""
    # uvicorn repeats the signal that ended it; to be asked to end is no failure here.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    asyncio.run(_serve())


if __name__ == "__main__":
    main()
