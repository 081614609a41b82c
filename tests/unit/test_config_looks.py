"""What a file looks like, and which files a configuration was read from."""

import os
from pathlib import Path

import pytest

from tidegate.config.looks import Looks, differing, look
from tidegate.config.model import Gateway
from tidegate.config.sources import Source
from tidegate.errors import ConfigError


def test_every_way_of_saving_looks_different(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    seen: Looks = {str(path): look(str(path))}
    assert not differing(seen)

    other = tmp_path / "other"
    other.write_text("two")
    found = path.stat()
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    other.replace(path)
    assert differing(seen), "renamed over, with the size and the time of the old one"

    path.unlink()
    path.symlink_to("first")
    (tmp_path / "first").write_text("same")
    (tmp_path / "second").write_text("same")
    seen = {str(path): look(str(path))}
    (tmp_path / "link").symlink_to("second")
    (tmp_path / "link").replace(path)
    assert differing(seen), "a swapped link"


def test_what_is_missing_looks_different_when_it_comes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    seen: Looks = {str(path): look(str(path))}
    assert not differing(seen)
    path.write_text("")
    assert differing(seen)


def test_a_pipe_never_looks_different(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert look(str(tmp_path / "pipe")) == look("/dev/null") == ()


def source(tmp_path: Path, text: str) -> Source[Gateway]:
    path = tmp_path / "tidegate.yaml"
    path.write_text(text)
    return Source(Gateway, path, env={})


TLS = "listeners: {web: {bind: ':0', tls: {certificates: [{cert: a.pem, key: a.key}]}}}\naccess_log: {to: access.log}\n"


def test_every_file_that_is_read_is_noted_and_no_other(tmp_path: Path) -> None:
    files: Looks = {}
    source(tmp_path, TLS).read(files)
    assert set(files) == {str(tmp_path / name) for name in ("tidegate.yaml", "a.pem", "a.key")}


def test_files_are_noted_where_there_is_a_mistake_too(tmp_path: Path) -> None:
    files: Looks = {}
    with pytest.raises(ConfigError):
        source(tmp_path, TLS + "wrokers: 1\n").again(files)
    assert str(tmp_path / "a.pem") in files


@pytest.mark.parametrize("text", ["", "\n\n", "# workers: 2\n"])
def test_an_emptied_file_is_a_mistake_only_while_it_is_in_force(tmp_path: Path, text: str) -> None:
    assert source(tmp_path, text).read() == Gateway()
    with pytest.raises(ConfigError, match="is empty"):
        source(tmp_path, text).again({})
    assert source(tmp_path, "{}").again({}) == Gateway()


def test_a_pipe_is_not_read_again(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="no file that can be read again"):
        Source(Gateway, tmp_path / "pipe", env={}).again({})
