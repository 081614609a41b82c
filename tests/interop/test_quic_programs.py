"""The Go server and the Go agent of quic-reverse-http-tunnel with each other, which the other tests build on."""

from __future__ import annotations

from pathlib import Path

from tests.interop.programs import QuicAgent, QuicServer, Service, all_come_back
from tests.support.certificates import Authority
from tests.support.http import request


def test_the_programs_reach_each_other_in_both_modes(tmp_path: Path, service: Service) -> None:
    authority = Authority(tmp_path)
    with QuicServer(authority) as server:
        with QuicAgent(server.quic, authority, "--upstream", service.http):
            server.until_offered()
            assert request(server.tcp).status == 200
            all_come_back("--http", f"http://{server.tcp}", "--count", "50")
        server.event("agent disconnected")
        with QuicAgent(server.quic, authority):
            server.until_offered(agents=2)
            assert server.end("close") == 1
            server.until_offered(agents=3)
