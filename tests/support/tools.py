"""Programs of others: where they are, and what it means when they are not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.process import DEADLINE, Program, until

PACKAGES = "`make test` installs it, see tests/packages.txt"


def need(name: str, hint: str = PACKAGES) -> str:
    """The path of a program; a test that cannot have it fails."""
    found = shutil.which(name)
    assert found is not None, f"{name} is missing ({hint})"
    return found


def run(*command: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Runs a program that must succeed, and returns what it printed."""
    ended = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        timeout=4 * DEADLINE,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    out, err = ended.stdout.decode(errors="replace"), ended.stderr.decode(errors="replace")
    assert ended.returncode == 0, f"{' '.join(map(str, command))}: exit code {ended.returncode}\n{out}{err}"
    return out


@dataclass(frozen=True)
class Curled:
    """What curl got."""

    code: int
    """Its exit code."""
    heads: list[str]
    """The heads as they came, those of interim responses first."""
    body: bytes

    @property
    def status(self) -> int:
        """The status of the last head, 0 where there is none."""
        return int(self.heads[-1].split()[1]) if self.heads else 0

    @property
    def lines(self) -> list[str]:
        """The lines of the last head."""
        return self.heads[-1].split("\r\n")

    def field(self, name: str) -> str | None:
        """A field of the last head; two of one name are an error."""
        found = [
            line.partition(":")[2].strip() for line in self.lines[1:] if line.lower().startswith(f"{name.lower()}:")
        ]
        assert len(found) < 2, found
        return found[0] if found else None


def curl(*arguments: str, stdin: bytes = b"") -> Curled:
    """Runs curl; no file, proxy or option of the machine has a say."""
    command = [need("curl"), "-q", "--silent", "--noproxy", "*", "--max-time", str(DEADLINE), "--include", *arguments]
    ended = subprocess.run(command, capture_output=True, input=stdin, timeout=2 * DEADLINE, check=False)
    rest = ended.stdout
    heads: list[str] = []
    while rest.startswith(b"HTTP/") and (not heads or heads[-1].split()[1].startswith("1")):
        head, _, rest = rest.partition(b"\r\n\r\n")
        heads.append(head.decode("latin-1"))
    return Curled(ended.returncode, heads, rest)


def find(program: Program, pattern: str) -> re.Match[str]:
    """Waits until something in the log of a program fits, and returns it."""
    found = until(lambda: re.search(pattern, program.log), f"{program.name} says {pattern!r}")
    assert found is not None
    return found
