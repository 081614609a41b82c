"""What the commands below `tidegate config` share: which file is meant, and whose it is."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from tidegate.config.load import read_text
from tidegate.config.model import Agent, Forward, Gateway

__all__ = ["ROLES", "role_of", "role_option"]

F = TypeVar("F", bound=Callable[..., Any])

ROLES: dict[str, type[Gateway] | type[Agent] | type[Forward]] = {
    "gateway": Gateway,
    "agent": Agent,
    "forward": Forward,
}
"""Whose files there are."""

# Keys that only the file of this role has.
_MARKS = {"endpoints": "agent", "forwards": "forward", "listeners": "gateway", "routes": "gateway"}


def role_option(default: str) -> Callable[[F], F]:
    """`--role`."""
    return click.option("--role", type=click.Choice(list(ROLES)), help=f"Whose file it is; by default {default}.")


def role_of(file: Path) -> str:
    """Whose file this is, by its keys; a gateway's where they do not say."""
    keys = set(re.findall(r"^(\w+)\s*:", read_text(file), re.MULTILINE))
    return next((role for key, role in _MARKS.items() if key in keys), "gateway")
