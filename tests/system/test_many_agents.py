"""A thousand agents that come at once, each with a token that nobody has shown before."""

from __future__ import annotations

import multiprocessing
import socket
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

from tests.support.http import request
from tests.support.issuer import Issuer, bearer
from tests.support.process import until
from tests.support.raw import at
from tests.support.service import Service
from tests.support.tidegate import Agent, Gateway
from tests.system.guarded import LOCAL, UPGRADE

AGENTS = 1000
PROCESSES = 4
SECONDS = 30


def dial(agents: str, tokens: Sequence[str], start: Barrier, over: Event) -> None:
    """Opens a session with each token, of an endpoint of its own, and holds them; a 503 is tried again."""
    start.wait(SECONDS)
    held = []
    for number, token in enumerate(tokens):
        fields = {"Host": agents, **UPGRADE, "Authorization": f"Bearer {token}"}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        while True:
            connection = socket.create_connection(at(agents), timeout=SECONDS)
            connection.sendall(f"GET /piko/v1/upstream/mine-{number} HTTP/1.1\r\n{head}\r\n".encode())
            answer = connection.recv(4096)
            if not answer.startswith(b"HTTP/1.1 503"):
                break
            connection.close()
        assert answer.startswith(b"HTTP/1.1 101"), answer
        held.append(connection)
    over.wait(SECONDS)
    for connection in held:
        connection.close()


def test_a_thousand_sessions_with_tokens_of_their_own_come_at_once_and_hold_up_nobody(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path, "ES256")
    auth = {"verifiers": [issuer.name]}
    listeners = {"agents": {"bind": LOCAL, "kind": "tunnel", "auth": auth}, "proxy": {"bind": LOCAL, "auth": auth}}
    spawning = multiprocessing.get_context("spawn")
    start, over = spawning.Barrier(PROCESSES + 1), spawning.Event()
    with (
        Gateway({"verifiers": {issuer.name: issuer.source}, "listeners": listeners}) as gateway,
        Service() as service,
        Agent(gateway.agents, "http", "web", service.address, "--token", issuer.token("web")),
    ):
        gateway.until_offered("web")
        known = bearer(issuer.token("web"))
        assert request(gateway.proxy, endpoint="web", headers=known).status == 200
        tokens = [issuer.token("mine-*", jti=str(number)) for number in range(AGENTS)]
        share = AGENTS // PROCESSES
        shares = [tokens[share * number : share * (number + 1)] for number in range(PROCESSES)]
        dialling = [spawning.Process(target=dial, args=(gateway.agents, each, start, over)) for each in shares]
        for process in dialling:
            process.start()
        try:
            start.wait(SECONDS)
            asked = 0
            while sum(len(each["listeners"]) for each in gateway.status()["endpoints"]) < AGENTS:
                assert request(gateway.proxy, endpoint="web", headers=known).status == 200
                asked += 1
                assert any(process.is_alive() for process in dialling)
            assert asked > 0
        finally:
            over.set()
            for process in dialling:
                process.join()
        assert [process.exitcode for process in dialling] == [0] * PROCESSES
        until(lambda: [each["name"] for each in gateway.status()["endpoints"]] == ["web"], "all have left")
        assert request(gateway.proxy, endpoint="web", headers=known).status == 200
