"""Upstreams as people write them: addresses that stand for each other, and how their health is known."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from tidegate.config.auth import TenantName
from tidegate.config.knobs import Endpoint, Label, Model, Positive, knob
from tidegate.config.names import address, field_name, host_name, request_path, upstream_name
from tidegate.config.tls import ClientTls

__all__ = [
    "Addresses", "Ejection", "Health", "To", "Upstream", "UpstreamAddress", "UpstreamName", "health_written",
    "one_place",
]  # fmt: skip


def _address(value: object) -> str:
    text = f"localhost:{value}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return str(address(text))


def _cookie(value: str) -> str:
    if field_name(value) and not value.isascii():
        raise ValueError(f"{value!r} is no name of a cookie")
    return value


UpstreamName = Annotated[
    str, BeforeValidator(lambda v: str(v) if type(v) is int else v), AfterValidator(upstream_name), Label("NAME")
]


class UpstreamAddress(Model):
    """One address of an upstream."""

    address: Annotated[str, BeforeValidator(_address), Label("ADDR")] = knob(
        ..., "HOST:PORT, or with http://, https://, h2c:// (HTTP/2) or h2:// (HTTP/2 over TLS) before it."
    )
    weight: Annotated[int, Field(ge=1, le=1000)] = knob(1, "Its share of requests beside the others'.")

    @model_validator(mode="before")
    @classmethod
    def _written(cls, value: Any) -> Any:
        return {"address": value} if isinstance(value, (str, int)) else value


class Health(Model):
    """How a service is asked whether it works."""

    path: Annotated[str, AfterValidator(request_path), Label("PATH")] | None = knob(
        None, "A path that answers 200 to 399 to GET; none: a TCP connection is enough."
    )
    host: Annotated[str, AfterValidator(host_name), Label("NAME")] | None = knob(
        None, "What it sees as Host; by default its own host and port."
    )
    interval: Positive = knob(5.0, "From one check to the next.")
    timeout: Positive = knob(2.0, "Longest time for one check.")
    fall: Annotated[int, Field(ge=1)] = knob(3, "So many failures in a row and it is left out.")
    rise: Annotated[int, Field(ge=1)] = knob(2, "So many successes in a row and it counts again.")

    @model_validator(mode="after")
    def _host_needs_a_path(self) -> Self:
        if self.host is not None and self.path is None:
            raise ValueError("`host` needs `path`: a TCP check sends nothing")
        return self


def health_written(value: object) -> object:
    """`tcp` and `/path` are short for the whole."""
    if value == "tcp":
        return {}
    if isinstance(value, str) and value.startswith("/"):
        return {"path": value}
    if isinstance(value, (dict, Health)):
        return value
    raise ValueError("write tcp, a path such as /healthz, or {path: /healthz, interval: 5s}")


class Ejection(Model):
    """When an address is left out because requests to it failed."""

    failures: Annotated[int, Field(ge=1)] = knob(
        5, "So many failures in a row: not reached, no answer, or 502, 503 or 504."
    )
    time: Positive = knob(10.0, "It is left out for so long; never the last one that is left.")


def _ejection(value: object) -> object:
    if value is True:
        return {}
    if value is False:
        return None
    if isinstance(value, (dict, Ejection)) or value is None:
        return value
    raise ValueError("write false, or {failures: 5, time: 10s}")


_NO_TLS = ClientTls()
_EJECTION = Ejection()


class Addresses(Model):
    """Addresses of which each may serve a request, and how one is chosen."""

    addresses: Annotated[tuple[UpstreamAddress, ...], Label("[ADDR, {address: ADDR, weight: NUMBER}]")] = knob(
        (), "The addresses; every address behind a name is used."
    )
    tls: Annotated[ClientTls, Label("{ca: FILE, ...}")] = Field(
        default_factory=lambda: _NO_TLS,
        description="How certificates of https:// and h2:// addresses are checked, and what is shown.",
    )
    balance: Literal["round-robin", "least-requests", "cookie", "source"] = knob(
        "round-robin",
        "Which address a request gets: in turn, the least busy, or the same for the same cookie or source address.",
    )
    cookie: Annotated[str, AfterValidator(_cookie), Label("NAME")] | None = knob(
        None, "With `balance: cookie`: the cookie's name; where there is none, the source address counts."
    )
    health: Annotated[Health | None, BeforeValidator(health_written), Label("tcp|/PATH|{path: /PATH, ...}")] = knob(
        None, "How addresses are asked whether they work; by default they are not."
    )
    ejection: Annotated[Ejection | None, BeforeValidator(_ejection), Label("false|{failures: 5, time: 10s}")] = Field(
        default_factory=lambda: _EJECTION,
        description="When an address is left out because requests to it failed; false: never.",
    )
    resolve_interval: Positive = knob(30.0, "How often names are looked up again.")
    proxy_protocol: Literal[1, 2] | None = knob(
        None, "Version of the PROXY header that opens each connection; by default there is none."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.balance == "cookie" and self.cookie is None:
            raise ValueError("`balance: cookie` needs `cookie: NAME`")
        if self.cookie is not None and self.balance != "cookie":
            raise ValueError(f"`cookie` belongs to `balance: cookie`, not to {self.balance}")
        if self.tls.says_something() and self.addresses and not any(address(a.address).tls for a in self.addresses):
            raise ValueError("`tls` says something, but no address begins with https:// or h2://")
        # A connection of HTTP/2 carries requests of many visitors, and begins with the address of one.
        if self.proxy_protocol is not None and any(address(a.address).http2 for a in self.addresses):
            raise ValueError("`proxy_protocol` does not go with h2:// and h2c:// addresses: visitors share connections")
        return self


class Upstream(Addresses):
    """A named upstream."""

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if not self.addresses:
            raise ValueError("needs `addresses: [HOST:PORT]`")
        return self


class To(Addresses):
    """Where a route or a TCP listener leads: an endpoint, an upstream, or addresses of its own."""

    endpoint: Endpoint | None = knob(None, "An endpoint that agents offer.")
    tenant: TenantName | None = knob(None, "Its owner; by default the `tenant` of the route, else of the listener.")
    upstream: UpstreamName | None = knob(None, "A name below `upstreams`.")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        one_place(self)
        return self


def one_place(to: To) -> None:
    """Raises a `ValueError` for what leads nowhere, or to several places."""
    given = [key for key in ("endpoint", "upstream", "addresses") if getattr(to, key)]
    if len(given) != 1:
        found = f", not {' and '.join(given)}" if given else ""
        raise ValueError(
            f"has to lead to exactly one of `endpoint: NAME`, `upstream: NAME` and `addresses: [ADDR]`{found}"
        )
    if not to.addresses:
        strange = sorted(to.model_fields_set - {"endpoint", "tenant", "upstream"})
        if strange:
            raise ValueError(f"`{strange[0]}` belongs to `addresses`, not to {given[0]}")
    if to.tenant and to.endpoint is None:
        raise ValueError("`tenant` belongs to `endpoint`")
