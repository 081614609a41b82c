"""`tidegate status` against an admin listener, and without one."""

import json
import socket
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from tests.unit.cli.conftest import Answers
from tidegate.cli.status import status
from tidegate.errors import TidegateError

WHOLE: dict[str, Any] = {"role": "gateway", "version": "1.2.3", "state": "running", "endpoints": [], "problems": []}
ONE: dict[str, Any] = {"name": "web", "listeners": []}


@pytest.fixture
def answers() -> Answers:
    return {
        "GET /status": (200, json.dumps(WHOLE).encode()),
        "GET /status/endpoints": (200, json.dumps({"endpoints": [ONE]}).encode()),
        "GET /status/endpoints/web": (200, json.dumps(ONE).encode()),
        "GET /status/endpoints/nobody": (404, b'{"error": "no such endpoint", "detail": "nobody offers nobody here"}'),
        "GET /other/status": (200, b"<html>welcome</html>"),
        "GET /lost/status": (404, b"<html>lost</html>"),
    }


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(status, arguments, env=environment)


def test_one_screen_says_what_runs(url: str) -> None:
    result = run("--url", url)
    assert result.exit_code == 0
    assert result.output.startswith("tidegate gateway 1.2.3, running")


def test_the_environment_names_the_listener_and_no_proxy_is_asked(url: str) -> None:
    assert run(TIDEGATE_ADMIN_URL=url, http_proxy="http://127.0.0.1:9").exit_code == 0


def test_programs_get_json_or_yaml(url: str) -> None:
    assert json.loads(run("--url", url, "-o", "json").output) == WHOLE
    assert yaml.safe_load(run("endpoints", "--url", url, "-o", "yaml").output) == {"endpoints": [ONE]}


def test_one_endpoint_is_shown_alone(url: str) -> None:
    assert run("endpoints", "web", "--url", url).output.startswith("endpoint web\n")


def test_a_refusal_says_why(url: str) -> None:
    result = run("endpoints", "nobody", "--url", url)
    assert str(result.exception) == f"{url} answered 404: nobody offers nobody here"


@pytest.mark.parametrize("path", ["other", "lost"])
def test_another_kind_of_listener_is_named_as_such(url: str, path: str) -> None:
    result = run("--url", f"{url}/{path}")
    assert isinstance(result.exception, TidegateError)
    assert "name the right one with --url" in str(result.exception)


def test_nobody_there_is_one_sentence_that_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    result = run("--url", f"http://127.0.0.1:{port}")
    assert str(result.exception) == (
        f"nothing answers at http://127.0.0.1:{port} (connection refused); "
        "start `tidegate gateway`, or give the admin listener's --url"
    )


@pytest.mark.parametrize("bad", ["127.0.0.1:8003", "ftp://x", "http://", "http://x:port"])
def test_what_is_no_url_is_told(bad: str) -> None:
    assert "is no URL of an admin listener" in str(run("--url", bad).exception)
