"""Shows what the programs of a failed test have said."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from tests.support import process

SHOWN = 200
"""Lines of each log; the end is where the reason stands."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds the logs to the report of the phase that failed."""
    report = yield
    if report.failed:
        for program in process.started:
            lines = program.log.splitlines()
            report.sections.append((f"log of {program.name} (pid {program.pid})", "\n".join(lines[-SHOWN:])))
    return report


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Lets nothing outlive the session: what still runs when all fixtures are gone was forgotten by a test."""
    yield
    if nextitem is None:
        for program in process.started:
            program.kill()


@pytest.fixture(autouse=True)
def _forget_programs_that_ended() -> None:
    process.started[:] = [program for program in process.started if program.running]
