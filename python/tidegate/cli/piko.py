"""`tidegate piko ...`: the command lines of Piko, its files and flags included."""

import os
from pathlib import Path
from typing import Any

import click

from tidegate.cli.moving import tell
from tidegate.cli.options import Command, KnobOption, given, start, start_source
from tidegate.config.knobs import Model
from tidegate.config.load import read_text
from tidegate.config.model import Agent, Forward, RoleAdmin
from tidegate.config.sources import Source
from tidegate.config.tree import Tree
from tidegate.errors import ConfigError
from tidegate.importers.piko import (
    Imported,
    PikoAgent,
    PikoForward,
    expand_env,
    flags_of,
    read,
)  # fmt: skip
from tidegate.importers.piko import (
    agent as import_agent,
)
from tidegate.importers.piko import (
    forward as import_forward,
)
from tidegate.importers.piko_server import PikoServerFile
from tidegate.importers.piko_server import server as import_server
from tidegate.importers.source import Foreign
from tidegate.importers.translation import Translation

__all__ = ["piko"]

_MODELS: tuple[type[Model], ...] = (PikoAgent, PikoForward, PikoServerFile)
_SWITCHES = {"--config.expand-env"} | {each.flag for model in _MODELS for each in flags_of(model) if each.is_flag}
_SWITCHED_OFF = "tidegate.switched_off"


class _PikoCommand(Command):
    """Takes switches as Go does: `--server.enabled=true` too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        taken = []
        for word in args:
            name, equals, value = word.partition("=")
            if not equals or name not in _SWITCHES:
                taken.append(word)
            elif value.lower() in ("true", "1", "t"):
                taken.append(name)
            elif value.lower() in ("false", "0", "f"):
                ctx.meta.setdefault(_SWITCHED_OFF, {})[name] = False
            else:
                raise click.UsageError(f"{name}: {value!r} is neither true nor false", ctx)
        return super().parse_args(ctx, taken)


@click.group()
def piko() -> None:
    """
    Run the command lines and files of Piko: put `tidegate` in front of what you run today.

    What has no counterpart is told as a note; what would have narrowed access and cannot be carried is an error.

    \b
    Examples:
      tidegate piko agent http my-endpoint 3000
      tidegate piko agent start --config.path agent.yaml
      tidegate piko forward tcp 5432 postgres
      tidegate piko server --config.path server.yaml
    """


def _flags() -> dict[str, Any]:
    context = click.get_current_context()
    switched_off: dict[str, Any] = context.meta.get(_SWITCHED_OFF, {})
    return given(context) | switched_off


def _tree(model: type[Model], path: str | None, expand: bool, flags: dict[str, Any] | None = None) -> tuple[Tree, str]:
    flags = _flags() if flags is None else flags
    text = read_text(Path(path)) if path else ""
    if expand:
        text = expand_env(text, os.environ)
    source = ", ".join([*([path] if path else []), *sorted(flags)]) or "command line"
    return read(text, path or "command line", model, flags), source


def _run(imported: Imported[Agent] | Imported[Forward], admin: str | None, source: str) -> int:
    for note in imported.notes:
        tell(note)
    config = imported.config
    if admin is not None:
        checked = Source(Agent, flags={"--admin": admin}, env={}).read().admin
        config = config.model_copy(update={"admin": RoleAdmin(bind=checked.bind, hosts=config.admin.hosts)})
    return start(config, source)


def _agent(
    words: tuple[str, ...], endpoints: str | None, config_path: str | None, config_expand_env: bool,
    admin: str | None, **_: object,
) -> int:  # fmt: skip
    tree, source = _tree(PikoAgent, config_path, config_expand_env)
    if words[:1] in (("http",), ("tcp",)) and len(words) == 3:
        listener = {"endpoint_id": words[1], "addr": words[2], "protocol": words[0]}
        tree.set(("listeners",), [listener], "command line")
    elif not words and endpoints:
        tree.set(("listeners",), [_old_endpoint(each) for each in endpoints.split(",")], "--endpoints")
    elif words != ("start",) and not (not words and config_path):
        raise click.UsageError("expected http|tcp ENDPOINT ADDR, start, or --endpoints", click.get_current_context())
    return _run(import_agent(tree), admin, source)


def _old_endpoint(text: str) -> dict[str, Any]:
    name, slash, address = text.strip().partition("/")
    if not slash or not address:
        raise ConfigError(f"--endpoints: {text!r} is no NAME/ADDR")
    return {"endpoint_id": name, "addr": address}


def _forward(
    words: tuple[str, ...], config_path: str | None, config_expand_env: bool, admin: str | None, **_: object
) -> int:
    tree, source = _tree(PikoForward, config_path, config_expand_env)
    pair = words[1:] if words[:1] == ("tcp",) and len(words) == 3 else words
    if pair[:1] == ("tcp",):
        raise click.UsageError("expected [tcp] ADDR ENDPOINT, or start", click.get_current_context())
    if len(pair) == 2:
        tree.set(("ports",), [{"addr": pair[0], "endpoint_id": pair[1]}], "command line")
    elif words != ("start",):
        raise click.UsageError("expected [tcp] ADDR ENDPOINT, or start", click.get_current_context())
    return _run(import_forward(tree), admin, source)


def _server(config_path: str | None, config_expand_env: bool, **_: object) -> int:
    # The context is gone when the file is read again.
    flags = _flags()

    def translate(text: str) -> Translation:
        expanded = expand_env(text, os.environ) if config_expand_env else text
        return import_server(read(expanded, config_path or "command line", PikoServerFile, flags))

    source = Foreign(
        file=Path(config_path) if config_path else None,
        env={},
        translate=translate,
        tell=tell,
        also=tuple(sorted(flags)),
    )
    return start_source(source)


def _params(model: type[PikoAgent | PikoForward], metavar: str) -> list[click.Parameter]:
    return [
        click.Argument(["words"], nargs=-1, metavar=metavar),
        *_file_params(model),
        click.Option(["--admin"], metavar="ADDR", help="Address of an admin listener; none by default."),
    ]


def _file_params(model: type[Model]) -> list[click.Parameter]:
    return [
        click.Option(["--config.path", "config_path"], metavar="FILE", help="The configuration."),
        click.Option(
            ["--config.expand-env", "config_expand_env"], is_flag=True, help="Replace ${VAR} and $VAR in the file."
        ),
        *(KnobOption(known, "Flags that win over the file") for known in flags_of(model)),
    ]


piko.add_command(
    _PikoCommand(
        "agent",
        callback=_agent,
        short_help="Offer local services as endpoints.",
        help="""
    Offer local services as endpoints.

    \b
    Examples:
      tidegate piko agent http my-endpoint 3000
      tidegate piko agent tcp my-endpoint localhost:5432
      tidegate piko agent start --config.path agent.yaml
      tidegate piko agent --endpoints my-endpoint/localhost:3000
    """,
        params=[
            *_params(PikoAgent, "http|tcp ENDPOINT ADDR | start"),
            click.Option(["--endpoints"], metavar="NAME/ADDR,...", help="Endpoints in the form of old versions."),
        ],
    )
)
piko.add_command(
    _PikoCommand(
        "forward",
        callback=_forward,
        short_help="Reach TCP endpoints from local ports.",
        help="""
    Reach TCP endpoints from local ports.

    \b
    Examples:
      tidegate piko forward tcp 5432 postgres
      tidegate piko forward 5432 postgres
      tidegate piko forward start --config.path forward.yaml
    """,
        params=_params(PikoForward, "[tcp] ADDR ENDPOINT | start"),
    )
)
piko.add_command(
    _PikoCommand(
        "server",
        callback=_server,
        short_help="Accept visitors and agents, on Piko's ports.",
        help="""
    Accept visitors on port 8000 and agents on port 8001, with metrics and status on port 8002, of all interfaces.

    Tokens are asked for as the file says (auth, tenants). Clusters are not built yet: they are a note, and the gossip
    port is not opened.

    \b
    Examples:
      tidegate piko server
      tidegate piko server --config.path server.yaml --proxy.bind-addr :9000
    """,
        params=_file_params(PikoServerFile),
    )
)
