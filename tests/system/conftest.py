"""What the tests of a file share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.site import Site


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """An endpoint `web` whose service answers with what it got; tests tell their requests apart by the path."""
    with Site() as running:
        yield running
