"""
`tidegate config init --domain`: everything that a public gateway of one's own needs, and what is left to do.

Writes a configuration and a fresh key, both or none, and overwrites nothing. What the file says is
`starters/public.yaml`.
"""

import json
import os
import re
import time
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from tidegate.auth import signing
from tidegate.config.names import host_name
from tidegate.errors import ConfigError

__all__ = ["Certificate", "domain_of", "public"]

_SECRET = "token.key"  # noqa: S105  the name of a file
_ENDPOINT = "web"
_DAYS = 30

_CERTBOT = "certbot certonly --manual --preferred-challenges dns -d {domain} -d '*.{domain}'"


@dataclass(frozen=True)
class Certificate:
    """Names of files, as they were given."""

    cert: str
    """The chain."""
    key: str
    """Its key."""


def public(domain: str, file: Path, certificate: Certificate | None) -> str:
    """Writes both files and returns what there is to do next."""
    domain = domain_of(domain)
    secret = file.with_name(_SECRET)
    for each in (file, secret):
        if each.exists() or each.is_symlink():
            raise ConfigError(f"{each} is there already; nothing was written")
    key = signing.new_key("HS256").private
    _create(secret, key, 0o600)
    try:
        _create(file, _text(domain, file, certificate).encode(), 0o666)
    except ConfigError:
        secret.unlink()
        raise
    return _next(domain, file, secret, certificate, _token(key.strip()))


def domain_of(written: str) -> str:
    """The domain as it is compared, or a `ConfigError` where no name can stand below it."""
    try:
        domain = host_name(written)
    except ValueError as error:
        raise ConfigError(f"--domain: {error}") from None
    if domain.startswith("[") or re.fullmatch(r"[\d.]+", domain) or "." not in domain:
        raise ConfigError(f"--domain: {written!r} has no names below it (write one such as gate.example.com)")
    return domain


def _text(domain: str, file: Path, certificate: Certificate | None) -> str:
    folder = f"/etc/letsencrypt/live/{domain}"
    shown = certificate or Certificate(f"{folder}/fullchain.pem", f"{folder}/privkey.pem")
    how = ""
    if certificate is None:
        how = f"    # Not there yet? {_CERTBOT.format(domain=domain)}\n"
    values = {
        "domain": domain,
        "file": str(file),
        "cert": _quoted(shown.cert, file),
        "key": _quoted(shown.key, file),
        "secret": _SECRET,
        "how": how,
    }
    text = files("tidegate.config").joinpath("starters", "public.yaml").read_text(encoding="utf-8")
    return re.sub(r"<(\w+)>", lambda found: values[found[1]], text)


def _quoted(name: str, file: Path) -> str:
    """The name of a file as YAML; what is written there starts from the folder of the configuration."""
    if file.parent.resolve() != Path.cwd():
        name = os.path.abspath(os.path.expanduser(name))
    return json.dumps(name.replace("${", "$${"), ensure_ascii=False)


def _create(file: Path, content: bytes, mode: int) -> None:
    try:
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode), "wb") as new:
            new.write(content)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {(error.strerror or str(error)).lower()}") from None


def _token(secret: bytes) -> str:
    now = int(time.time())
    claims = {"iat": now, "exp": now + _DAYS * 86400, "tidegate": {"endpoints": [_ENDPOINT]}}
    return signing.sign(signing.signing_key(secret), "HS256", claims)


def _next(domain: str, file: Path, secret: Path, certificate: Certificate | None, token: str) -> str:
    get = "" if certificate else f"\na certificate for both names, such as\n  {_CERTBOT.format(domain=domain)}\n"
    return f"""\
{file}: written
{secret}: written, for your eyes only: whoever has it makes tokens for this gateway

DNS: two names that lead to this machine (A, and AAAA where it has IPv6)
  {domain}.    A  ADDRESS
  *.{domain}.  A  ADDRESS
{get}
here, with ports 443 and 8001 open to the Internet
  tidegate config check {file}
  tidegate gateway --config {file}

where the application runs, here one on port 3000, which is then at https://{_ENDPOINT}.{domain}
  TIDEGATE_TOKEN={token} \\
  tidegate agent http {_ENDPOINT} 3000 --connect https://{domain}:8001

that token is for the endpoint `{_ENDPOINT}`, for {_DAYS} days; others are made by
  tidegate token sign --key {secret} --endpoint NAME --expires {_DAYS}d"""
