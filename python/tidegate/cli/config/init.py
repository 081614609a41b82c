"""`tidegate config init`: a commented file to begin with."""

from importlib.resources import files
from pathlib import Path

import click

from tidegate.cli.config.files import role_option
from tidegate.errors import ConfigError

__all__ = ["init"]

_NAMES = {"gateway": "tidegate.yaml", "agent": "agent.yaml", "forward": "forward.yaml"}


@click.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@role_option("the gateway's")
@click.option("--domain", metavar="NAME", help="A public gateway: TLS, tokens for agents, and a key to make them.")
@click.option("--cert", metavar="FILE", help="With --domain: the certificate chain, for the name and all below it.")
@click.option("--key", metavar="FILE", help="With --domain: the key of that certificate.")
def init(file: Path | None, role: str | None, domain: str | None, cert: str | None, key: str | None) -> None:
    """
    Write a commented file to begin with: tidegate.yaml, agent.yaml or forward.yaml.

    With --domain it is a gateway for the Internet: the file, a fresh key beside it (token.key, for your eyes only), and
    on the screen the DNS records, the commands, and a token for one endpoint. Where the certificate cannot be read or
    is for other names, a warning says so.

    A file that is there already is left alone, and told as an error.

    \b
    Examples:
      tidegate config init
      tidegate config init --role agent ~/.config/tidegate/agent.yaml
      tidegate config init --domain gate.example.com --cert fullchain.pem --key privkey.pem
    """
    context = click.get_current_context()
    if domain is None and (cert is not None or key is not None):
        raise click.UsageError("--cert and --key belong to --domain", context)
    if (cert is None) != (key is None):
        raise click.UsageError("--cert and --key belong together", context)
    if domain is not None and role not in (None, "gateway"):
        raise click.UsageError(f"--domain belongs to a gateway, not to --role {role}", context)
    name = _NAMES[role or "gateway"]
    file = Path(name) if file is None else file / name if file.is_dir() else file
    if domain is not None:
        # Cryptography takes a while to load.
        from tidegate.cli.config.covering import doubts  # noqa: PLC0415
        from tidegate.cli.config.public import Certificate, domain_of, public  # noqa: PLC0415

        given = Certificate(cert, key) if cert is not None and key is not None else None
        click.echo(public(domain, file, given))
        for doubt in doubts(domain_of(domain), given.cert, given.key) if given is not None else ():
            click.echo(f"warning: {doubt}", err=True)
        return
    text = files("tidegate.config").joinpath("starters", name).read_text(encoding="utf-8")
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(text)
    except FileExistsError:
        raise ConfigError(f"{file} is there already; it was left alone") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {(error.strerror or str(error)).lower()}") from None
    click.echo(f"{file}: written (`tidegate config check {file}` checks it)")
