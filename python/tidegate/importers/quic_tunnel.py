"""
Turns the command lines of quic-reverse-http-tunnel into our configurations; it has no files.

Pure: flags in, a configuration and notes out. That they may be written with one dash or two is decided here, too, so
that a command line reads the same whether it is run or imported.
"""

import posixpath
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from tidegate.config.tree import Path_, Tree
from tidegate.config.values import bind_parts
from tidegate.errors import ConfigError
from tidegate.importers.translation import Note, Translation

__all__ = [
    "CLIENT", "CLIENT_TCP", "COMMAND_LINE", "FLAGS", "LOG_FLAGS", "SERVER", "Flag", "Line", "agent", "find", "server",
    "words",
]  # fmt: skip

SERVER, CLIENT, CLIENT_TCP = "quic-server", "quic-client", "quic-client-tcp"

COMMAND_LINE = "command line"
"""What a command line is called that runs now."""

ENDPOINT = "quic-tunnel"
"""What its agents offer: they name nothing."""

SERVER_NAME = "quic-tunnel-server"
"""Whom its agents expect, whatever address they dial."""

# Both of its programs ask after 2 s without a sign of life and give up after 5.
_TUNNEL = {"ping_interval": 2, "ping_timeout": 3}
# It ends no connection because nothing is said; our streams have an end for that.
_TIMEOUTS = {"idle": "1d"}


@dataclass(frozen=True)
class Flag:
    """A flag of one of its programs."""

    name: str
    """Without dashes."""
    label: str
    """What stands for the value."""
    help: str
    """What it is."""
    default: str = ""
    """Its value where it is not written."""


_CERT = Flag("cert-file", "FILE", "PEM file of our certificate.")
_KEY = Flag("cert-key", "FILE", "PEM file of its private key.")
_CONNECT = (
    Flag("server", "HOST:PORT", f"The server; its certificate is for {SERVER_NAME}.", "127.0.0.1:9999"),
    Flag("ca-file", "FILE", "PEM file of the authority of the server's certificate."),
    _CERT,
    _KEY,
)
FLAGS: Mapping[str, tuple[Flag, ...]] = {
    SERVER: (
        Flag("listen-quic", "ADDR", "Address for agents (UDP).", "0.0.0.0:8888"),
        Flag("listen-tcp", "ADDR", "Address for TCP connections, each a stream to an agent.", "0.0.0.0:8443"),
        _CERT,
        _KEY,
        Flag("client-ca-file", "FILE", "PEM file of the authority of the agents' certificates."),
    ),
    CLIENT: _CONNECT,
    CLIENT_TCP: (*_CONNECT, Flag("upstream", "HOST:PORT", "Where every stream leads.")),
}
"""The flags of each program."""

LOG_FLAGS: Mapping[str, bool] = {
    "v": False,
    "vmodule": False,
    "log_dir": False,
    "log_file": False,
    "log_file_max_size": False,
    "log_backtrace_at": False,
    "stderrthreshold": False,
    "logtostderr": True,
    "alsologtostderr": True,
    "add_dir_header": True,
    "skip_headers": True,
    "skip_log_headers": True,
    "one_output": True,
    "legacy_stderr_threshold_behavior": True,
}
"""The flags of its log, which all three have; whether each is a switch."""

_OPERATORS = re.compile(r"[0-9]*(?:&|&&|\||\|\||;|[<>].*)")


@dataclass(frozen=True)
class Line:
    """A command line that was found in a text."""

    program: str
    """One of the three."""
    words: tuple[str, ...]
    """What follows it."""
    where: str
    """File and line."""


def find(text: str, name: str) -> Line:
    """The one command line in a shell script or in a unit of systemd."""
    found = list(_lines(text, name))
    if not found:
        raise ConfigError(f"{name}: no command line of {', '.join(FLAGS)} in it")
    if len(found) > 1:
        places = ", ".join(line.where for line in found)
        raise ConfigError(f"{name}: more than one command line ({places}); import each from a file of its own")
    for word in found[0].words:
        if "$" in word or "`" in word:
            raise ConfigError(f"{found[0].where}: {word!r} is filled in by a shell (write what it stands for)")
    return found[0]


def _lines(text: str, name: str) -> Iterator[Line]:
    is_unit = re.search(r"^ExecStart\s*=", text, re.MULTILINE) is not None
    number, joined = 0, ""
    for following, written in enumerate(text.splitlines(), start=1):
        number = number if joined else following
        joined += written.strip()
        if joined.endswith("\\"):
            joined = joined.removesuffix("\\") + " "
            continue
        line, joined = joined, ""
        if is_unit:
            key, _, line = line.partition("=")
            if key.strip() != "ExecStart":
                continue
            line = line.strip().lstrip("-@:+!|")
        try:
            parts = shlex.split(line, comments=True)
        except ValueError:
            continue
        at = next((position for position, word in enumerate(parts) if posixpath.basename(word) in FLAGS), None)
        if at is not None:
            rest = parts[at + 1 :]
            end = next((position for position, word in enumerate(rest) if _OPERATORS.fullmatch(word)), len(rest))
            yield Line(posixpath.basename(parts[at]), tuple(rest[:end]), f"{name}:{number}")


def words(program: str, written: Iterable[str]) -> list[str]:
    """A command line with every flag of the program as `--name`; Go takes one dash or two, and switches a value."""
    valued = {flag.name for flag in FLAGS[program]} | {name for name, switch in LOG_FLAGS.items() if not switch}
    switches = {name for name, switch in LOG_FLAGS.items() if switch}
    taken: list[str] = []
    rest = iter(written)
    for word in rest:
        name, equals, value = re.sub(r"^--?", "", word).partition("=")
        if not word.startswith("-") or name not in valued | switches:
            taken.append(word)
        elif name in valued and not equals:
            # What lacks its value is told by whoever reads the words.
            taken += [f"--{name}", *islice(rest, 1)]
        elif name in valued:
            taken += [f"--{name}", value]
        elif not equals or value in ("1", "t", "T", "true", "TRUE", "True"):
            taken.append(f"--{name}")
        elif value not in ("0", "f", "F", "false", "FALSE", "False"):
            raise ConfigError(f"--{name}: {value!r} is neither true nor false")
    return taken


def server(flags: Mapping[str, str], name: str) -> Translation:
    """The gateway for `quic-server`: whoever connects by TCP gets a stream to the agent with the fewest."""
    _complete(SERVER, flags, name)
    ours, notes = _begun(flags, name)
    certificate = {"cert": flags["cert-file"], "key": flags["cert-key"]}
    quic = {
        "bind": _value(SERVER, flags, "listen-quic"),
        "kind": "tunnel",
        "transports": ["quic"],
        "quic_tunnel": {"endpoint": ENDPOINT},
        "tls": {"certificates": [certificate], "client_ca": flags["client-ca-file"], "client_certificate": "required"},
    }
    tcp = {"bind": _value(SERVER, flags, "listen-tcp"), "kind": "tcp", "to": {"endpoint": ENDPOINT}}
    ours.data = {"listeners": {"tcp": tcp, "quic": quic}, **ours.data}
    certificates: Path_ = ("listeners", "quic", "tls", "certificates", 0)
    ours.where |= {
        ("listeners", "tcp", "bind"): _at(name, "listen-tcp"),
        ("listeners", "quic", "bind"): _at(name, "listen-quic"),
        (*certificates, "cert"): _at(name, "cert-file"),
        (*certificates, "key"): _at(name, "cert-key"),
        ("listeners", "quic", "tls", "client_ca"): _at(name, "client-ca-file"),
    }
    return Translation(ours, tuple(notes))


def agent(program: str, flags: Mapping[str, str], allow: Sequence[str], name: str) -> Translation:
    """The agent for `quic-client`, which serves CONNECT, or for `quic-client-tcp`, which leads to one address."""
    _complete(program, flags, name)
    ours, notes = _begun(flags, name)
    at = _value(program, flags, "server")
    _host_and_port(at, _at(name, "server"))
    connect = {
        "urls": [f"https://{at}"],
        "transport": "quic-tunnel",
        "connections": 1,
        "ca": flags["ca-file"],
        "cert": flags["cert-file"],
        "key": flags["cert-key"],
    }
    offer: dict[str, object] = {"name": ENDPOINT}
    if program == CLIENT_TCP:
        _host_and_port(flags["upstream"], _at(name, "upstream"))
        offer |= {"to": f"tcp://{flags['upstream']}"}
    else:
        offer |= {"to": "connect", "allow": list(allow) or ["0.0.0.0/0", "::/0"]}
        if not allow:
            notes.append(Note(name, _OPEN))
    ours.data = {"connect": connect, "endpoints": [offer], **ours.data}
    ours.where |= {
        ("connect", "ca"): _at(name, "ca-file"),
        ("connect", "cert"): _at(name, "cert-file"),
        ("connect", "key"): _at(name, "cert-key"),
    }
    for position in range(len(allow)):
        ours.where[("endpoints", 0, "allow", position)] = _at(name, "allow")
    return Translation(ours, tuple(notes))


_OPEN = (
    "whoever reaches the server's TCP port reaches every address that this machine reaches, except loopback, "
    "link-local and metadata addresses (write --allow 10.0.0.0/8:10250 for what is meant; it may be repeated)"
)


def _at(name: str, flag: str) -> str:
    """Where a flag stands; on the command line that runs nothing more has to be said."""
    return f"--{flag}" if name == COMMAND_LINE else f"{name}: --{flag}"


def _value(program: str, flags: Mapping[str, str], name: str) -> str:
    return flags.get(name) or next(flag.default for flag in FLAGS[program] if flag.name == name)


def _complete(program: str, flags: Mapping[str, str], name: str) -> None:
    missing = [flag for flag in FLAGS[program] if not flag.default and not flags.get(flag.name)]
    if missing:
        raise ConfigError([f"{_at(name, flag.name)} is missing (write --{flag.name} {flag.label})" for flag in missing])


def _host_and_port(text: str, where: str) -> None:
    try:
        host, port = bind_parts(text)
    except ValueError:
        host, port = "", 0
    if not host or port == 0:
        raise ConfigError(f"{where}: {text!r} is no address (write HOST:PORT)")


def _begun(flags: Mapping[str, str], name: str) -> tuple[Tree, list[Note]]:
    """What all three have in common: how tunnels are watched, and the log."""
    ours = Tree(data={"tunnel": dict(_TUNNEL), "timeouts": dict(_TIMEOUTS)}, name=name)
    notes = []
    verbosity = flags.get("v", "0")
    if not re.fullmatch(r"\d{1,3}", verbosity):
        raise ConfigError(f"{_at(name, 'v')}: {verbosity!r} is no number")
    # From 4 on it tells of each stream.
    if int(verbosity) >= 4:
        ours.data["log"] = {"level": "debug"}
    dropped = [f"--{flag}" for flag in LOG_FLAGS if flag in flags and flag != "v"]
    if dropped:
        notes.append(Note(name, f"{', '.join(dropped)} left out: events go to stderr, `--log-format` says how"))
    return ours, notes
