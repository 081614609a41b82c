"""
What processes cost: CPU time and resident memory, as the kernel counts them.

Only reads `/proc`; when to read is up to the caller.
"""

import contextlib
from collections.abc import Iterable
from pathlib import Path


def nanoseconds(pids: Iterable[int]) -> int:
    """CPU time of all threads of these processes so far."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            # A thread may end between the listing and the look at it.
            with contextlib.suppress(OSError):
                total += int((task / "schedstat").read_text().split()[0])
    return total


def resident_kib(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def model() -> str:
    """The name of the processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown processor"
