"""The sample service and the requests of the demonstration agree with one another, with nothing in between."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidegate.demo.programs import DemoError, Program, Programs
from tidegate.demo.walk import steps, take


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    programs = Programs(tmp_path)
    service = Program("sample service", ["tidegate.demo.service"], tmp_path)
    programs.running["sample service"] = service
    try:
        programs.proxy = service.address(listener="web")
        programs.forward = programs.db = service.address(listener="lines")
        programs.lines = programs.db
        programs.udp = service.address(listener="words")
        programs.out = service.address(listener="web")
        programs.secure = service.address(listener="sealed")
        yield programs
    finally:
        assert programs.stop() == []


def test_every_request_is_answered_by_the_sample_service(programs: Programs) -> None:
    results = [take(step) for step in steps(programs)]
    *results, connect = results
    assert len(results) == 12
    # Without a gateway nobody serves CONNECT, and there is one certificate, not that of the two that a gateway ends.
    assert "got http/1.1 " in connect.said
    others = results[7:9]
    assert [(result.step.name, result.said) for result in results if not result.ok and result not in others] == []
    assert all("hostname mismatch" in result.said for result in others)


def test_what_does_not_answer_is_told_and_does_not_stop_the_walk(programs: Programs) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        programs.proxy = free.getsockname()
    results = [take(step) for step in steps(programs)]
    assert [result.ok for result in results] == [False] * 5 + [True] * 2 + [False] * 2 + [True, False, True, False]
    assert all("refused" in result.said for result in results[:5])


def test_a_program_that_ends_at_once_is_named_with_its_last_words(tmp_path: Path) -> None:
    program = Program("nonsense", ["tidegate.no_such_module"], tmp_path)
    with pytest.raises(DemoError, match="the nonsense ended at once, with exit code 1"):
        program.wait_for("listening")
    assert any("no_such_module" in line for line in program.tail())
    assert program.stop() == "the nonsense had ended before, with exit code 1"
