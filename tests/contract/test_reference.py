"""The pages of docs/reference are what the model, the commands and the engine say today."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_no_reference_page_is_stale() -> None:
    tool = [sys.executable, "tools/reference.py", "--check"]
    ran = subprocess.run(tool, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")
