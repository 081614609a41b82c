"""`tidegate config init`: a commented file to begin with."""

from importlib.resources import files
from pathlib import Path

import click

from tidegate.cli.config.files import role_option
from tidegate.errors import ConfigError

__all__ = ["init"]

_NAMES = {"gateway": "tidegate.yaml", "agent": "agent.yaml", "forward": "forward.yaml"}


@click.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@role_option("the gateway's")
def init(file: Path | None, role: str | None) -> None:
    """
    Write a commented file to begin with: tidegate.yaml, agent.yaml or forward.yaml.

    A file that is there already is left alone, and told as an error.

    \b
    Examples:
      tidegate config init
      tidegate config init --role agent ~/.config/tidegate/agent.yaml
    """
    name = _NAMES[role or "gateway"]
    file = Path(name) if file is None else file / name if file.is_dir() else file
    text = files("tidegate.config").joinpath("starters", name).read_text(encoding="utf-8")
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(text)
    except FileExistsError:
        raise ConfigError(f"{file} is there already; it was left alone") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {(error.strerror or str(error)).lower()}") from None
    click.echo(f"{file}: written (`tidegate config check {file}` checks it)")
