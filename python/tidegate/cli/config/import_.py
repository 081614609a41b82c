"""`tidegate config import`: a predecessor's file as a file of ours, with a note for everything that changes meaning."""

import os
from pathlib import Path
from typing import Any

import click
import yaml
from pydantic import SecretStr

from tidegate.cli.moving import tell
from tidegate.cli.options import given
from tidegate.cli.quic import flags_of
from tidegate.cli.quic_client import ALLOW, quic_client
from tidegate.cli.quic_client_tcp import quic_client_tcp
from tidegate.cli.quic_server import quic_server
from tidegate.config.knobs import knobs
from tidegate.config.load import dump, parse, read_text, validate
from tidegate.config.model import Agent, Gateway
from tidegate.config.tree import Tree
from tidegate.errors import ConfigError
from tidegate.importers import kiagateway, nanoproxy, piko, piko_server, quic_tunnel
from tidegate.importers.translation import Note, Translation, place

__all__ = ["import_"]

_PIKO = {"server": ("proxy", "upstream", "admin", "cluster"), "agent": ("listeners", "server"), "forward": ("ports",)}


@click.command("import")
@click.option("--from", "system", type=click.Choice(["kiagateway", "nanoproxy", "piko", "quic-tunnel"]), required=True,
              help="Whose file it is.")  # fmt: skip
@click.option("--kind", type=click.Choice(list(_PIKO)), help="Which of Piko's files; by default found by its keys.")
@click.option("--expand-env", is_flag=True, help="Piko: replace ${VAR} and $VAR first, as --config.expand-env does.")
@click.argument("file")
def import_(system: str, kind: str | None, expand_env: bool, file: str) -> int:
    """
    Print our configuration for the file of another system.

    Notes go to stderr: one for everything that changes meaning. For NanoProxy its environment variables count too. Of
    quic-reverse-http-tunnel, which has no files, FILE is a text with one command line of it: a script, or a unit.

    \b
    Examples:
      tidegate config import --from kiagateway servers.toml > tidegate.yaml
      PORT=80 tidegate config import --from nanoproxy config.yaml > tidegate.yaml
      tidegate config import --from piko agent.yaml > agent.yaml
      tidegate config import --from quic-tunnel /etc/systemd/system/quic-client.service > agent.yaml
    """
    text = read_text(Path(file))
    if system == "quic-tunnel":
        return _quic_tunnel(text, file)
    if system == "piko":
        return _piko(piko.expand_env(text, os.environ) if expand_env else text, file, kind)
    if system == "kiagateway":
        return _print(kiagateway.gateway(text, file))
    settings = nanoproxy.Settings.of(os.environ)
    return _print(nanoproxy.gateway(text, file, settings, "${HOSTNAME:unknown}"))


def _piko(text: str, file: str, kind: str | None) -> int:
    models: dict[str, Any] = {
        "server": piko_server.PikoServerFile,
        "agent": piko.PikoAgent,
        "forward": piko.PikoForward,
    }
    kind = kind or _kind(parse(text, file, expanded=None))
    tree = piko.read(text, file, models[kind], {})
    if kind == "server":
        return _print(piko_server.server(tree))
    imported = piko.agent(tree) if kind == "agent" else piko.forward(tree)
    for note in imported.notes:
        tell(note)
    click.echo(dump(imported.config), nl=False)
    return 0


def _quic_tunnel(text: str, file: str) -> int:
    line = quic_tunnel.find(text, file)
    commands = {each.name: each for each in (quic_server, quic_client, quic_client_tcp)}
    try:
        context = commands[line.program].make_context(line.program, list(line.words), resilient_parsing=False)
    except click.UsageError as error:
        raise ConfigError(f"{line.where}: {error.format_message()}") from None
    own = flags_of(line.program, context.params)
    model: type[Gateway | Agent] = Gateway if line.program == quic_tunnel.SERVER else Agent
    if model is Gateway:
        translation = quic_tunnel.server(own, line.where)
    else:
        translation = quic_tunnel.agent(line.program, own, context.params.get(ALLOW, ()), line.where)
    flags = given(context)
    for known in knobs(model):
        if known.flag in flags:
            translation.tree.set(known.path, flags[known.flag], f"{line.where}: {known.flag}")
    return _print(translation, model)


def _kind(tree: Tree) -> str:
    found = [kind for kind, keys in _PIKO.items() if any(key in tree.data for key in keys)]
    if len(found) != 1:
        raise ConfigError(f"{tree.name}: is it a server's, an agent's or a forward's file? (write --kind)")
    return found[0]


def _put_keys_into_files(tree: Tree) -> None:
    """A key that stood in a file of Piko's has no place in one of ours: a file of its own, which the user writes."""
    for name, verifier in tree.data.get("verifiers", {}).items():
        for key, ending in (("secret", "key"), ("public_key", "pem")):
            if isinstance(verifier.get(key), SecretStr):
                file = f"piko-{name}.{ending}"
                verifier[key] = {"file": file}
                where = place(tree, "verifiers", name)
                mode = " (mode 0600)" if key == "secret" else ""
                tell(Note(where, f"write this key to {file}{mode}: a configuration of ours holds no keys"))


def _print(translation: Translation, model: type[Gateway | Agent] = Gateway) -> int:
    for note in translation.notes:
        tell(note)
    validate(model, translation.tree)
    _put_keys_into_files(translation.tree)
    # As the importer wrote it: that is shorter than what the model makes of it.
    text = yaml.safe_dump(
        translation.tree.data, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None
    )
    click.echo(text, nl=False)
    return 0
