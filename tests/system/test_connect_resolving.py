"""CONNECT to a name whose resolver answers otherwise each time: what was judged is dialled, and nothing else."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.namespace import Namespace
from tests.support.raw import Raw
from tests.support.service import TcpService
from tests.support.tidegate import Tidegate
from tests.support.tools import need, run
from tests.system.connecting import THROUGH, Untouched, asked

OPEN = "192.0.2.10"
PORT = 8443


class Resolver:
    """A DNS server for every name: each question for IPv4 gets the next address, those for IPv6 get none."""

    def __init__(self, answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 53))
        self.asked = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                question, client = self._socket.recvfrom(512)
            except OSError:
                return
            end = question.index(0, 12) + 5
            kind = struct.unpack("!H", question[end - 4 : end - 2])[0]
            answer = b""
            if kind == 1:
                address = self._answers[min(self.asked, len(self._answers) - 1)]
                self.asked += 1
                answer = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 0, 4) + socket.inet_aton(address)
            head = question[:2] + struct.pack("!HHHHH", 0x8180, 1, bool(answer), 0, 0)
            self._socket.sendto(head + question[12:end] + answer, client)

    def close(self) -> None:
        """Answers nothing any more."""
        self._socket.close()


@pytest.fixture
def network() -> Iterator[Namespace]:
    """A network whose resolver is on 127.0.0.1 and which has the address that is open."""
    with Namespace() as network:
        (Path("/etc/netns") / network.name / "resolv.conf").write_text("nameserver 127.0.0.1\noptions attempts:1\n")
        run(need("ip"), "-n", network.name, "address", "add", f"{OPEN}/32", "dev", "lo")
        yield network


def test_case_39_a_name_that_leads_elsewhere_the_second_time_brings_nobody_there(
    network: Namespace, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        with network.inside():
            resolver = Resolver([OPEN, "127.0.0.1"])
            secret = Untouched("127.0.0.1", PORT)
            service = stack.enter_context(TcpService(lambda connection: connection.sendall(b"open"), OPEN, PORT))
        stack.callback(resolver.close)
        stack.callback(secret.close)
        under = network.command([])
        listeners = "listeners: {dc1: {bind: '127.0.0.1:0', kind: tcp, to: {endpoint: dc1}}, "
        file = tmp_path / "tidegate.yaml"
        file.write_text(listeners + "agents: {bind: '127.0.0.1:0', kind: tunnel}}\nadmin: {bind: '127.0.0.1:0'}\n")
        gateway = stack.enter_context(Tidegate("gateway", "--config", file, under=under))
        agents = gateway.ready("listening", listener="agents")["address"]
        address = str(gateway.ready("listening", listener="dc1")["address"])
        options = ("--allow", f"0.0.0.0/0:{PORT}", "--connections", "1", "--connect", f"http://{agents}")
        agent = stack.enter_context(Tidegate("agent", "connect", "dc1", *options, under=under))
        agent.ready("connected")
        gateway.event("agent connected", endpoint="dc1")

        with network.inside(), Raw(address) as client:
            client.send(asked(f"rebinds.example:{PORT}"))
            assert client.rest() == THROUGH + b"open"
        assert (resolver.asked, service.connections, secret.is_untouched) == (1, 1, True), "looked up once"
        with network.inside(), Raw(address) as client:
            client.send(asked(f"rebinds.example:{PORT}"))
            assert client.answer().field("x-tidegate-error") == "target_denied"
        assert (resolver.asked, service.connections, secret.is_untouched) == (2, 1, True)
