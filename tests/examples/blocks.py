"""
Finds the code blocks of a page and reads what they expect. The convention, and the whole of it:

console   a terminal: `$ COMMAND`, then what it prints. Lines that are not shown may stand between those that are, and
          times, sizes, ids and `...` match anything. What serves (a gateway, an agent) goes on until the page ends, and
          stands last in its block; `^C` in its output is a Ctrl-C.
sh        a script, which has to end with exit code 0. `make TARGET` is only looked up, with `make -n`.
yaml      a file: its first line is a comment with its name. `tidegate`, `agent` and `forward` files have to be good.
toml      a file of kiagateway's, named in the same way; it has to be TOML.
ini       a systemd unit, named in the same way; the command it starts has to exist with its options.
text      a drawing, or the words of a program: nothing to run, so no line of it may look like a command.

Anything else, and a block without a language, fails. `<!-- examples: another machine -->` between two blocks ends what
runs. Running is `terminal`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

FRESH = "<!-- examples: another machine -->"
LANGUAGES = ("console", "sh", "yaml", "toml", "ini", "text")

# What differs from one run to the next, and what it may be instead.
_LOOSE = (
    (r"\.\.\.", r".*"),
    (r"\d\d:\d\d:\d\d(?=Z?\b)", r"\d\d:\d\d:\d\d"),
    (r"\d+(?:\.\d+)?(?= ?(?:ms|s|kB|MiB/s)\b)", r"[\d.]+"),
    (r"(?<=PID )\d+", r"\d+"),
    (r"\b[0-9a-f]{16,}\b", r"[0-9a-f]+"),
    (r"\s+", r"\\s+"),
)


@dataclass(frozen=True)
class Block:
    """One code block."""

    language: str
    text: str
    line: int
    """Where its text begins in the page."""


@dataclass
class Command:
    """One command of a console block and the lines it should print."""

    words: str
    expected: list[str] = field(default_factory=list)


def blocks(page: Path) -> Iterator[Block]:
    """Every code block of a page, in order."""
    language: str | None = None
    begun, inside = 0, list[str]()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = re.fullmatch(r"\s*```\s*(\S*)\s*", line)
        if language is None and fence:
            language, begun, inside = fence[1], number + 1, []
        elif language is not None and fence:
            yield Block(language, "\n".join(inside) + "\n", begun)
            language = None
        elif language is not None:
            inside.append(line)
        elif line == FRESH:
            yield Block(FRESH, "", number)
    assert language is None, f"{page}:{begun}: the block is not closed"


def commands(block: Block) -> list[Command]:
    """The commands of a console block."""
    found: list[Command] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append(Command(line[2:].partition("  #")[0].strip()))
        elif line.strip():
            assert found, f"line {block.line}: output before the first command"
            found[-1].expected.append(line.strip())
    return found


def matches(expected: str, line: str) -> bool:
    """Whether a line is the one that was expected, apart from what differs in each run."""
    pattern = "".join(_pattern(expected))
    return re.fullmatch(pattern, line.strip()) is not None


def _pattern(text: str) -> Iterator[str]:
    place = 0
    loose = re.compile("|".join(f"(?P<g{i}>{what})" for i, (what, _) in enumerate(_LOOSE)))
    for match in loose.finditer(text):
        yield re.escape(text[place : match.start()])
        place = match.end()
        yield _LOOSE[int((match.lastgroup or "g0")[1:])][1].replace("\\\\", "\\")
    yield re.escape(text[place:])
