"""A predecessor's file is read again, and told about, like one of ours."""

from pathlib import Path

import pytest

from tidegate.config.looks import Looks
from tidegate.config.model import SHORTCUTS
from tidegate.config.tree import Tree
from tidegate.errors import ConfigError
from tidegate.importers.source import Foreign
from tidegate.importers.translation import Note, Translation, free_name


def foreign(file: Path, told: list[Note], **more: object) -> Foreign:
    """A source whose file holds an address to bind, and a remark after it."""

    def translate(text: str) -> Translation:
        address, _, remark = text.strip().partition(" ")
        tree = Tree(data={"listeners": {"proxy": {"bind": address or ":1"}}}, name=str(file))
        return Translation(tree, (Note(str(file), remark),) if remark else ())

    options: dict[str, object] = {"file": file, "env": {}, "translate": translate, "tell": told.append, **more}
    return Foreign(**options)  # type: ignore[arg-type]


def test_a_note_is_told_once_and_a_new_one_when_it_comes(tmp_path: Path) -> None:
    file, told = tmp_path / "file", list[Note]()
    source = foreign(file, told)
    file.write_text(":80 first")
    assert source.read().listeners["proxy"].bind == ":80"
    assert source.again({}).listeners["proxy"].bind == ":80"
    assert [note.text for note in told] == ["first"]
    file.write_text(":81 second")
    assert source.again({}).listeners["proxy"].bind == ":81"
    assert [note.text for note in told] == ["first", "second"]


def test_an_empty_file_is_a_mistake_while_it_is_in_force(tmp_path: Path) -> None:
    file = tmp_path / "file"
    source = foreign(file, [], optional=True)
    assert source.read().listeners["proxy"].bind == ":1"
    for nothing in ("", "\n", "# nothing\n---\n"):
        file.write_text(nothing)
        with pytest.raises(ConfigError, match="is empty"):
            source.again({})
    file.unlink()
    with pytest.raises(ConfigError, match="cannot read it"):
        source.again({})


def test_a_file_that_has_to_be_there_is_a_mistake_where_it_is_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read it"):
        foreign(tmp_path / "file", []).read()


def test_options_and_environment_win_and_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text(":80")
    source = foreign(
        tmp_path / "file",
        [],
        flags={"--workers": "3"},
        env={"TIDEGATE_PROXY": "127.0.0.1:9", "TIDEGATE_AGENTS": "127.0.0.1:10"},
        addresses=SHORTCUTS[:1],
        admin="127.0.0.1:8003",
        also=("PORT",),
    )
    config = source.read()
    assert (config.workers, config.admin.bind) == (3, "127.0.0.1:8003")
    # A predecessor has no listener for agents, and no variable of ours opens one.
    assert {name: listener.bind for name, listener in config.listeners.items()} == {"proxy": "127.0.0.1:9"}
    assert str(source) == f"{tmp_path / 'file'}, --workers, TIDEGATE_PROXY, PORT"


def test_the_file_is_watched(tmp_path: Path) -> None:
    (tmp_path / "file").write_text(":80")
    files: Looks = {}
    foreign(tmp_path / "file", []).read(files)
    assert set(files) == {str(tmp_path / "file")}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a.example", "a.example"),
        ("*.a", "any.a"),
        ("a b", "a-b"),
        ("", "unnamed"),
        ("taken", "taken-2"),
        ("x" * 200, "x" * 120),
    ],
)
def test_a_name_is_made_of_our_characters_and_free(text: str, name: str) -> None:
    assert free_name(text, {"taken"}) == name
