"""
The command `tidegate`: finds the subcommand, and turns errors into one sentence and an exit code.

A subcommand is imported when it is used, so that `--help` and completion answer at once.
"""

import os
import sys
from collections.abc import Sequence

import click

from tidegate import __version__
from tidegate.cli.lazy import Lazy
from tidegate.errors import ConfigError, TidegateError

__all__ = ["cli", "main"]

_COMMANDS = {
    "gateway": "Accept visitors and agents, and bring them together.",
    "agent": "Offer a local service to a gateway, as an endpoint.",
    "forward": "Reach a TCP endpoint of a gateway from a local port.",
    "config": "Check, explain, show, begin or import a configuration.",
    "token": "Make keys, sign tokens, and tell what they are good for.",
    "reload": "Make a running gateway read its configuration again.",
    "status": "Show what a gateway, agent or forward is doing.",
    "demo": "Start everything on free local ports and try every path.",
    "piko": "Run the command lines and files of Piko.",
    "kiagateway": "Run the file of kiagateway.",
    "nanoproxy": "Run the file of NanoProxy.",
    "quic-server": "Run the command line of quic-reverse-http-tunnel's server.",
    "quic-client": "Run the command line of its agent that serves CONNECT.",
    "quic-client-tcp": "Run the command line of its agent that leads to one address.",
    "completion": "Print the completion script of a shell.",
}


@click.group(
    cls=Lazy,
    package="tidegate.cli",
    known=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="tidegate", message="%(prog)s %(version)s")
def cli() -> None:
    """
    One gate for the services you can reach and the services you cannot.

    A service without a public address becomes reachable in two commands:

    \b
      tidegate gateway                # where visitors can come: proxy on 8000, agents on 8001
      tidegate agent http web 3000    # next to the service on port 3000
      curl http://web.localhost:8000  # a visitor

    Every command has its own --help. Exit codes: 0 a clean stop, 1 a failure while running, 2 a mistake in the
    command line or configuration, 130 Ctrl-C.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of the program."""
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = cli.main(arguments, prog_name="tidegate", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "tidegate"
        return _tell(f"{_sentence(error.format_message())} (see `{command} --help`)", 2)
    except click.ClickException as error:
        return _tell(_sentence(error.format_message()), 2)
    except ConfigError as error:
        for mistake in error.mistakes:
            _tell(mistake, 2)
        return 2
    except TidegateError as error:
        return _tell(str(error), 1)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # The reader has gone, and Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code if isinstance(code, int) else 0


def _sentence(message: str) -> str:
    # Some of click's messages have several lines.
    message = " ".join(message.split()).rstrip(".")
    return message[:1].lower() + message[1:]


def _tell(message: str, code: int) -> int:
    click.echo(f"error: {message}", err=True)
    return code


if __name__ == "__main__":
    main()
