"""`git clone` and `git push` over HTTP through the gateway."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service import Exchange
from tests.support.tools import need, run
from tests.system.site import Site

ENV = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.com",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.com",
    "no_proxy": "*",
    "NO_PROXY": "*",
}
"""A git that knows nothing of this machine's configuration."""


def git(*arguments: str | Path, cwd: Path | None = None) -> str:
    """Runs git, which must succeed."""
    return run(need("git"), *arguments, env=ENV, cwd=cwd)


def backend(root: Path, exchange: Exchange) -> None:
    """Hands a request to `git http-backend`, as a web server would by CGI."""
    body = exchange.read()
    path, _, query = exchange.target.partition("?")
    variables = {
        "GIT_PROJECT_ROOT": str(root),
        "GIT_HTTP_EXPORT_ALL": "1",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "REQUEST_METHOD": exchange.method,
        "CONTENT_TYPE": exchange.value("content-type") or "",
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_CONTENT_ENCODING": exchange.value("content-encoding") or "",
        "HTTP_GIT_PROTOCOL": exchange.value("git-protocol") or "",
        "REMOTE_USER": "somebody",
    }
    env = {**os.environ, **ENV, **variables}
    ended = subprocess.run([need("git"), "http-backend"], input=body, capture_output=True, env=env, check=True)
    head, _, answer = ended.stdout.partition(b"\r\n\r\n")
    fields = [(key, value.strip()) for key, _, value in (line.partition(":") for line in head.decode().split("\r\n"))]
    status = next((value for key, value in fields if key == "Status"), "200 OK")
    exchange.answer(status, answer, *[field for field in fields if field[0] != "Status"])


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a repository with one commit of 3 MB, behind the gateway."""
    root = tmp_path_factory.mktemp("git")
    work = root / "work"
    git("init", "--quiet", "--initial-branch=main", work)
    (work / "big").write_bytes(os.urandom(3_000_000))
    (work / "README").write_text("hello\n")
    git("add", ".", cwd=work)
    git("commit", "--quiet", "-m", "first", cwd=work)
    git("clone", "--quiet", "--bare", work, root / "project.git")
    git("config", "http.receivepack", "true", cwd=root / "project.git")
    with Site(lambda exchange: backend(root, exchange)) as site:
        yield site.url("/project.git")


def test_a_clone_has_every_byte(origin: str, tmp_path: Path) -> None:
    git("clone", "--quiet", origin, tmp_path / "clone")

    assert git("fsck", "--full", cwd=tmp_path / "clone") == ""
    assert (tmp_path / "clone" / "README").read_text() == "hello\n"
    assert (tmp_path / "clone" / "big").stat().st_size == 3_000_000


@pytest.mark.parametrize("buffer", ["500m", "64k"], ids=["with-a-length", "in-chunks"])
def test_what_is_pushed_is_there_for_the_next_clone(origin: str, tmp_path: Path, buffer: str) -> None:
    one, other, branch = tmp_path / "one", tmp_path / "other", f"branch-{buffer}"
    git("clone", "--quiet", origin, one)
    git("checkout", "--quiet", "-b", branch, cwd=one)
    (one / "new").write_bytes(os.urandom(2_000_000))
    git("add", ".", cwd=one)
    git("commit", "--quiet", "-m", "second", cwd=one)

    git("-c", f"http.postBuffer={buffer}", "push", "--quiet", "origin", branch, cwd=one)

    git("clone", "--quiet", "--branch", branch, origin, other)
    assert (other / "new").read_bytes() == (one / "new").read_bytes()
