"""
Command-line options from the knobs of a model, and the one way in which every role is started.

What an option means stands in `config.model`; here it only becomes a line of `--help`.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tidegate.config.credentials import (
    admin_advice,
    admin_set,
    certificate_sets,
    password_advice,
    password_sets,
    verifier_sets,
)
from tidegate.config.files import Where
from tidegate.config.knobs import Knob, knobs
from tidegate.config.looks import Looks
from tidegate.config.model import Agent, ClientTls, Forward, Gateway
from tidegate.config.placed import placed
from tidegate.config.snapshot import agent_snapshot, describe, forward_snapshot, gateway_snapshot, new_agent_id, note
from tidegate.config.sources import Source
from tidegate.config.tree import Places, Tree
from tidegate.errors import ConfigError

if TYPE_CHECKING:
    from tidegate.auth.credentials import Credentials
    from tidegate.control.state import Admin, Configuration, Tls

__all__ = [
    "PLAIN_TLS", "Command", "KnobOption", "config_option", "given", "knob_options", "section_of", "short_tls_options",
    "spell_out_tls", "start", "start_source",
]  # fmt: skip

MAIN = "Options"
GATEWAY_TLS = "TLS to the gateway (its URL begins with https://)"
TUNING = "Tuning"


PLAIN_TLS = tuple(knobs(ClientTls))
"""`--ca`, `--cert`, `--key`, `--server-name`, `--insecure-skip-verify`."""


class KnobOption(click.Option):
    """An option that is a knob of the model."""

    def __init__(self, known: Knob, section: str, names: Iterable[str] = ()) -> None:
        default = f"default {known.default}" if known.default and not known.is_flag else ""
        extra = "; ".join(part for part in (known.env, default) if part)
        super().__init__(
            [known.flag, *names, known.flag.removeprefix("--").replace("-", "_").replace(".", "_")],
            help=f"{known.help} [{extra}]" if extra else known.help,
            metavar=None if known.is_flag else known.label + (" ..." if known.multiple else ""),
            is_flag=known.is_flag,
            multiple=known.multiple,
            default=None,
        )
        self.known = known
        self.section = section


class Command(click.Command):
    """A command whose options are listed by section."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {MAIN: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(parameter, "section", MAIN), []).append(record)
        # What people use every day stands first, the rest last.
        for name in sorted(sections, key=lambda each: (each == TUNING, each != MAIN)):
            with formatter.section(name):
                formatter.write_dl(sections[name])


def section_of(known: Knob) -> str:
    """The heading under which an option is listed."""
    if known.path[0] == "connect" and known.path[-1] in ClientTls.model_fields:
        return GATEWAY_TLS
    return TUNING if known.advanced else MAIN


def knob_options(known: Iterable[Knob], section: Callable[[Knob], str] = section_of) -> list[click.Parameter]:
    """One option for each knob."""
    return [KnobOption(each, section(each)) for each in known]


def config_option(what: str) -> click.Option:
    """`--config FILE`."""
    return click.Option(["--config", "config"], metavar="FILE", help=f"{what} [TIDEGATE_CONFIG]")


def given(ctx: click.Context) -> dict[str, Any]:
    """The options that were written, by flag."""
    found: dict[str, Any] = {}
    for parameter in ctx.command.get_params(ctx):
        if isinstance(parameter, KnobOption) and parameter.name is not None:
            value = ctx.params.get(parameter.name)
            if value is not None and value is not False and value != ():
                found[parameter.known.flag] = list(value) if isinstance(value, tuple) else value
    return found


def short_tls_options() -> list[click.Parameter]:
    """`--ca` and its like where only the connection to the gateway can be meant."""
    return knob_options(PLAIN_TLS, lambda _: "Short for the same --connect-... option")


def spell_out_tls(flags: dict[str, Any]) -> None:
    """Turns `--ca` and its like, or their environment names, into the `--connect-` options they stand for."""
    for known in PLAIN_TLS:
        value = flags.pop(known.flag, None) or os.environ.get(known.env)
        if value:
            flags.setdefault(f"--connect-{known.flag.removeprefix('--')}", value)


def start(
    config: Gateway | Agent | Forward,
    source: str,
    again: Callable[[Looks], Gateway | Agent | Forward] | None = None,
    files: Looks | None = None,
    tree: Callable[[], Tree] | None = None,
) -> int:
    """
    Runs what the configuration describes, and returns the exit code.

    `again` reads it anew while it runs and notes the files that it reads; `files` are those that it was read from;
    `tree` is what was written, for what is told as wrong.
    """
    role = {Gateway: "gateway", Agent: "agent", Forward: "forward"}[type(config)]
    agent_id = new_agent_id()

    from tidegate.cli.run import run  # noqa: PLC0415  heavy, and not needed to find a mistake
    from tidegate.control.state import Configuration, LogOptions  # noqa: PLC0415
    from tidegate.control.tokens import TokenSource  # noqa: PLC0415

    token = None if isinstance(config, Gateway) else TokenSource.of(config.connect)
    printed = token.read() if token is not None and token.command is not None else None
    before: Configuration | None = None

    def whole(config: Gateway | Agent | Forward) -> Configuration:
        nonlocal before
        remark = note(config)
        where = Places(tree) if tree else None
        snapshot = _snapshot(config, agent_id, where, printed)
        credentials = _credentials(config, before, where)
        before = Configuration(
            snapshot=snapshot,
            source=f"{source}; {remark}" if remark else source,
            grace_period=config.grace_period,
            log=LogOptions(format=config.log.format, level=config.log.level),
            admin=_admin(config, credentials) if config.admin.bind else None,
            credentials=credentials,
            keys=frozenset() if credentials is None else credentials.key_ids(),
        )
        return before

    def anew(files: Looks) -> Configuration:
        assert again is not None  # noqa: S101
        return whole(again(files))

    return run(role, whole(config), describe=describe(config), again=anew if again else None, files=files, token=token)


def start_source(source: Source[Gateway]) -> int:
    """Runs a gateway that follows its configuration while it runs, and returns the exit code."""
    files: Looks = {}

    # Asked for where something is wrong, so the file is read again for it.
    return start(source.read(files), str(source), source.again, files, source.tree)


def _snapshot(config: Gateway | Agent | Forward, agent_id: str, where: Where | None, token: str | None) -> bytes:
    if isinstance(config, Gateway):
        return gateway_snapshot(config, where)
    if isinstance(config, Agent):
        return agent_snapshot(config, agent_id, where, token)
    return forward_snapshot(config, where, token)


def _credentials(
    config: Gateway | Agent | Forward, before: "Configuration | None", where: Where | None
) -> "Credentials | None":
    """Who answers what a gateway asks about credentials, where it asks; what `before` has fetched goes on."""
    if not isinstance(config, Gateway):
        return None
    sets, users, certificates = verifier_sets(config), password_sets(config), certificate_sets(config)
    if not sets and not users and not certificates:
        return None
    from tidegate.auth.credentials import Credentials  # noqa: PLC0415  cryptography takes a while to load

    known = before.credentials if before is not None else None
    try:
        made = Credentials(sets, users, certificates, config.tenants, known)
    except ConfigError as error:
        raise ConfigError([placed(config, where, each) for each in error.mistakes]) from None
    made.warnings += [f"admin.auth.verifiers: {said}" for said in admin_advice(config)]
    made.warnings += [f"{key}: {said}" for key, said in password_advice(config)]
    return made


def _admin(config: Gateway | Agent | Forward, credentials: "Credentials | None") -> "Admin":
    """What the admin listener goes by."""
    from tidegate.control.state import Admin  # noqa: PLC0415

    name = admin_set(config) if isinstance(config, Gateway) else None
    auth = credentials[name] if credentials is not None and name is not None else None
    assert config.admin.bind is not None  # noqa: S101  it is asked for first
    return Admin(config.admin.bind, config.admin.hosts, _admin_tls(config.admin), auth)


def _admin_tls(admin: Any) -> "Tls | None":
    """How the admin listener speaks TLS, where it does."""
    from tidegate.control.state import Tls  # noqa: PLC0415

    written = getattr(admin, "tls", None)
    if written is None:
        return None
    shown = written.certificates[0]
    required = written.client_certificate == "required"
    digest = hashlib.sha256()
    for name in filter(None, (shown.cert, shown.key, written.client_ca)):
        with contextlib.suppress(OSError):  # told by whoever shows it
            digest.update(Path(name).read_bytes())
    return Tls(shown.cert, shown.key, written.client_ca, required, written.min_version, digest.hexdigest())
