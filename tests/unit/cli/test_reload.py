"""`tidegate reload` against an admin listener."""

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.unit.cli.conftest import Answers
from tidegate.cli.reload import reload


def run(answers: Answers, url: str, code: int, **answer: Any) -> Result:
    answers["POST /reload"] = (code, json.dumps(answer).encode())
    return CliRunner().invoke(reload, ["--url", url])


def test_what_is_different_is_printed(answers: Answers, url: str) -> None:
    changes = {"routes": {"added": {"count": 1, "names": ["sh\x1bop"]}}}
    result = run(answers, url, 200, result="applied", seconds=0.5, changes=changes)
    assert (result.exit_code, result.output) == (0, "applied in 0.50 s: routes: 1 added (sh\\x1bop)\n")


def test_every_reason_of_a_refusal_is_told(answers: Answers, url: str) -> None:
    result = run(answers, url, 422, result="refused", reasons=["a: 1", "b: 2"])
    assert str(result.exception) == "refused, the configuration before stays in force: a: 1; b: 2"


def test_who_may_not_ask_is_told_why(answers: Answers, url: str) -> None:
    result = run(answers, url, 403, error="not from here", detail="only for this machine itself")
    assert str(result.exception) == f"{url} answered 403: only for this machine itself"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--url", "http://x:1", "--ca", "ca.pem"], "speaks no TLS"),
        (["--url", "https://x:1", "--cert", "c.pem"], "--cert and --key belong together"),
        (["--url", "https://x:1", "--ca", "/nowhere.pem"], "/nowhere.pem: no such file"),
    ],
)
def test_options_of_tls_have_to_fit(words: list[str], said: str) -> None:
    assert said in str(CliRunner().invoke(reload, words).exception)
