"""`tidegate gateway`: where downstreams and agents meet."""

import os

import click

from tidegate.cli.options import Command, config_option, given, knob_options, start_source
from tidegate.config.model import Gateway
from tidegate.config.sources import Source, find_file, options

__all__ = ["gateway"]


def _gateway(config: str | None, **_: object) -> int:
    """
    Accept visitors and agents, and bring them together.

    Without a configuration every address is on this machine only: visitors on 127.0.0.1:8000, agents on
    127.0.0.1:8001, admin on 127.0.0.1:8003. A visitor names an endpoint by the first label of the host name
    (http://web.localhost:8000) or by the header x-tidegate-endpoint.

    \b
    Examples:
      tidegate gateway
      tidegate gateway --proxy :80 --agents :8001 --workers 2
      tidegate gateway --config tidegate.yaml

    ADDR is HOST:PORT, or :PORT for all interfaces; port 0 lets the system pick. DURATION is seconds or 30s, 1m30s,
    100ms; SIZE is bytes or 64KiB. An option wins over its environment name, that over the file, that over the default.
    """
    source = Source(
        Gateway, find_file(Gateway, config, os.environ), given(click.get_current_context()), dict(os.environ)
    )
    return start_source(source)


gateway = Command(
    "gateway",
    callback=_gateway,
    help=_gateway.__doc__,
    params=[config_option("The configuration, such as tidegate.yaml."), *knob_options(options(Gateway))],
)
