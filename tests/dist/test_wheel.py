"""
The wheel works where nothing was built: installed in a clean environment, without a compiler in reach.

`make dist` has made what is tested here.
"""

import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPILERS = ("cargo", "rustc", "rustup", "maturin")


def only(pattern: str) -> Path:
    """The one file of `dist/` that fits."""
    (path,) = (ROOT / "dist").glob(pattern)
    return path


def run(*command: str | Path, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Runs a command without compilers in PATH and without a way into the checkout."""
    folders = [
        folder
        for folder in os.environ["PATH"].split(os.pathsep)
        if not any((Path(folder) / compiler).exists() for compiler in COMPILERS)
    ]
    hidden = {"VIRTUAL_ENV", "PYTHONPATH", "CARGO_HOME", "CARGO_TARGET_DIR"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment["PATH"] = os.pathsep.join(folders)
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A virtual environment that holds the wheel and its pinned dependencies, nothing else."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    python = folder / "bin/python"
    steps: list[list[str | Path]] = [
        [sys.executable, "-m", "venv", folder],
        [python, "-m", "pip", "install", "-q", "--require-hashes", "-r", ROOT / "requirements/run.txt"],
        [python, "-m", "pip", "install", "-q", "--no-index", "--no-deps", only("tidegate-*.whl")],
        [python, "-m", "pip", "check"],
    ]
    for step in steps:
        done = run(*step, cwd=folder.parent)
        assert done.returncode == 0, f"{step}\n{done.stdout}{done.stderr}"
    yield folder


def test_one_wheel_serves_every_python_and_most_linux_systems() -> None:
    name = only("tidegate-*.whl").name
    assert "-cp311-abi3-manylinux_" in name


def test_the_wheel_carries_types_and_licence() -> None:
    with zipfile.ZipFile(only("tidegate-*.whl")) as wheel:
        names = wheel.namelist()
    assert {"tidegate/__init__.py", "tidegate/py.typed", "tidegate/_engine.pyi"} <= set(names)
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert [name for name in names if name.startswith("tests/")] == []


def test_the_source_can_be_built_as_it_was_tested() -> None:
    with tarfile.open(only("tidegate-*.tar.gz")) as source:
        names = {name.split("/", 1)[1] for name in source.getnames() if "/" in name}
    assert {"Cargo.lock", "rust-toolchain.toml", "LICENSE", "crates/engine/src/lib.rs"} <= names


def test_the_installed_package_comes_from_the_wheel(clean: Path) -> None:
    done = run(clean / "bin/python", "-c", "import tidegate; print(tidegate.__file__)", cwd=clean.parent)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(clean)


def test_the_demo_runs_from_the_wheel(clean: Path) -> None:
    done = run(clean / "bin/tidegate", "demo", cwd=clean.parent)
    assert done.returncode == 0, done.stdout + done.stderr
