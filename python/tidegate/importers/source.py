"""
A predecessor's file as a source of our configuration: read and translated again at each reload, like a file of ours.

What a file means is its importer's; options and environment win over it as they do over ours.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

from tidegate.config.knobs import Knob, knobs
from tidegate.config.load import read_text
from tidegate.config.looks import Looks, look
from tidegate.config.model import Gateway
from tidegate.config.sources import Source
from tidegate.config.tree import Tree
from tidegate.errors import ConfigError
from tidegate.importers.translation import Note, Translation

__all__ = ["Foreign"]


@dataclass(frozen=True, kw_only=True)
class Foreign(Source[Gateway]):
    """A file that is not ours."""

    model: type[Gateway] = Gateway
    translate: Callable[[str], Translation]
    """What our file would say for the text of theirs."""
    tell: Callable[[Note], None]
    """What is done with a note; each is told once."""
    optional: bool = False
    """At the start the file may be empty or not there yet."""
    admin: str | None = None
    """Address of the admin listener where nothing else says one."""
    addresses: Iterable[Knob] = ()
    """The options for the addresses of its listeners."""
    also: tuple[str, ...] = ()
    """What else is in force, for the start line."""
    _told: set[Note] = field(default_factory=set)

    def written(self, files: Looks | None = None, *, may_be_empty: bool = True) -> Tree:
        """The translation."""
        if self.file is not None and files is not None:
            files[str(self.file.absolute())] = look(str(self.file))
        translation = self.translate(self._text(may_be_empty))
        for note in translation.notes:
            if note not in self._told:
                self._told.add(note)
                self.tell(note)
        if self.admin is not None:
            translation.tree.data.setdefault("admin", {"bind": self.admin})
        return translation.tree

    def _text(self, may_be_empty: bool) -> str:
        if self.file is None:
            return ""
        if self.optional and may_be_empty and not self.file.exists():
            return ""
        text = read_text(self.file)
        if not may_be_empty and not _says_something(text):
            raise ConfigError(f"{self.file}: is empty")
        return text

    def known(self) -> Iterator[Knob]:
        """Every knob of a gateway; its listeners are the predecessor's."""
        return chain(self.addresses, knobs(Gateway))

    def __str__(self) -> str:
        """Which sources are in force, for the start line."""
        found = super().__str__()
        return ", ".join([*([found] if found != "defaults" or not self.also else []), *self.also])


def _says_something(text: str) -> bool:
    """More than comments, which YAML and TOML write alike."""
    return any(line and not line.startswith(("#", "---")) for line in map(str.strip, text.splitlines()))
