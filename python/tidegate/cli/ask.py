"""
Asks the admin listener of a running gateway, agent or forward, over TLS where its URL says so.

What is asked, and how an answer is printed, is the commands'.
"""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import click

from tidegate.config.connect import read_token
from tidegate.control.logs import escape
from tidegate.errors import ConfigError, TidegateError

__all__ = ["AdminUrl", "admin_options"]

DEFAULT_URL = "http://127.0.0.1:8003"
ANSWER_SECONDS = 5.0
MAX_ANSWER = 64 * 1024 * 1024

_OPTIONS = (
    ("--url", "URL", "The admin listener to ask.", "TIDEGATE_ADMIN_URL", DEFAULT_URL),
    ("--ca", "FILE", "PEM file of the only authorities to trust for https://; by default the system's.", "", None),
    ("--cert", "FILE", "PEM file of the client certificate to show.", "", None),
    ("--key", "FILE", "PEM file of its private key.", "", None),
    (
        "--token-file",
        "FILE",
        "File with the token to show, where `admin.auth` asks for one.",
        "TIDEGATE_ADMIN_TOKEN_FILE",
        None,
    ),
)


@dataclass(frozen=True)
class AdminUrl:
    """Where an admin listener is, and how it is known."""

    url: str
    """`http://HOST:PORT` or `https://HOST:PORT`."""
    ca: str | None = None
    """The only authorities to trust."""
    cert: str | None = None
    """Our certificate."""
    key: str | None = None
    """Its key."""
    insecure: bool = False
    """Any certificate will do."""
    token_file: str | None = None
    """Where the token is that is shown; none: none is."""

    def ask(self, path: str, method: str = "GET", *, seconds: float = ANSWER_SECONDS, also: int = 200) -> Any:
        """The answer, a JSON object; `also` is a status that is an answer, too. Everything else is an error."""
        self._check()
        # An admin listener is never behind the proxy that the environment names for the web.
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        if self.url.startswith("https:"):
            handlers.append(urllib.request.HTTPSHandler(context=self._context()))
        request = urllib.request.Request(self.url.rstrip("/") + path, method=method)  # noqa: S310  checked above
        if self.token_file is not None:
            request.add_unredirected_header("x-tidegate-authorization", f"Bearer {_token(self.token_file)}")
        try:
            with urllib.request.build_opener(*handlers).open(request, timeout=seconds) as response:
                answer = _read(response)
        except urllib.error.HTTPError as refusal:
            answer = _read(refusal)
            if refusal.code != also:
                raise TidegateError(f"{self.url} answered {refusal.code}: {escape(_detail(answer))}") from None
        except OSError as problem:
            reason = getattr(problem, "reason", None) or problem
            why = getattr(reason, "strerror", None) or str(reason)
            raise TidegateError(
                f"nothing answers at {self.url} ({why.lower()}); start `tidegate gateway`, or give the admin "
                "listener's --url"
            ) from None
        if not isinstance(answer, dict):
            raise TidegateError(
                f"{self.url} does not answer like an admin listener of tidegate; name the right one with --url"
            )
        return answer

    def _check(self) -> None:
        try:
            parts = urlsplit(self.url)
            fits = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or True)
        except ValueError:
            fits = False
        if not fits:
            raise ConfigError(f"{self.url!r} is no URL of an admin listener (write --url http://HOST:PORT)")
        if not self.url.startswith("https:") and (self.ca or self.cert or self.key or self.insecure):
            raise ConfigError(f"{self.url} speaks no TLS (write --url https://HOST:PORT)")
        if self.token_file is not None and not self.url.startswith("https:") and not _is_here(parts.hostname or ""):
            raise ConfigError(
                f"{self.url} would show the token to everybody on the way (write --url https://HOST:PORT)"
            )
        if (self.cert is None) != (self.key is None):
            raise ConfigError("--cert and --key belong together")

    def _context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key, password=lambda: b"")
        except (OSError, ValueError) as error:
            named = ", ".join(name for name in (self.ca, self.cert, self.key) if name)
            raise ConfigError(f"{named}: {str(getattr(error, 'strerror', None) or error).lower()}") from None
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def admin_options(command: Callable[..., Any], *, optional: bool = False) -> Callable[..., Any]:
    """`--url` and its TLS; the command gets them as `admin`, nothing where it is `optional` and was not given."""

    def with_admin(
        *,
        url: str | None,
        ca: str | None,
        cert: str | None,
        key: str | None,
        token_file: str | None,
        insecure_skip_verify: bool,
        **rest: Any,
    ) -> Any:
        if url is None:
            return command(admin=None, **rest)
        return command(admin=AdminUrl(url, ca, cert, key, insecure_skip_verify, token_file), **rest)

    with_admin.__doc__ = command.__doc__
    with_admin.__name__ = command.__name__
    with_admin.__click_params__ = list(getattr(command, "__click_params__", []))  # type: ignore[attr-defined]
    flag = click.option(
        "--insecure-skip-verify", is_flag=True, help="Accept any certificate: anybody on the way can read along."
    )
    decorated: Callable[..., Any] = flag(with_admin)
    for name, label, words, usual_env, usual in reversed(_OPTIONS):
        # Where it is optional, only --url says that somebody is to be asked.
        env, default = ("", None) if optional and name == "--url" else (usual_env, usual)
        option = click.option(
            name,
            metavar=label,
            help=words,
            envvar=env or None,
            show_envvar=bool(env),
            default=default,
            show_default=default is not None,
        )
        decorated = option(decorated)
    return decorated


def _token(name: str) -> str:
    try:
        return read_token(name)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--token-file: {error}") from None


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _read(response: Any) -> Any:
    try:
        return json.loads(response.read(MAX_ANSWER))
    except (OSError, ValueError):
        return None


def _detail(answer: Any) -> str:
    if isinstance(answer, dict) and (answer.get("detail") or answer.get("error")):
        return str(answer.get("detail") or answer["error"])
    return "this is no admin listener of tidegate; name the right one with --url"
