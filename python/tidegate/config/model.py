"""
Everything that can be configured. One line per knob: its default, what it does, its flag and environment name.

No default stands anywhere else. Reading files is `load`, precedence `sources`, what the engine gets `snapshot`.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, field_validator, model_validator

from tidegate.config import auth_checks, checks
from tidegate.config.auth import AdminAuth, Tenant, TenantName, Verifier, VerifierName, Words
from tidegate.config.knobs import (
    AccessTarget,
    Addresses,
    Allows,
    Bind,
    Duration,
    Endpoint,
    FileName,
    Knob,
    Label,
    ListenerName,
    Model,
    Networks,
    Parts,
    PortOrBind,
    Positive,
    Size,
    Texts,
    Urls,
    knob,
)  # fmt: skip
from tidegate.config.listeners import LATER, Listener, default_listeners
from tidegate.config.routes import Route
from tidegate.config.tls import AdminTls, ClientTls
from tidegate.config.upstreams import Health, Upstream, UpstreamName, health_written
from tidegate.config.values import Service, bind_parts, header_text, service

__all__ = [
    "CONNECT",
    "SHORTCUTS",
    "AccessLog",
    "Admin",
    "Agent",
    "AgentConnect",
    "ClientTls",
    "Cluster",
    "Connect",
    "Forward",
    "ForwardPort",
    "Gateway",
    "Limits",
    "Listener",
    "Log",
    "Offer",
    "Role",
    "Timeouts",
    "Tunnel",
    "default_listeners",
]  # fmt: skip


class Timeouts(Model):
    """How long to wait for progress. None of them bounds a whole message."""

    connect: Positive = knob(5.0, "Longest time to connect to an address or a gateway.")
    handshake: Positive = knob(10.0, "Longest time for a TLS or WebSocket handshake.")
    head: Positive = knob(10.0, "Longest time from the first byte of a request's head to its last.")
    response: Positive = knob(60.0, "Longest time from the end of a request to the head of its response; then 504.")
    idle: Positive = knob(600.0, "A message or a stream ends when no byte moved in either direction for so long.")
    keep_alive: Positive = knob(75.0, "A downstream connection is closed after so long without a request.")
    upstream_keep_alive: Positive = knob(60.0, "An idle connection to an upstream is kept for so long.")


class AgentTimeouts(Timeouts):
    """The same, with a shorter life for idle connections to local services."""

    upstream_keep_alive: Positive = knob(
        4.0, "An idle connection to the local service is kept for so long; below the 5s after which many close theirs."
    )


class Limits(Model):
    """Sizes and numbers that bound memory."""

    head_bytes: Size = knob(65536, "Largest head of a message, in bytes; a larger one gets 431.")
    head_fields: Annotated[int, Field(ge=1)] = knob(200, "Most fields in the head of a message; more get 431.")
    connections: Annotated[int, Field(ge=1)] = knob(
        10000,
        "Most connections of visitors at once, and as many of agents; a gateway keeps below half of its descriptors "
        "(`ulimit -Hn`, less 200), but at least 16.",
    )
    idle_upstreams: Annotated[int, Field(ge=0)] = knob(256, "Most idle connections kept for an upstream, each worker.")
    retry_percent: Annotated[int, Field(ge=0, le=100)] = knob(
        20, "Share of the requests of the last seconds that may be tried again, in percent."
    )
    http2_streams: Annotated[int, Field(ge=1, le=10000)] = knob(
        128, "Most requests that one connection of HTTP/2 may have running; more are refused."
    )


class Tunnel(Model):
    """How tunnels are watched."""

    ping_interval: Positive = knob(20.0, "A tunnel is asked for a sign of life after so long without one.")
    ping_timeout: Positive = knob(10.0, "A tunnel ends when that sign does not come within so long.")
    congestion: Literal["system", "cubic", "bbr"] = knob(
        "system",
        "How fast a tunnel over QUIC sends: less at every loss (cubic), as fast as it arrives (bbr, experimental), or "
        "system: bbr where the system has it for TCP, else cubic.",
    )


class AccessLog(Model):
    """One line for each request or connection."""

    to: AccessTarget = knob("stdout", "Where the access log goes.", flag="--access-log")
    format: Literal["auto", "text", "json"] = knob("auto", "Its form; auto is text on a terminal, else JSON.")


class Log(Model):
    """Events, on stderr."""

    format: Literal["auto", "text", "json"] = knob(
        "auto", "Form of the events on stderr; auto is text on a terminal, else JSON.", flag="--log-format"
    )
    level: Literal["debug", "info", "warn", "error"] = knob(
        "info", "The least important events that are shown.", flag="--log-level"
    )


class Admin(Model):
    """The admin listener of a gateway: /health, /ready, /metrics, /status."""

    narrows: ClassVar[tuple[str, ...]] = ("tls", "auth")

    bind: Bind = knob("127.0.0.1:8003", "Address of the admin listener.", flag="--admin")
    hosts: Texts = knob((), "Host names under which /status may be asked, besides localhost and IP addresses.")
    tls: AdminTls | None = Field(default=None, description="Where it speaks TLS.")
    auth: AdminAuth | None = Field(
        default=None, description="Whose tokens are good; by default whoever is on this machine may do everything."
    )


class RoleAdmin(Model):
    """The admin listener of an agent or forward; off unless asked for."""

    later: ClassVar[dict[str, str]] = {"auth": LATER, "tls": LATER}

    bind: Annotated[str | None, Label("ADDR")] = knob(
        None,
        "Address of an admin listener with /health, /ready, /metrics and /status; none by default.",
        flag="--admin",
    )

    hosts: Texts = knob((), "Host names under which /status may be asked, besides localhost and IP addresses.")

    @field_validator("bind")
    @classmethod
    def _form(cls, value: str | None) -> str | None:
        if value is not None:
            bind_parts(value)
        return value


class ClusterKey(Model):
    """One key of a cluster."""

    file: FileName = knob(..., "File with the key.")


class Cluster(Model):
    """Nodes that know of each other's endpoints. Until clusters are built only the form is checked."""

    later: ClassVar[dict[str, str]] = {"advertise": LATER, "tls": LATER}

    join: Addresses = knob((), "Addresses of other nodes; refused until clusters are built.", flag="--join")
    gossip: Annotated[str | None, Label("ADDR")] = knob(
        None, "Address for gossip (UDP); checked, and not opened until clusters are built.", flag="--gossip"
    )
    keys: tuple[ClusterKey, ...] = knob((), "Keys that the nodes share.")

    @field_validator("join")
    @classmethod
    def _no_join(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value:
            raise ValueError("clusters are not built yet in this version; leave it out to run a single gateway")
        return value

    @field_validator("gossip")
    @classmethod
    def _gossip_form(cls, value: str | None) -> str | None:
        if value is not None:
            bind_parts(value)
        return value


def _public_url(value: str) -> str:
    if not value.startswith(("http://", "https://")) or not header_text(value) or " " in value:
        raise ValueError(f"{value!r} is no URL (write https://{{endpoint}}.gate.example.com)")
    if "{" in value.replace("{endpoint}", "") or "}" in value.replace("{endpoint}", ""):
        raise ValueError(f"{value!r}: the only placeholder is {{endpoint}}")
    return value


def _node_name(value: str) -> str:
    if not value or not header_text(value) or len(value) > 128:
        raise ValueError("a node's name is 1 to 128 visible ASCII characters")
    return value


class Gateway(Model):
    """A gateway: tidegate.yaml."""

    listeners: dict[ListenerName, Listener] = Field(default_factory=default_listeners, min_length=1)
    admin: Admin = Admin()
    verifiers: dict[VerifierName, Verifier] = Field(default_factory=dict)
    tenants: dict[TenantName, Tenant] | None = Field(default=None)
    upstreams: dict[UpstreamName, Upstream] = Field(default_factory=dict)
    routes: tuple[Route, ...] = Field(default=())
    routing: Literal["specific", "first"] = knob(
        "specific", "Which of several routes that match counts: the most specific one, or the first of the file."
    )
    no_route_status: Annotated[int, Field(ge=400, le=599)] = knob(
        404, "Status of the answer to a request that no route matches."
    )
    trusted_proxies: Networks = knob((), "Networks of proxies in front, whose X-Forwarded-... fields are believed.")
    error_pages: Annotated[dict[Literal["html", "json"], FileName], Label("{html: FILE, json: FILE}")] = Field(
        default_factory=dict,
        description="Pages that take the place of our own answers' bodies, for browsers and for programs; {status}, "
        "{reason}, {code}, {message}, {detail} and {request_id} are filled in.",
    )
    public_url: Annotated[str | None, AfterValidator(lambda v: v and _public_url(v)), Label("URL")] = knob(
        None,
        "What agents print as their application's address; {endpoint} stands for the name. "
        "An agent on the same machine is told http://NAME.localhost:PORT by default.",
        advanced=False,
    )
    node: Annotated[str | None, AfterValidator(lambda v: v and _node_name(v)), Label("NAME")] = knob(
        None, "This gateway's name; by default the host's.", flag="--node-name"
    )
    workers: Annotated[int | None, Field(ge=1, le=1024), Label("NUMBER")] = knob(
        None, "Threads that move bytes; by default one for each CPU.", flag="--workers"
    )
    takeover: bool = knob(False, "Do not check that the ports are free: another gateway hands over.", flag="--takeover")
    grace_period: Duration = knob(60.0, "Longest time to finish what runs when stopping.", flag="--grace-period")
    access_log: AccessLog = AccessLog()
    log: Log = Log()
    cluster: Cluster = Cluster()
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    tunnel: Tunnel = Tunnel()

    @classmethod
    def between(cls, parts: Parts) -> Iterable[tuple[tuple[str | int, ...], str]]:
        admin: Admin | None = parts.value("admin")
        traffic = checks.Traffic(
            listeners=parts.value("listeners") or {},
            upstreams=parts.value("upstreams") or {},
            routes=parts.value("routes") or {},
            specific=parts.value("routing") == "specific",
            where=parts.where,
        )
        credentials = auth_checks.Credentials(
            verifiers=parts.value("verifiers") or {},
            tenants=parts.value("tenants"),
            admin=admin.auth if admin else None,
        )
        yield from checks.mistakes(traffic)
        yield from auth_checks.mistakes(traffic, credentials)


def _shortcut(flag: str, kind: str, default: str, help: str) -> Knob:
    env = "TIDEGATE_" + flag[2:].upper()
    return Knob(("listeners", flag[2:], kind), flag, env, help, default, "ADDR", False, False, False)


SHORTCUTS = (
    _shortcut(
        "--proxy",
        "http",
        "127.0.0.1:8000",
        "Address for HTTP downstreams: the listener `proxy`, or the only one of kind http.",
    ),
    _shortcut(
        "--agents",
        "tunnel",
        "127.0.0.1:8001",
        "Address for agents: the listener `agents`, or the only one of kind tunnel.",
    ),
)
"""Options that set the bind address of a gateway's listener; the last part of their path is its kind."""


def _token(value: SecretStr) -> SecretStr:
    text = value.get_secret_value().strip().removeprefix("Bearer ").strip()
    if not text or not header_text(text) or " " in text:
        raise ValueError("a token is visible ASCII without spaces")
    return SecretStr(text)


def _tenant(value: str) -> str:
    if not header_text(value) or len(value) > 128:
        raise ValueError("a tenant is at most 128 visible ASCII characters")
    return value


class Connect(ClientTls):
    """How the gateways are reached."""

    urls: Urls = knob(
        ("http://localhost:8000",), "The gateway's proxy address; several are tried in turn.", flag="--connect"
    )
    token: Annotated[SecretStr | None, AfterValidator(lambda v: v and _token(v))] = knob(
        None, "Token to show to the gateway; process lists show it, --token-file does not.", flag="--token"
    )
    token_file: FileName | None = knob(
        None, "File with that token; it is read again when it changes.", flag="--token-file"
    )
    token_command: Words | None = knob(
        None,
        "Command that prints that token, run without a shell; it is run again before the token expires.",
        flag="--token-command",
    )
    tenant: Annotated[str, AfterValidator(_tenant), Label("NAME")] = knob("", "Tenant to act for.", flag="--tenant")
    proxy: Annotated[str | None, Label("URL")] = knob(
        None, "HTTP proxy to the gateway (CONNECT); by default HTTPS_PROXY and NO_PROXY count.", flag="--proxy-url"
    )
    transport: Literal["auto", "quic", "websocket"] = knob(
        "auto",
        "What connections to the gateway are made of; auto: QUIC where it works, else WebSocket. QUIC needs https:// "
        "and a gateway whose listener takes it, and goes by UDP to the same port number, through no proxy.",
        flag="--transport",
    )

    @model_validator(mode="after")
    def _one_token(self) -> Self:
        given = [key for key in ("token", "token_file", "token_command") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(f'`{key}`' for key in given)} exclude each other")
        return self

    @model_validator(mode="after")
    def _quic_has_its_way(self) -> Self:
        if self.transport in ("auto", "websocket"):
            return self
        wanted = f"`transport: {self.transport}`"
        if not any(url.startswith(("https:", "wss:")) for url in self.urls):
            raise ValueError(f"{wanted} needs TLS, but no URL begins with https://")
        if self.proxy is not None:
            raise ValueError(f"{wanted} goes through no HTTP proxy (leave out `proxy`, or write websocket)")
        return self


class AgentConnect(Connect):
    """How an agent reaches its gateways."""

    urls: Urls = knob(
        ("http://localhost:8001",), "The gateway's address for agents; several share tunnels.", flag="--connect"
    )
    connections: Annotated[int, Field(ge=1, le=64)] = knob(2, "Tunnels kept for each endpoint.", flag="--connections")
    transport: Literal["auto", "quic", "websocket", "quic-tunnel"] = knob(  # type: ignore[assignment]
        "auto",
        "What tunnels are made of; auto: QUIC where it works, else WebSocket. QUIC needs https:// and a gateway whose "
        "listener takes it, and goes by UDP to the same port number, through no proxy. quic-tunnel is for a server of "
        "quic-reverse-http-tunnel.",
        flag="--transport",
    )

    @model_validator(mode="after")
    def _is_known_by_certificate(self) -> Self:
        if self.transport != "quic-tunnel":
            return self
        wanted = f"`transport: {self.transport}`"
        if self.cert is None:
            raise ValueError(f"{wanted} needs `cert` and `key`: its server asks for a certificate")
        for key in ("token", "token_file", "token_command", "tenant"):
            if getattr(self, key):
                raise ValueError(f"{wanted} shows a certificate and nothing else (leave out `{key}`)")
        return self


CONNECT = "connect"
"""What stands for a local service where each stream says its own."""


def _host_header(value: str) -> str:
    if not value or not header_text(value) or " " in value:
        raise ValueError(f"{value!r} is no Host (write keep, rewrite or a name)")
    return value


def _service(value: object) -> str:
    if value != CONNECT:
        service(value)
    return str(value)


class Offer(ClientTls):
    """An endpoint that an agent offers, and the local service behind it."""

    name: Endpoint = knob(..., "Name of the endpoint.")
    to: Annotated[str, BeforeValidator(_service), Label("ADDR")] = knob(
        ...,
        "The local service: 3000, HOST:3000, http://HOST:3000, https://HOST:3000, tcp://HOST:5432 or udp://HOST:53; or "
        "connect: each stream says by CONNECT where it leads.",
    )
    idle: Positive = knob(
        60.0, "With `to: udp://...`: what one source address says and gets ends after so long without.", flag="--idle"
    )
    allow: Allows = knob(
        (),
        "With `to: connect`: what may be connected to, such as 10.0.0.0/8:10250, [fd00::/8]:443, *.corp.example:443, "
        "db.example:1-1024 or 10.1.2.3; nothing by default.",
        flag="--allow",
    )
    host_header: Annotated[str, AfterValidator(_host_header), Label("keep|rewrite|NAME")] = knob(
        "keep",
        "What the local service sees as Host: the visitor's, its own address, or this name.",
        flag="--host-header",
    )
    protocol: Literal["http1", "h2c"] = knob(
        "http1", "What the local service speaks: HTTP/1.1, or HTTP/2 without TLS (gRPC).", flag="--upstream-protocol"
    )
    health: Annotated[Health | None, BeforeValidator(health_written), Label("tcp|/PATH")] = knob(
        None,
        "How the local service is asked whether it works: by a connection, or by GET of a path; while it does not, "
        "the endpoint is withdrawn. By default it is not asked.",
        flag="--health",
    )

    @model_validator(mode="after")
    def _fits_the_service(self) -> Self:
        if self.to == CONNECT:
            return self._fits_connect()
        if self.allow:
            raise ValueError(f"`allow` belongs to `to: connect`, `to` is {service(self.to)}")
        to = service(self.to)
        if to.kind == "udp":
            return self._fits_datagrams(to)
        if "idle" in self.model_fields_set:
            raise ValueError(f"`idle` belongs to UDP services, `to` is {to} (write udp://HOST:PORT)")
        if to.kind == "tcp" and self.protocol != "http1":
            raise ValueError(f"`protocol: {self.protocol}` belongs to HTTP services, `to` is {to}")
        if to.tls and self.protocol == "h2c":
            raise ValueError(f"h2c is HTTP/2 without TLS, `to` is {to}")
        if to.kind == "tcp" and self.health is not None and self.health.path is not None:
            raise ValueError(f"a health check with a path belongs to HTTP services, `to` is {to} (write health: tcp)")
        return self

    def _fits_datagrams(self, to: Service) -> Self:
        for key in ("host_header", "protocol", "health", *ClientTls.model_fields):
            if key in self.model_fields_set and getattr(self, key) is not None:
                raise ValueError(f"`{key}` means nothing to datagrams, `to` is {to}")
        return self

    def _fits_connect(self) -> Self:
        for key in ("idle", "host_header", "protocol", "health", *ClientTls.model_fields):
            if key in self.model_fields_set and getattr(self, key) is not None:
                raise ValueError(f"`{key}` belongs to one local service, `to` is connect")
        return self


class Agent(Model):
    """An agent: agent.yaml."""

    connect: AgentConnect = AgentConnect()
    endpoints: tuple[Offer, ...] = Field(default=())
    admin: RoleAdmin = RoleAdmin()
    grace_period: Duration = knob(60.0, "Longest time to finish what runs when stopping.", flag="--grace-period")
    access_log: AccessLog = AccessLog()
    log: Log = Log()
    timeouts: AgentTimeouts = AgentTimeouts()
    limits: Limits = Limits()
    tunnel: Tunnel = Tunnel()

    @classmethod
    def between(cls, parts: Parts) -> Iterable[tuple[tuple[str | int, ...], str]]:
        offers: dict[int, Offer | None] = parts.value("endpoints") or {}
        seen: set[str] = set()
        for position, offer in offers.items():
            if offer is not None and offer.name in seen:
                yield (
                    ("endpoints", position),
                    f"endpoint {offer.name!r} is offered twice (one entry an endpoint; `connections` adds tunnels)",
                )
            seen.update([offer.name] if offer is not None else [])
        connect: AgentConnect | None = parts.value("connect")
        if connect is not None and connect.transport == "quic-tunnel":
            yield from _one_for_all(offers)
        elif connect is not None:
            yield from _datagrams_have_a_way(offers, connect)


def _without_quic(connect: Connect) -> str | None:
    """What to do about it, where there is no way for QUIC."""
    if getattr(connect, "transport", "auto") == "websocket":
        return "write transport: auto or quic"
    if not any(url.startswith(("https:", "wss:")) for url in connect.urls):
        return "no URL begins with https://"
    return "leave out `proxy`: it goes through none" if connect.proxy is not None else None


def _datagrams_have_a_way(
    offers: Mapping[int, Offer | None], connect: AgentConnect
) -> Iterable[tuple[tuple[str | int, ...], str]]:
    """Nothing but QUIC carries datagrams."""
    what_to_do = _without_quic(connect)
    if what_to_do is None:
        return
    for position, offer in offers.items():
        if offer is not None and offer.to != CONNECT and service(offer.to).kind == "udp":
            yield ("endpoints", position), f'endpoint "{offer.name}" is UDP, which needs QUIC ({what_to_do})'


def _one_for_all(offers: Mapping[int, Offer | None]) -> Iterable[tuple[tuple[str | int, ...], str]]:
    """Over quic-tunnel nobody names an endpoint, and streams are bytes."""
    if len(offers) > 1:
        yield ("endpoints", 1), "`transport: quic-tunnel` has room for one endpoint: its server names none"
    for position, offer in offers.items():
        if offer is not None and offer.to != CONNECT and service(offer.to).kind != "tcp":
            yield (
                ("endpoints", position, "to"),
                "`transport: quic-tunnel` carries bytes (write `to: connect`, or tcp://HOST:PORT)",
            )


class ForwardPort(Model):
    """A local port that leads to an endpoint."""

    bind: PortOrBind = knob(..., "Local address to accept connections on; a port alone is on localhost.")
    endpoint: Endpoint = knob(..., "The endpoint that it leads to.")
    kind: Literal["tcp", "udp"] = knob("tcp", "What comes to it: connections of TCP, or datagrams, which need QUIC.")
    idle: Positive = knob(60.0, "Kind udp: a source address that says and gets nothing for so long is forgotten.")

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.kind != "udp" and "idle" in self.model_fields_set:
            raise ValueError("`idle` belongs to ports of kind udp, this one is of kind tcp")
        return self


class Forward(Model):
    """A forward: forward.yaml."""

    connect: Connect = Connect()
    forwards: tuple[ForwardPort, ...] = Field(default=())
    admin: RoleAdmin = RoleAdmin()
    grace_period: Duration = knob(60.0, "Longest time to finish what runs when stopping.", flag="--grace-period")
    access_log: AccessLog = AccessLog()
    log: Log = Log()
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    tunnel: Tunnel = Tunnel()

    @classmethod
    def between(cls, parts: Parts) -> Iterable[tuple[tuple[str | int, ...], str]]:
        ports: dict[int, ForwardPort | None] = parts.value("forwards") or {}
        connect: Connect | None = parts.value("connect")
        what_to_do = _without_quic(connect) if connect is not None else None
        for position, port in ports.items():
            if what_to_do is not None and port is not None and port.kind == "udp":
                yield ("forwards", position), f'endpoint "{port.endpoint}" is UDP, which needs QUIC ({what_to_do})'


Role = Gateway | Agent | Forward
