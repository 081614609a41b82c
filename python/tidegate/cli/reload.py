"""`tidegate reload`: asks a running gateway to read its configuration again."""

import click

from tidegate.cli.ask import AdminUrl, admin_options
from tidegate.control import wording
from tidegate.control.logs import escape
from tidegate.errors import TidegateError

__all__ = ["reload"]

# A file with many thousands of routes takes seconds to read.
READING_SECONDS = 60.0


@click.command()
@admin_options
def reload(admin: AdminUrl) -> None:
    """
    Make a running gateway read its configuration again.

    The new configuration is in force whole when this returns, or it is refused whole, every reason is told and nothing
    has changed. A gateway also follows its files by itself, and reads them at SIGHUP.

    \b
    Examples:
      tidegate reload
      tidegate reload --url https://gate.internal:8003 --cert operator.pem --key operator.key
    """
    answer = admin.ask("/reload", "POST", seconds=READING_SECONDS, also=422)
    if answer.get("result") != "applied":
        reasons = answer.get("reasons") or [answer.get("detail") or answer.get("error")]
        raise TidegateError("refused, the configuration before stays in force: " + "; ".join(map(_plain, reasons)))
    click.echo(
        f"applied in {float(answer['seconds']):.2f} s: {_plain(wording.difference(answer.get('changes') or {}))}"
    )


def _plain(text: object) -> str:
    return escape(str(text))
