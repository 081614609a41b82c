"""What the interop tests start from: a local service, and a tidegate gateway or a Piko-shaped server before it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.programs import PikoServer, Service
from tests.support.predecessors import QuicTunnel
from tests.support.tidegate import Gateway


@pytest.fixture
def service() -> Iterator[Service]:
    """What an agent offers."""
    with Service() as service:
        yield service


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """A tidegate gateway."""
    with Gateway() as gateway:
        yield gateway


@pytest.fixture
def server() -> Iterator[PikoServer]:
    """A Piko-shaped server."""
    with PikoServer() as server:
        yield server


@pytest.fixture
def tunnel(tmp_path: Path) -> QuicTunnel:
    """The certificates of both sides of quic-reverse-http-tunnel."""
    return QuicTunnel(tmp_path)
