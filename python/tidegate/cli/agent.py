"""`tidegate agent`: offers local services as endpoints."""

import base64
import os
import secrets
from dataclasses import replace
from typing import Any

import click

from tidegate.cli.options import (
    MAIN,
    PLAIN_TLS,
    Command,
    KnobOption,
    config_option,
    given,
    knob_options,
    short_tls_options,
    spell_out_tls,
    start,
)  # fmt: skip
from tidegate.config.knobs import Knob, knobs
from tidegate.config.model import CONNECT, Agent, Offer
from tidegate.config.sources import AGENT_FILE, Source, find_file, options
from tidegate.config.values import endpoint_name, service
from tidegate.errors import ConfigError

__all__ = ["agent"]

SERVICE = "Local service"
EITHER = "Short for whichever of the two speaks TLS"

_PLAIN_TLS = {known.flag: known for known in PLAIN_TLS}
_NOTES = """
    ADDR is 3000 (on localhost), HOST:3000{schemes}. Without ENDPOINT a name is picked that nobody can guess.
    The gateway's address is --connect, by default http://localhost:8001. A file is read where --config,
    TIDEGATE_CONFIG or ~/.config/tidegate/agent.yaml names one; its endpoints then give way to the one written here.
"""


def _prefixed(known: Knob) -> Knob:
    flag = "--service-" + known.flag.removeprefix("--")
    return replace(known, flag=flag, env="TIDEGATE_" + flag.removeprefix("--").replace("-", "_").upper())


_SERVICE_TLS = {plain: _prefixed(known) for plain, known in _PLAIN_TLS.items()}
_ALLOW = next(known for known in knobs(Offer) if known.path[0] == "allow")
_OFFER = {known.path[0]: known for known in knobs(Offer) if known.path[0] in ("host_header", "protocol", "health")}
_IDLE = {known.path[0]: known for known in knobs(Offer) if known.path[0] == "idle"}


@click.group()
def agent() -> None:
    """
    Offer local services to a gateway, as endpoints.

    The agent dials out, so the service needs no address that others can reach.

    \b
    Examples:
      tidegate agent http web 3000          # http://web.localhost:8000 at a gateway on this machine
      tidegate agent http 3000              # the same under a name that nobody can guess
      tidegate agent tcp postgres 5432      # for `tidegate forward 5432 postgres`
      tidegate agent udp dns 10.0.0.53:53 --connect https://gate.example.com:8001
      tidegate agent connect dc1 --allow 10.0.0.0/8:10250    # each stream says by CONNECT where it leads
      tidegate agent start --config agent.yaml
    """


def _one(kind: str, target: tuple[str, ...], config: str | None) -> int:
    if not 1 <= len(target) <= 2:
        raise click.UsageError("expected [ENDPOINT] ADDR", click.get_current_context())
    try:
        name = endpoint_name(target[0]) if len(target) == 2 else _unguessable()
        local = service(target[-1], kind)
        if local.kind != kind:
            raise ValueError(f"{target[-1]!r} is no address for {kind} (use `tidegate agent {local.kind}`)")
    except ValueError as error:
        raise ConfigError(str(error)) from None
    flags = given(click.get_current_context())
    offer: dict[str, Any] = {"name": name, "to": str(local)}
    shorthands = _chosen(_PLAIN_TLS, flags)
    for plain, value in _chosen(_SERVICE_TLS, flags).items():
        offer[_PLAIN_TLS[plain].path[-1]] = value
    offer.update(_chosen(_IDLE if kind == "udp" else _OFFER, flags))

    source = Source(Agent, find_file(Agent, config, os.environ), flags, dict(os.environ), {"endpoints": [offer]})
    if shorthands:
        gateway_tls = any(url.startswith(("https:", "wss:")) for url in source.read().connect.urls)
        _sort_out(shorthands, gateway_tls, local.tls, flags, offer)
    return start(source.read(), str(source))


def _chosen(known: dict[str, Knob], flags: dict[str, Any]) -> dict[str, Any]:
    """Values of options that belong to the one endpoint of the command line, by option or environment."""
    found = {}
    for plain, each in known.items():
        value = flags.pop(each.flag, None) or os.environ.get(each.env)
        if value:
            found[plain] = os.path.abspath(os.path.expanduser(value)) if each.label == "FILE" else value
    return found


def _sort_out(
    shorthands: dict[str, Any], gateway_tls: bool, service_tls: bool, flags: dict[str, Any], offer: dict[str, Any]
) -> None:
    """Gives `--ca` and its like to the side that speaks TLS; where both do, only the user can say."""
    for plain, value in shorthands.items():
        name = plain.removeprefix("--")
        if gateway_tls and service_tls:
            raise ConfigError(
                f"{plain}: for the gateway or the local service? write --connect-{name} or --service-{name}"
            )
        if not gateway_tls and not service_tls:
            raise ConfigError(f"{plain}: neither the gateway nor the local service speaks TLS (write https://)")
        if gateway_tls:
            flags.setdefault(f"--connect-{name}", value)
        else:
            offer.setdefault(_PLAIN_TLS[plain].path[-1], value)


def _unguessable() -> str:
    return base64.b32encode(secrets.token_bytes(10)).decode().lower()


def _http(target: tuple[str, ...], config: str | None, **_: object) -> int:
    return _one("http", target, config)


def _tcp(target: tuple[str, ...], config: str | None, **_: object) -> int:
    return _one("tcp", target, config)


def _udp(target: tuple[str, ...], config: str | None, **_: object) -> int:
    return _one("udp", target, config)


def _connect(endpoint: str, config: str | None, **_: object) -> int:
    flags = given(click.get_current_context())
    spell_out_tls(flags)
    try:
        offer: dict[str, Any] = {"name": endpoint_name(endpoint), "to": CONNECT, **_chosen({"allow": _ALLOW}, flags)}
    except ValueError as error:
        raise ConfigError(str(error)) from None
    source = Source(Agent, find_file(Agent, config, os.environ), flags, dict(os.environ), {"endpoints": [offer]})
    return start(source.read(), str(source))


def _start(config: str | None, **_: object) -> int:
    flags = given(click.get_current_context())
    spell_out_tls(flags)
    source = Source(Agent, find_file(Agent, config, os.environ), flags, dict(os.environ))
    loaded = source.read()
    if not loaded.endpoints and source.file is None:
        raise ConfigError(f"no configuration: write --config FILE, or put one at {AGENT_FILE}")
    return start(loaded, str(source))


def _params(kind: str) -> list[click.Parameter]:
    parameters: list[click.Parameter] = [
        click.Argument(["target"], nargs=-1, metavar="[ENDPOINT] ADDR"),
        config_option("A configuration, such as agent.yaml."),
        *knob_options(options(Agent)),
    ]
    if kind == "tcp":
        parameters.append(KnobOption(_OFFER["health"], SERVICE))
    if kind == "udp":
        parameters.append(KnobOption(_IDLE["idle"], SERVICE))
    if kind == "http":
        parameters += knob_options(_OFFER.values(), lambda _: SERVICE)
        parameters += knob_options(_SERVICE_TLS.values(), lambda _: SERVICE)
    return parameters + knob_options(_PLAIN_TLS.values(), lambda _: EITHER)


agent.add_command(
    Command(
        "http",
        callback=_http,
        params=_params("http"),
        short_help="Offer a local web service.",
        help=f"""
    Offer a local web service as an endpoint.

    \b
    Examples:
      tidegate agent http web 3000
      tidegate agent http web https://localhost:8443 --service-insecure-skip-verify
      tidegate agent http web 3000 --connect https://gate.example.com:8001 --token-file token
    {_NOTES.format(schemes=", http://HOST:3000 or https://HOST:3000")}""",
    )
)
agent.add_command(
    Command(
        "tcp",
        callback=_tcp,
        params=_params("tcp"),
        short_help="Offer a local TCP service.",
        help=f"""
    Offer a local TCP service as an endpoint.

    \b
    Examples:
      tidegate agent tcp postgres 5432
      tidegate agent tcp ssh 192.168.1.5:22 --connect https://gate.example.com:8001
    {_NOTES.format(schemes=" or tcp://HOST:3000")}""",
    )
)
agent.add_command(
    Command(
        "udp",
        callback=_udp,
        params=_params("udp"),
        short_help="Offer a local UDP service.",
        help=f"""
    Offer a local UDP service as an endpoint.

    Datagrams are carried by QUIC and nothing else, so the gateway's URL begins with https://. One that is larger than
    the path carries, about 1,150 bytes at least, is dropped and told of in the log.

    \b
    Examples:
      tidegate agent udp dns 10.0.0.53:53 --connect https://gate.example.com:8001
      tidegate agent udp syslog 514 --idle 10s --connect https://gate.example.com:8001
    {_NOTES.format(schemes=" or udp://HOST:3000")}""",
    )
)
agent.add_command(
    Command(
        "connect",
        callback=_connect,
        params=[
            click.Argument(["endpoint"], metavar="ENDPOINT"),
            config_option("A configuration, such as agent.yaml."),
            KnobOption(_ALLOW, MAIN),
            *knob_options(options(Agent)),
            *short_tls_options(),
        ],
        short_help="Offer the network around the agent, by CONNECT.",
        help="""
    Offer the network around the agent, as an endpoint whose streams each say by CONNECT where they lead.

    Nothing can be connected to but what --allow names: networks and names, with a port, ports or every port. Addresses
    of this machine, of its link and of a cloud's metadata need an entry of their own.

    \b
    Examples:
      tidegate agent connect dc1 --allow 10.0.0.0/8:10250 --allow '*.corp.example:443'
      tidegate agent connect lab --allow '[fd00::/8]:443' --allow db.example:1-1024 --allow 127.0.0.1:8080

    The gateway's address is --connect, by default http://localhost:8001. A file is read where --config,
    TIDEGATE_CONFIG or ~/.config/tidegate/agent.yaml names one; its endpoints then give way to the one written here.
    """,
    )
)
agent.add_command(
    Command(
        "start",
        callback=_start,
        params=[
            config_option("The configuration; by default ~/.config/tidegate/agent.yaml."),
            *knob_options(options(Agent)),
            *short_tls_options(),
        ],
        short_help="Offer the endpoints of a configuration file.",
        help="""
    Offer the endpoints of a configuration file.

    \b
    # agent.yaml
    connect: {urls: ["https://gate.example.com:8001"], token_file: token}
    endpoints: [{name: web, to: "http://localhost:3000"}, {name: pg, to: "tcp://localhost:5432"}]
    """,
    )
)
