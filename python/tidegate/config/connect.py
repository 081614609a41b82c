"""
How an agent or forward reaches its gateways, as the engine takes it: URLs, a token, HTTP proxies, TLS.

Part of a snapshot of those roles. What a command prints as the token is handed in: nothing is run here.
"""

from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

from tidegate.config.files import Checked, read
from tidegate.config.model import AgentConnect, Connect
from tidegate.config.traffic import client_tls
from tidegate.config.values import header_text

__all__ = ["connect", "read_token", "token_text"]

# Whom agents of quic-reverse-http-tunnel expect, whatever address they dial.
_QUIC_TUNNEL_SERVER = "quic-tunnel-server"


def connect(written: Connect, checked: Checked, env: Mapping[str, str], token: str | None = None) -> dict[str, Any]:
    """The gateways, the way to them, and what is shown to them; `token` is what its command has printed."""
    if written.token is not None:
        token = written.token.get_secret_value()
    if written.token_file is not None:
        token = checked.call("connect.token_file", read_token, written.token_file)
    if written.says_something() and not any(url.startswith(("https", "wss")) for url in written.urls):
        checked.mistake("connect", "has TLS settings, but no URL begins with https://")
    return {
        "urls": list(written.urls),
        "token": token,
        "renews": written.token_file is not None or written.token_command is not None,
        "tenant": written.tenant,
        "transport": written.transport,
        "proxies": [checked.call("connect.proxy", _proxy, written.proxy, url, env) for url in written.urls],
        "tls": _tls(written, checked),
    }


def _tls(written: Connect, checked: Checked) -> dict[str, Any]:
    tls = client_tls(written, "connect", checked)
    if isinstance(written, AgentConnect) and written.transport == "quic-tunnel":
        tls["server_name"] = tls["server_name"] or _QUIC_TUNNEL_SERVER
    return tls


def read_token(name: str) -> str:
    """The token in a file, or a `ValueError` that names the file."""
    return token_text(read(name), f"{name} holds")


def token_text(text: str, what: str) -> str:
    """The token in a text; `what` begins the sentence of the `ValueError` where there is none."""
    token = text.strip().removeprefix("Bearer ").strip()
    if not token or not header_text(token) or " " in token:
        raise ValueError(f"{what} no token (one line of visible ASCII without spaces)")
    return token


def _proxy(given: str | None, url: str, env: Mapping[str, str]) -> str | None:
    """The HTTP proxy for one URL: the one that was asked for, else the environment's, less NO_PROXY."""
    if given is not None:
        return _proxy_form(given, "the proxy")
    parts = urlsplit(url)
    names = ("HTTPS_PROXY", "https_proxy") if parts.scheme in ("https", "wss") else ("http_proxy", "HTTP_PROXY")
    name = next((name for name in names if env.get(name)), None)
    if name is None or _excluded(parts.hostname or "", parts.port, env.get("NO_PROXY") or env.get("no_proxy") or ""):
        return None
    return _proxy_form(env[name], name)


def _proxy_form(proxy: str, what: str) -> str:
    text = proxy if "://" in proxy else f"http://{proxy}"
    try:
        parts = urlsplit(text)
        fits = parts.scheme == "http" and bool(parts.hostname) and parts.path in ("", "/") and header_text(text)
        port = parts.port
    except ValueError:
        fits, port = False, None
    if not fits:  # its text is not shown: it may hold a password
        raise ValueError(f"{what} is no HTTP proxy (write http://HOST:PORT or http://USER:PASSWORD@HOST:PORT)")
    text = text.rstrip("/")
    return text if port is not None else f"{text}:80"


def _excluded(host: str, port: int | None, no_proxy: str) -> bool:
    """True where NO_PROXY (names, .suffixes, addresses, networks, `*`) or a loopback host says to connect directly."""
    try:
        address = ip_address(host)
    except ValueError:
        address = None
    if host == "localhost" or host.endswith(".localhost") or (address is not None and address.is_loopback):
        return True
    for entry in (part.strip().lower() for part in no_proxy.split(",")):
        name, _, wanted_port = entry.partition(":") if entry.count(":") == 1 else (entry, "", "")
        if wanted_port and wanted_port != str(port):
            continue
        suffix = name.lstrip("*").lstrip(".")
        if entry == "*" or (suffix and (host == suffix or host.endswith("." + suffix))):
            return True
        try:
            if address is not None and address in ip_network(name.strip("[]"), strict=False):
                return True
        except ValueError:
            continue
    return False
