"""What the tests of a file share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.certificates import Authority
from tests.support.service import Service
from tests.system.site import Site


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """An endpoint `web` whose service answers with what it got; tests tell their requests apart by the path."""
    with Site() as running:
        yield running


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """A local service, or an upstream."""
    with Service() as running:
        yield running


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that no system trusts, who signs servers and clients."""
    return Authority(tmp_path_factory.mktemp("authority"))
