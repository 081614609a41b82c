"""How events are written, for people and for programs."""

import errno
import fcntl
import io
import json
import logging
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tidegate.control import logs
from tidegate.control.logs import Bridge, Log, escape
from tidegate.control.state import LogOptions

MOMENT = 1_700_000_000.25


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_one_json_object_a_line() -> None:
    stream = io.StringIO()
    Log(LogOptions(), stream).event({"event": "agent connected", "level": "info", "time": MOMENT, "endpoint": "web"})
    assert json.loads(stream.getvalue()) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "info",
        "event": "agent connected",
        "endpoint": "web",
    }
    assert stream.getvalue().count("\n") == 1


def test_a_terminal_gets_a_line_to_read() -> None:
    stream = Terminal()
    event = {
        "event": "agent connected",
        "level": "info",
        "time": MOMENT,
        "endpoint": "web",
        "rtt": 0.12345,
        "new": True,
    }
    Log(LogOptions(), stream).event(event)
    assert re.fullmatch(r"\d\d:\d\d:\d\d agent connected endpoint=web rtt=0.123 new=true\n", stream.getvalue())


def test_warnings_are_marked_and_coloured_on_a_terminal_only() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        Log(LogOptions(format="text"), stream).say("warn", "tunnel lost", reason="gone away")
    assert "\x1b[33mwarning: tunnel lost" in terminal.getvalue()
    assert 'warning: tunnel lost reason="gone away"\n' in pipe.getvalue()
    assert "\x1b" not in pipe.getvalue()


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize(
    "bad", ["\x1b[31mred", "two\nlines", "back\rspace", "nul\0", "del\x7f", "csi\x9b1m", "\u202egnp"]
)
def test_nothing_of_a_peer_controls_the_terminal(format: str, bad: str) -> None:
    stream = io.StringIO()
    Log(LogOptions(format=format), stream).event(
        {"event": bad, "level": "info", "time": MOMENT, "agent": bad, bad: "x"}
    )
    assert stream.getvalue().endswith("\n")
    assert stream.getvalue()[:-1].isprintable()


def test_any_thread_may_write_while_another_waits_for_the_reader() -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    threads, each = 8, 50
    with os.fdopen(reading, "rb") as reader, ThreadPoolExecutor(threads + 1) as pool, os.fdopen(writing, "w") as stream:
        read = pool.submit(reader.read)
        log = Log(LogOptions(format="json"), stream)

        def write(number: int) -> None:
            for position in range(each):
                log.say("info", "written", writer=number, position=position, long="x" * 100)

        written = [pool.submit(write, number) for number in range(threads)]
        for one in written:
            one.result()
        stream.close()
        lines = [json.loads(line) for line in read.result().splitlines()]
    assert {line["event"] for line in lines} == {"written"}
    for number in range(threads):
        assert [line["position"] for line in lines if line["writer"] == number] == list(range(each))


def test_a_lone_surrogate_is_written() -> None:
    assert escape("a\ud800b") == "a\\ud800b"


@pytest.mark.parametrize("format", ["text", "json"])
def test_secrets_are_never_written(format: str) -> None:
    stream = io.StringIO()
    Log(LogOptions(format=format), stream).say(
        "info",
        "connecting",
        token="hunter2",
        authorization="hunter2",
        proxy="http://me:hunter2@proxy:3128",
        reason="sent Bearer hunter2",
        more={"client_secret": "hunter2", "list": ["basic hunter2"]},
    )
    assert "hunter2" not in stream.getvalue()
    assert "http://***@proxy:3128" in stream.getvalue()


def test_a_sentence_replaces_the_fields_for_people_only() -> None:
    people, programs = io.StringIO(), io.StringIO()
    Log(LogOptions(format="text"), people).say("info", "connected", "here -> there", slot=1)
    Log(LogOptions(format="json"), programs).say("info", "connected", "here -> there", slot=1)
    assert people.getvalue().endswith(" here -> there\n")
    assert json.loads(programs.getvalue())["slot"] == 1


def test_less_important_events_are_left_out() -> None:
    stream = io.StringIO()
    log = Log(LogOptions(level="warn"), stream)
    log.say("info", "quiet")
    log.say("error", "loud")
    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()


def test_a_trace_is_for_those_who_ask_for_it() -> None:
    shown = {}
    for level in ("trace", "debug", "info"):
        stream = io.StringIO()
        Log(LogOptions(level=level), stream).say("trace", "detail")
        shown[level] = "detail" in stream.getvalue()
    assert shown == {"trace": True, "debug": False, "info": False}


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_reader_that_is_stuck_holds_nobody_up_and_hears_what_it_missed(
    format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidegate.control.logs.READER_MILLISECONDS", 1)
    reader, writer = os.pipe()
    with open(reader, encoding="ascii") as read, open(writer, "w", encoding="ascii") as stream:
        log = Log(LogOptions(format=format), stream)
        written = fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ) // 100
        for _ in range(written):
            log.say("info", "noise", filler="x" * 100)
        os.set_blocking(reader, False)
        told = len(read.read().splitlines())
        log.say("info", "heard again")
        missed, last = read.read().splitlines()
    assert 0 < told < written
    assert "events dropped" in missed
    assert str(written - told) in missed
    assert "heard again" in last


def test_a_closed_stream_is_no_reason_to_fail() -> None:
    stream = io.StringIO()
    log = Log(LogOptions(), stream)
    stream.close()
    log.say("info", "unheard")


def test_what_libraries_log_becomes_an_event() -> None:
    stream = io.StringIO()
    logger = logging.Logger("uvicorn.error")
    logger.addHandler(Bridge(Log(LogOptions(), stream)))
    try:
        raise ValueError("broken")
    except ValueError:
        logger.exception("Exception in %s", "ASGI application")
    written = json.loads(stream.getvalue())
    assert written["event"] == "Exception in ASGI application"
    assert written["level"] == "error"
    assert written["error"] == "ValueError('broken')"


def test_what_libraries_repeat_is_written_once_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stream = io.StringIO()
    logger = logging.Logger("uvicorn.error")
    logger.addHandler(Bridge(Log(LogOptions(), stream)))
    for _ in range(1000):
        logger.warning("no room")
    logger.warning("another thing")
    now += logs.REPEAT_SECONDS
    logger.warning("no room")
    written = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(each["event"], each.get("left_out")) for each in written] == [
        ("no room", None), ("another thing", None), ("no room", 999),
    ]  # fmt: skip


def test_an_admin_listener_without_descriptors_is_told_in_our_words() -> None:
    for form in ("text", "json"):
        stream = io.StringIO()
        logger = logging.Logger("asyncio")
        logger.addHandler(Bridge(Log(LogOptions(format=form), stream)))
        for _ in range(3):
            problem = OSError(errno.EMFILE, "Too many open files")
            logger.error("socket.accept() out of system resource\nsocket: <3>", exc_info=problem)
        assert stream.getvalue().count("\n") == 1
        if form == "text":
            assert "warning: the admin listener cannot accept: too many open files\n" in stream.getvalue()
        else:
            written = json.loads(stream.getvalue())
            assert (written["event"], written["listener"], written["error"]) == (
                "accepting rests", "admin", "too many open files",
            )  # fmt: skip
