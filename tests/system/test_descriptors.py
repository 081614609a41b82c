"""A gateway whose descriptors run out: what it says, how often, and that it comes back."""

from __future__ import annotations

import os
import resource
import socket
import time
from pathlib import Path

from tests.support.http import request
from tests.support.process import until
from tests.support.tidegate import Gateway


def cpu_seconds(gateway: Gateway) -> float:
    """How long its main thread, which runs Python, has computed."""
    fields = Path(f"/proc/{gateway.pid}/task/{gateway.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_role_takes_all_descriptors_it_may_have() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Gateway() as gateway:
        assert resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE) == (hard, hard)


def test_an_admin_listener_without_descriptors_says_so_once_and_comes_back() -> None:
    with Gateway() as gateway:
        host, _, port = gateway.admin.rpartition(":")
        soft, hard = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (1, hard))
        with socket.create_connection((host, int(port))):
            told = gateway.event("accepting rests", listener="admin")
            begun, computed = time.monotonic(), cpu_seconds(gateway)
            # It tries again every second.
            until(lambda: time.monotonic() - begun > 2.5, "some rounds are over")
            computed = cpu_seconds(gateway) - computed
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (soft, hard))
        assert request(gateway.admin, "/health").status == 200

        assert told["error"] == "too many open files"
        assert len(gateway.seen("accepting rests", listener="admin")) == 1
        assert len(gateway.log.splitlines()) < 20
        assert computed < 0.5
