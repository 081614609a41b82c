"""A group whose commands are imported when they are used, so that `--help` and completion answer at once."""

import importlib
import keyword
from collections.abc import Mapping
from typing import Any

import click

__all__ = ["Lazy"]


class Lazy(click.Group):
    """Names and one line of help are known at once; the rest is imported when it is used."""

    def __init__(self, *args: Any, package: str, known: Mapping[str, str], **rest: Any) -> None:
        super().__init__(*args, **rest)
        self._package = package
        self._known = known

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self._known)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in self._known:
            return None
        name = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name.replace("-", "_")
        command = getattr(importlib.import_module(f"{self._package}.{name}"), name)
        assert isinstance(command, click.Command)  # noqa: S101
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(self._known.items()))
