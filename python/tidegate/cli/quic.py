"""
What the three commands of quic-reverse-http-tunnel share: flags as Go takes them, and what becomes of them.

What a flag means is `importers.quic_tunnel`'s.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import click

from tidegate.cli.options import Command, knob_options
from tidegate.config.knobs import Knob, knobs
from tidegate.config.model import Agent
from tidegate.config.sources import Source
from tidegate.config.tree import Tree
from tidegate.importers.quic_tunnel import FLAGS, LOG_FLAGS, words
from tidegate.importers.translation import Translation

__all__ = ["AgentLine", "QuicCommand", "agent_knobs", "flags_of"]

_OURS = "Options of ours"


class QuicCommand(Command):
    """One of the three programs: its flags, and options of ours."""

    def __init__(
        self,
        program: str,
        callback: Callable[..., int],
        help: str,
        ours: Iterable[Knob],
        more: Iterable[click.Option] = (),
    ) -> None:
        own = [
            click.Option(
                [f"--{flag.name}", flag.name.replace("-", "_")],
                metavar=flag.label,
                help=f"{flag.help} [default {flag.default}]" if flag.default else flag.help,
            )
            for flag in FLAGS[program]
        ]
        log = [click.Option([f"--{name}", name], is_flag=switch, hidden=True) for name, switch in LOG_FLAGS.items()]
        params = [*own, *log, *more, *knob_options(ours, lambda _: _OURS)]
        super().__init__(program, callback=callback, help=help, params=params)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        assert self.name is not None  # noqa: S101
        return super().parse_args(ctx, words(self.name, args))


def flags_of(program: str, params: Mapping[str, object]) -> dict[str, str]:
    """What was written of the program's own flags, by name."""
    names = [*(flag.name for flag in FLAGS[program]), *LOG_FLAGS]
    found = {name: params.get(name.replace("-", "_")) for name in names}
    return {name: str(value) for name, value in found.items() if value}


def agent_knobs() -> list[Knob]:
    """Options of an agent that a command line of the predecessor does not say itself."""
    return [known for known in knobs(Agent) if known.path[0] not in ("connect", "endpoints")]


@dataclass(frozen=True, kw_only=True)
class AgentLine(Source[Agent]):
    """An agent whose command line says everything that another one's file does."""

    model: type[Agent] = Agent
    translation: Translation
    """What our file would say."""

    def written(self, files: object = None, *, may_be_empty: bool = True) -> Tree:  # noqa: ARG002
        """The translation."""
        tree = self.translation.tree
        tree.base = os.getcwd()
        return tree

    def known(self) -> Iterator[Knob]:
        """What its other options may say."""
        return iter(agent_knobs())
