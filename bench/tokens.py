"""
Tokens: how soon a request with a new one is answered, and what requests with a known one see of a flood of forged ones.

What the step of a known token costs is a case like others: `cases`.
"""

import base64
import multiprocessing
import os
import socket
import time
from multiprocessing.synchronize import Event

import jwt
import latency
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from gates import asking
from programs import BenchError, Ground, Tools

NEW_RATE = 200
"""New tokens a second."""
FORGERS = 4
"""Connections that show forged tokens, each with one request at a time."""


def new_p99_ms(tools: Tools, cpus: str, seconds: float) -> float:
    """The 99th percentile of requests that each show a token of ES256 that nobody has shown before."""
    with Ground(tools, cpus) as ground:
        address, key = _gateway(ground)
        seen = latency.measure(address, NEW_RATE, seconds, _shown(key, round(NEW_RATE * seconds)))
    if seen.errors:
        raise BenchError(seen.errors)
    return seen.p99 / 1000


def flood_ratio(tools: Tools, cpus: str, rate: int, seconds: float) -> float:
    """The 99th percentile of requests with a known token during a flood of forged ones, in terms of that without."""
    with Ground(tools, cpus) as ground:
        address, key = _gateway(ground)
        known = _shown(key, 1)
        # Who makes up a signature has a new token for nothing.
        unsigned = known[0].rpartition(b".")[0]
        latency.measure(address, rate, 1, known)
        alone = latency.measure(address, rate, seconds, known)
        spawning = multiprocessing.get_context("spawn")
        begun, over = spawning.Event(), spawning.Event()
        forger = spawning.Process(target=_forge, args=(address, unsigned, begun, over), daemon=True)
        forger.start()
        try:
            if not begun.wait(10):
                raise BenchError("nobody forges tokens")
            flooded = latency.measure(address, rate, seconds, known)
        finally:
            over.set()
            forger.join()
    return latency.p99_ratio(flooded, alone)


def _gateway(ground: Ground) -> tuple[str, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    address, _ = asking(ground, {"public_key": {"file": ground.write("issuer.pem", pem)}})
    return address, key


def _shown(key: ec.EllipticCurvePrivateKey, count: int) -> list[bytes]:
    expires = int(time.time()) + 3600
    claims = [{"exp": expires, "jti": str(number), "tidegate": {"endpoints": ["*"]}} for number in range(count)]
    return [f"Authorization: Bearer {jwt.encode(each, key, 'ES256')}\r\n".encode() for each in claims]


def _forge(address: str, unsigned: bytes, begun: Event, over: Event) -> None:
    """Shows forged tokens as fast as they are refused. Runs in a process of its own."""
    host, _, port = address.rpartition(":")
    connections: list[socket.socket | None] = [None] * FORGERS
    while not over.is_set():
        for at, kept in enumerate(connections):
            signature = base64.urlsafe_b64encode(os.urandom(64)).rstrip(b"=")
            try:
                connection = kept or socket.create_connection((host, int(port)), timeout=5)
                connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n" + unsigned + b"." + signature + b"\r\n\r\n")
                connections[at] = connection if connection.recv(4096) else None
            except OSError:
                connections[at] = None
        begun.set()
