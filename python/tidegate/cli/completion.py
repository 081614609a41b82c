"""`tidegate completion`: the script that lets a shell complete our commands and options."""

import click
from click.shell_completion import get_completion_class

from tidegate.cli.main import cli

__all__ = ["completion"]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """
    Print the completion script of a shell.

    \b
      eval "$(tidegate completion bash)"                                      # in ~/.bashrc
      eval "$(tidegate completion zsh)"                                       # in ~/.zshrc
      tidegate completion fish > ~/.config/fish/completions/tidegate.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"no completion for {shell}")
    script = kind(cli, {}, "tidegate", "_TIDEGATE_COMPLETE").source()
    click.echo(script)
