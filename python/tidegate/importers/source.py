"""
A predecessor's file as a source of our configuration: read and translated again at each reload, like a file of ours.

What a file means is its importer's; options and environment win over it as they do over ours.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

from tidegate.config.knobs import Knob, knobs
from tidegate.config.load import Tree
from tidegate.config.model import Gateway
from tidegate.config.sources import Source
from tidegate.importers.translation import Note, Translation

__all__ = ["Foreign"]


@dataclass(frozen=True, kw_only=True)
class Foreign(Source[Gateway]):
    """A file that is not ours."""

    model: type[Gateway] = Gateway
    translate: Callable[[], Translation]
    """Reads the file and says what ours would."""
    tell: Callable[[Note], None]
    """What is done with a note; each is told once."""
    admin: str | None = None
    """Address of the admin listener where nothing else says one."""
    addresses: Iterable[Knob] = ()
    """The options for the addresses of its listeners."""
    also: tuple[str, ...] = ()
    """What else is in force, for the start line."""
    _told: set[Note] = field(default_factory=set)

    def written(self) -> Tree:
        """The translation."""
        translation = self.translate()
        for note in translation.notes:
            if note not in self._told:
                self._told.add(note)
                self.tell(note)
        if self.admin is not None:
            translation.tree.data.setdefault("admin", {"bind": self.admin})
        return translation.tree

    def known(self) -> Iterator[Knob]:
        """Every knob of a gateway; its listeners are the predecessor's."""
        return chain(self.addresses, knobs(Gateway))

    def __str__(self) -> str:
        """Which sources are in force, for the start line."""
        found = super().__str__()
        return ", ".join([*([found] if found != "defaults" or not self.also else []), *self.also])
