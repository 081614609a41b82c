"""Routes as people write them: what a request or a TLS connection must be, and what is done with it."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from tidegate.config.auth import Allowed, Auth, Denied, TenantName
from tidegate.config.knobs import Label, ListenerName, Model, Positive, knob
from tidegate.config.names import (
    edited_field,
    field_name,
    field_value,
    host_name,
    host_pattern,
    method,
    redirect_target,
    request_path,
    server_name,
    upstream_name,
)  # fmt: skip
from tidegate.config.upstreams import To

__all__ = ["Edits", "Redirect", "Respond", "Route", "RouteTimeouts"]

_ONLY_WITH_TO = (
    "strip", "replace", "host_header", "request_headers", "response_headers", "timeouts",
)  # fmt: skip
_BESIDE_SNI = {"name", "listeners", "sni", "to", "tenant", "allow", "deny"}


def _wanted(value: object) -> object:
    if value is True:
        return True
    if value is False:
        raise ValueError("write the value, or true for any")
    return field_value(value)


def _host_header(value: str) -> str:
    if value in ("keep", "rewrite"):
        return value
    host, colon, port = value.rpartition(":")
    if colon and port.isdigit() and not value.endswith("]"):
        return f"{host_name(host)}:{port}"
    return host_name(value)


_VALUE = WithJsonSchema({"type": ["string", "number"]})
FieldValue = Annotated[str, BeforeValidator(field_value), _VALUE]
EditedField = Annotated[str, AfterValidator(edited_field)]
EditedValues = Annotated[dict[EditedField, FieldValue], Label("{NAME: VALUE}")]
_Wanted = Annotated[
    str | Literal[True],
    BeforeValidator(_wanted),
    WithJsonSchema({"anyOf": [{"type": ["string", "number"]}, {"const": True}]}),
]
Path = Annotated[str, AfterValidator(request_path), Label("PATH")]


class Edits(Model):
    """Header fields that are taken out, set and added, in this order."""

    remove: Annotated[tuple[EditedField, ...], Label("[NAME]")] = knob((), "Fields that are taken out.")
    set: EditedValues = Field(default_factory=dict, description="Fields that take the place of all of that name.")
    add: EditedValues = Field(default_factory=dict, description="Fields that stand beside those that are there.")


class RouteTimeouts(Model):
    """Instead of the gateway's."""

    response: Positive | None = knob(None, "Instead of `timeouts.response`.")
    idle: Positive | None = knob(None, "Instead of `timeouts.idle`.")


# One for all: ten thousand routes are read in seconds, and a copy of each default would take one of them.
_NO_EDITS = Edits()
_NO_TIMEOUTS = RouteTimeouts()


class Redirect(Model):
    """An answer that sends the visitor elsewhere."""

    to: Annotated[str, AfterValidator(redirect_target), Label("URL")] = knob(
        ..., "The new URL; {scheme}, {host}, {path} and {query} (with its ?) stand for those of the request."
    )
    status: Literal[301, 302, 303, 307, 308] = knob(308, "Its status.")

    @model_validator(mode="before")
    @classmethod
    def _written(cls, value: Any) -> Any:
        return {"to": value} if isinstance(value, str) else value


class Respond(Model):
    """An answer of the configuration's own."""

    status: Annotated[int, Field(ge=200, le=599)] = knob(200, "Its status.")
    body: str = knob("", "Its body.")
    headers: Annotated[dict[EditedField, FieldValue], Label("{NAME: VALUE}")] = Field(
        default_factory=dict, description="Its header fields, such as content-type."
    )

    @model_validator(mode="before")
    @classmethod
    def _written(cls, value: Any) -> Any:
        return {"status": value} if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _may_have_a_body(self) -> Self:
        if self.body and self.status in (204, 304):
            raise ValueError(f"an answer with status {self.status} has no body")
        return self


class Route(Model):
    """A match and where it leads: exactly one of `to`, `redirect` and `respond`."""

    narrows: ClassVar[tuple[str, ...]] = (
        "listeners", "sni", "host", "path", "methods", "headers", "auth", "tenant", "allow", "deny",
    )  # fmt: skip

    name: Annotated[str, AfterValidator(upstream_name), Label("NAME")] | None = knob(
        None, "What logs, metrics and status call it; by default `routes[N]`, counted from 0."
    )
    listeners: Annotated[tuple[ListenerName, ...], Label("[NAME]")] = knob(
        (), "Listeners it counts on; by default every one of kind http."
    )
    sni: Annotated[str, AfterValidator(server_name), Label("NAME|*.NAME")] | None = knob(
        None, "The TLS server name: such a connection is passed through, not decrypted."
    )
    host: Annotated[str, AfterValidator(host_pattern), Label("NAME|*.NAME")] | None = knob(
        None, "The host; `*.` stands for one label or more. By default every host."
    )
    path: Path | None = knob(None, "The path and what stands below it: `/api` is `/api` and `/api/x`, not `/apix`.")
    exact: bool = knob(False, "The path is the whole path.")
    strip: bool = knob(False, "The matched path is cut off.")
    replace: Path | None = knob(None, "What stands in the place of the matched path.")
    methods: Annotated[tuple[Annotated[str, AfterValidator(method)], ...], Label("[METHOD]")] = knob(
        (), "The methods; by default every one."
    )
    headers: Annotated[
        dict[Annotated[str, AfterValidator(field_name)], _Wanted],
        Label("{NAME: VALUE|true}"),
    ] = Field(default_factory=dict, description="Header fields that must be there; true stands for any value.")
    allow: Allowed = knob((), "Networks whose requests are answered; by default every one.")
    deny: Denied = knob((), "Networks whose requests are not, although `allow` has them.")
    auth: Annotated[Auth | None, Label("none|{verifiers: [NAME], ...}")] = Field(
        default=None, description="Instead of the listener's; none: no credential is asked for."
    )
    tenant: TenantName | None = knob(None, "Owner of the endpoint that it leads to; by default the listener's.")
    to: To | None = Field(default=None, description="Where a request goes.")
    redirect: Annotated[Redirect | None, Label("URL|{to: URL, status: 308}")] = knob(
        None, "The visitor is sent to this URL."
    )
    respond: Annotated[Respond | None, Label("STATUS|{status: STATUS, body: TEXT, headers: {...}}")] = knob(
        None, "The answer itself."
    )
    host_header: Annotated[str, AfterValidator(_host_header), Label("keep|rewrite|NAME")] = knob(
        "keep", "What the upstream sees as Host: the visitor's, its own address, or this name."
    )
    request_headers: Edits = Field(
        default_factory=lambda: _NO_EDITS, description="Edits of the request's header fields."
    )
    response_headers: Edits = Field(
        default_factory=lambda: _NO_EDITS, description="Edits of the response's header fields."
    )
    timeouts: RouteTimeouts = Field(default_factory=lambda: _NO_TIMEOUTS, description="Other times than the gateway's.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        written = self.model_fields_set
        given = [key for key in ("to", "redirect", "respond") if getattr(self, key) is not None]
        if len(given) != 1:
            found = f", not {' and '.join(given)}" if given else ""
            raise ValueError(f"a route has exactly one of `to`, `redirect` and `respond`{found}")
        if self.sni is not None and (strange := sorted(written - _BESIDE_SNI)):
            raise ValueError(
                f"`{strange[0]}` cannot stand beside `sni`: what is passed through is not read "
                "(use `host` on a listener that has the certificate)"
            )
        if self.sni is None and self.auth is not None and self.auth.says("disconnect_on_expiry"):
            raise ValueError("`auth.disconnect_on_expiry` belongs to listeners of kind tunnel")
        if self.tenant is not None and (self.to is None or self.to.endpoint is None):
            raise ValueError("`tenant` is the owner of an endpoint, and this route leads to none")
        if self.to is None and (strange := [key for key in _ONLY_WITH_TO if key in written]):
            raise ValueError(f"`{strange[0]}` belongs to `to`, not to {given[0]}")
        if self.path is None and (strange := [key for key in ("exact", "strip", "replace") if getattr(self, key)]):
            raise ValueError(f"`{strange[0]}` needs `path`")
        if self.strip and self.replace is not None:
            raise ValueError("`strip` and `replace` exclude each other")
        return self
