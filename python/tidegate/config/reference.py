"""
Writes `docs/reference/config.md` from the model: `python -m tidegate.config.reference docs/reference/config.md`.

Nothing in that page is written by hand; a test fails when it is stale.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import fill
from typing import get_origin

from pydantic import BaseModel

from tidegate.config.knobs import child_model, default_text, is_labelled, knobs, plain_type, type_label
from tidegate.config.leading import ConnectTo
from tidegate.config.model import SHORTCUTS, Agent, ClientTls, Forward, Gateway, Offer
from tidegate.config.upstreams import Addresses, To

__all__ = ["render"]

_HEAD = """\
# Configuration reference

This page is made from the model; `python -m tidegate.config.reference docs/reference/config.md` writes it.

An option wins over its environment name, that over the file, that over the default. No file is searched for except
`--config` and `TIDEGATE_CONFIG`; an agent also reads `~/.config/tidegate/agent.yaml`. `${VAR}` and `${VAR:default}`
expand in values (`$${` stands for itself). An unknown key is a mistake. Of YAML there are anchors, aliases and
merge keys (`<<`), and no tags but `!!str`; only `true`, `false`, `null` and numbers are not text.

| Value | How it is written |
|---|---|
| ADDR | `HOST:PORT`, or `:PORT` for all interfaces; port 0 lets the system pick |
| DURATION | seconds, or `30s`, `1m30s`, `100ms`, `2h`, `1d` |
| SIZE | bytes, or `64KiB`, `16MiB`, `1MB` |
| FILE | a file name; in a file it starts from that file's folder, in an option from the current one |
| NAME of an endpoint | 1 to 128 of the characters `A-Z a-z 0-9 . _ -` |
"""

_FILES = (
    (Gateway, "tidegate.yaml", "`tidegate gateway`"),
    (Agent, "agent.yaml", "`tidegate agent http`, `tcp`, `connect` and `start`"),
    (Forward, "forward.yaml", "`tidegate forward`"),
)


def render() -> str:
    """The whole page."""
    parts = [_HEAD]
    for model, name, commands in _FILES:
        parts.append(f"## {name}\n\nRead by {commands}.\n")
        parts.append(_table(("Key", "Value", "Default", "What it is"), _keys(model)))
        refused = sorted(_later(model))
        if refused:
            sentence = f"Not built yet, and refused rather than ignored: {', '.join(f'`{key}`' for key in refused)}."
            parts.append(fill(sentence, 120, break_on_hyphens=False) + "\n")
    parts.append("## Options and environment names\n\nA list in the environment is separated by commas.\n")
    parts.append(_table(("Option", "Environment", "Key", "Commands"), _options()))
    return "\n".join(parts)


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, ...]]:
    # What is inherited comes first in a model; here it stands last, as in what people write.
    first = To.__annotations__ if issubclass(model, To) else {}
    fields = sorted(
        model.model_fields.items(), key=lambda item: (item[0] not in first, item[0] in ClientTls.model_fields)
    )
    for name, field in fields:
        if issubclass(model, To) and name in Addresses.model_fields and name != "addresses":
            continue  # told once, below `upstreams`
        key = f"{prefix}{field.alias or name}"
        child = child_model(field)
        many = get_origin(plain_type(field))
        suffix = ".NAME." if many is dict else "[]." if many is tuple else "."
        if child is ConnectTo:
            yield from _keys(child, f"{prefix.removesuffix('.')}[].")  # written without a key
            continue
        if child is not None and not is_labelled(field):
            yield from _keys(child, f"{key}{suffix}")
            continue
        default = "required" if field.is_required() else f"`{default_text(field)}`" if default_text(field) else ""
        label = type_label(field).strip("[]").replace("|", " &#124; ")
        yield f"`{key}`", label, default, field.description or ""
        if child is not None and many is not tuple:
            yield from _keys(child, f"{key}{suffix}")


def _later(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for key in getattr(model, "later", {}):
        yield f"{prefix}{key}"
    for name, field in model.model_fields.items():
        child = child_model(field)
        if child is not None:
            suffix = ".NAME." if get_origin(plain_type(field)) is dict else "."
            yield from _later(child, f"{prefix}{name}{suffix}")


def _options() -> Iterator[tuple[str, ...]]:
    found: dict[tuple[str, str, str], list[str]] = {}
    for known in SHORTCUTS:
        found[(known.flag, known.env, f"listeners.{known.path[1]}.bind")] = ["gateway"]
    for model, _, _ in _FILES:
        for known in knobs(model):
            found.setdefault((known.flag, known.env, ".".join(known.path)), []).append(model.__name__.lower())
    for known in knobs(Offer):
        if known.path[0] in ClientTls.model_fields:
            flag, env = f"--service-{known.flag[2:]}", f"TIDEGATE_SERVICE_{known.env[9:]}"
            found[(flag, env, f"endpoints[].{known.path[0]}")] = ["agent http"]
            found[(known.flag, known.env, "the gateway's or the local service's")] = ["agent", "forward"]
        elif known.flag == "--allow":
            found[(known.flag, known.env, "endpoints[].allow")] = ["agent connect"]
        elif known.flag in ("--host-header", "--upstream-protocol", "--health"):
            commands = ["agent http", "agent tcp"] if known.flag == "--health" else ["agent http"]
            found[(known.flag, known.env, f"endpoints[].{known.path[0]}")] = commands
    found[("--config", "TIDEGATE_CONFIG", "")] = ["gateway", "agent", "forward"]
    for (flag, env, key), commands in found.items():
        yield f"`{flag}`", f"`{env}`", f"`{key}`" if key and " " not in key else key, ", ".join(commands)


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render(), encoding="utf-8")
