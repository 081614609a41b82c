"""Listeners as people write them: local addresses, what is spoken there, and what a request may name by itself."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from tidegate.config.auth import Allowed, Auth, Denied, TenantName
from tidegate.config.knobs import Bind, Endpoint, Label, Model, Networks, Positive, knob
from tidegate.config.leading import ListenerTo
from tidegate.config.tls import ServerTls
from tidegate.config.values import bind_parts, header_text

__all__ = ["LATER", "DynamicEndpoints", "Listener", "Transport", "default_listeners"]

LATER = "is not built yet in this version, so it is refused rather than ignored"
"""What is said of a key of the design that nothing stands behind yet."""

Transport = Literal["websocket", "quic"]
"""What a tunnel is made of."""


class DynamicEndpoints(Model):
    """Which endpoints a request may name by itself; `allow` is none for all that nothing else names."""

    allow: Annotated[tuple[Endpoint, ...] | None, Label("[NAME]")] = Field(
        default=None, description="Exactly these, whatever else leads to them."
    )

    @model_validator(mode="before")
    @classmethod
    def _written(cls, value: Any) -> Any:
        if isinstance(value, bool):
            return {} if value else {"allow": ()}
        if isinstance(value, dict) and set(value) == {"allow"} and isinstance(value["allow"], (list, tuple)):
            return value
        raise ValueError("write true, false or {allow: [NAMES]}")


def _transports(value: object) -> object:
    transports = [value] if isinstance(value, str) else value
    if isinstance(transports, (list, tuple)) and not transports:
        raise ValueError("names nothing (write [websocket], [quic] or [websocket, quic])")
    return transports


def _quic_at(value: str) -> str:
    host, port = bind_parts(value) if ":" in value else ("", 0)
    if not host or port == 0 or not header_text(value) or " " in value:
        raise ValueError(f"{value!r} is no place to dial (write HOST:PORT, such as gate.example.com:9443)")
    return value


class QuicTunnel(Model):
    """Agents of quic-reverse-http-tunnel: what they offer, for they name nothing."""

    endpoint: Endpoint = knob(..., "The endpoint that they offer.")


class Listener(Model):
    """A local address that downstreams or agents connect to."""

    narrows: ClassVar[tuple[str, ...]] = ("tls", "dynamic_endpoints", "auth", "tenant", "allow", "deny")

    bind: Bind = knob(..., "Address to accept connections on; `:80` is port 80 of all interfaces, port 0 is picked.")
    kind: Literal["http", "tcp", "udp", "tunnel", "connect"] = knob(
        "http",
        "What connects to it: HTTP downstreams, TCP downstreams, whoever sends datagrams, agents, or clients that say "
        "CONNECT.",
    )
    dynamic_endpoints: Annotated[DynamicEndpoints | None, Label("true|false|{allow: [NAMES]}")] = knob(
        None,
        "Kind http: the endpoints a request may name by itself; true is all that nothing else leads to. "
        "By default true where there are no routes, else false.",
    )
    to: ListenerTo | None = Field(
        default=None, description="Kinds tcp and udp: where it leads. Kind connect: a list, which target leads where."
    )
    idle: Positive = knob(60.0, "Kind udp: a source address that says and gets nothing for so long is forgotten.")
    sessions: Annotated[int, Field(ge=1, le=1_000_000)] = knob(
        4096, "Kind udp: most source addresses at once; of more, the one that has been idle longest is forgotten."
    )
    tls: ServerTls | None = Field(default=None, description="Where it speaks TLS.")
    allow: Allowed = knob((), "Networks that may connect; by default every one.")
    deny: Denied = knob((), "Networks that may not, although `allow` has them.")
    auth: Annotated[Auth | None, Label("none|{verifiers: [NAME], ...}")] = Field(
        default=None,
        description="Kinds http, tunnel and connect: whose credentials are good; by default none is asked for.",
    )
    tenant: TenantName | None = knob(
        None,
        "Owner of the endpoints that it leads to; kind tunnel: of those that are offered by a token without a tenant.",
    )
    proxy_protocol: Networks = knob(
        (),
        "Kinds http, tcp and connect: networks of load balancers whose connections begin with a PROXY header "
        "(v1 or v2).",
    )
    transports: Annotated[tuple[Transport, ...] | None, BeforeValidator(_transports), Label("[websocket, quic]")] = (
        knob(
            None,
            "Kinds tunnel and http: what comes by TCP, and QUIC by UDP at the same port number. Kind tunnel: of what "
            "tunnels are made, by default both with `tls`, else WebSocket alone. Kind http: quic is for forwards, by "
            "default left out.",
        )
    )
    quic_at: Annotated[str | None, AfterValidator(lambda v: v and _quic_at(v)), Label("HOST:PORT")] = knob(
        None,
        "Kinds tunnel and http: where QUIC is reached if not at the port of the URL, told to agents and forwards.",
    )
    quic_tunnel: QuicTunnel | None = Field(
        default=None,
        description="Kind tunnel with `transports: [quic]`: agents of quic-reverse-http-tunnel connect to it, and "
        "nobody else.",
    )

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.kind == "tcp" and (self.to is None or self.to.rules):
            raise ValueError("a listener of kind tcp needs `to: {endpoint: NAME}`")
        if self.kind == "udp" and (self.to is None or self.to.endpoint is None):
            raise ValueError("a listener of kind udp needs `to: {endpoint: NAME}`")
        if self.kind == "connect":
            self._leads_somewhere()
        if self.kind == "udp" and self.tls is not None:
            raise ValueError("`tls` belongs to what is spoken over TCP, this listener is of kind udp")
        if self.tls is not None and self.kind != "http" and not self.tls.certificates:
            raise ValueError(
                f"`tls` of a listener of kind {self.kind} needs `certificates: [{{cert: FILE, key: FILE}}]`"
            )
        if self.auth is not None:
            self._auth_fits(self.auth)
        if self.proxy_protocol and self.kind in ("tunnel", "udp"):
            raise ValueError(
                f"`proxy_protocol` belongs to listeners of kind http, tcp and connect, this one is of kind {self.kind}"
            )
        belongs: tuple[tuple[str, tuple[str, ...]], ...] = (
            ("to", ("tcp", "udp", "connect")), ("idle", ("udp",)), ("sessions", ("udp",)),
            ("dynamic_endpoints", ("http",)), ("transports", ("tunnel", "http")),
            ("quic_at", ("tunnel", "http")), ("quic_tunnel", ("tunnel",)),
        )  # fmt: skip
        for key, kinds in belongs:
            if key in self.model_fields_set and getattr(self, key) is not None and self.kind not in kinds:
                raise ValueError(f"`{key}` belongs to listeners of kind {_and(kinds)}, this one is of kind {self.kind}")
        self._transports_fit()
        return self

    def _leads_somewhere(self) -> None:
        if self.to is None or not self.to.rules:
            raise ValueError(
                "a listener of kind connect needs `to: [{network: NETWORK, endpoint: NAME}]`, or `name: NAME` in it"
            )
        seen: dict[object, int] = {}
        for position, rule in enumerate(self.to.rules):
            first = seen.setdefault((rule.network, rule.name), position)
            if first != position:
                raise ValueError(f"`to[{position}]` is for exactly what `to[{first}]` is for; remove one")

    def _transports_fit(self) -> None:
        if "quic" in self.made_of() and (self.tls is None or not self.tls.certificates):
            raise ValueError("`transports`: quic needs `tls: {certificates: [{cert: FILE, key: FILE}]}`")
        if self.kind == "http" and "websocket" not in self.made_of():
            raise ValueError("`transports` of a listener of kind http: its visitors come by TCP (add websocket)")
        if "quic" in self.made_of() and self.proxy_protocol:
            raise ValueError("`transports`: quic and `proxy_protocol` exclude each other: datagrams carry no header")
        if self.quic_at is not None and "websocket" not in self.made_of():
            raise ValueError("`quic_at` is told by WebSocket, which `transports` leaves out (write [websocket, quic])")
        if self.quic_tunnel is not None:
            self._takes_quic_tunnels()

    def _takes_quic_tunnels(self) -> None:
        if self.made_of() != ("quic",):
            raise ValueError("`quic_tunnel` needs `transports: [quic]`: its agents know nothing else")
        if self.tls is None or self.tls.client_ca is None or self.tls.client_certificate != "required":
            raise ValueError(
                "`quic_tunnel` needs `tls.client_ca` and `client_certificate: required`: its agents show a certificate "
                "and nothing else"
            )
        if self.auth is not None and not self.auth.is_none:
            raise ValueError(
                "`auth`: agents of `quic_tunnel` show a certificate and nothing else (use `tls.client_ca`)"
            )

    def made_of(self) -> tuple[Transport, ...]:
        """What connects to it, each once; nothing where datagrams are all that comes."""
        if self.kind == "udp":
            return ()
        if self.transports is not None:
            return tuple(dict.fromkeys(self.transports))
        return ("websocket", "quic") if self.kind == "tunnel" and self.tls is not None else ("websocket",)

    def _auth_fits(self, auth: Auth) -> None:
        if auth.is_none:
            return
        if self.kind == "udp":
            raise ValueError("`auth`: datagrams show no credential (use `allow: [NETWORK]` and `deny`)")
        if self.kind == "tcp":
            raise ValueError(
                "`auth`: connections of kind tcp show no credential "
                "(use `allow: [NETWORK]` and `deny`, or `tls.client_ca` with client certificates)"
            )
        if self.tls is not None and not self.tls.certificates:
            raise ValueError("`auth`: a listener without certificates passes everything through and reads no request")
        if auth.certificate is not None and (self.tls is None or self.tls.client_ca is None):
            raise ValueError(
                "`auth.certificate` needs `tls.client_ca`, the authorities whose certificates are believed"
            )
        belongs = (("users", ("http", "connect")), ("pass", ("http",)), ("disconnect_on_expiry", ("tunnel",)))
        for key, kinds in belongs:
            if auth.says(key) and self.kind not in kinds:
                raise ValueError(
                    f"`auth.{key}` belongs to listeners of kind {_and(kinds)}, this one is of kind {self.kind}"
                )


def _and(words: tuple[str, ...]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def default_listeners() -> dict[str, Listener]:
    """What a gateway without configuration opens: loopback only."""
    return {
        "proxy": Listener(bind="127.0.0.1:8000"),
        "agents": Listener(bind="127.0.0.1:8001", kind="tunnel"),
    }
