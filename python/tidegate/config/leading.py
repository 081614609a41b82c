"""Where listeners lead what comes by them: one place for kinds tcp and udp, a list of rules for kind connect."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from tidegate.config import names
from tidegate.config.auth import TenantName
from tidegate.config.knobs import Endpoint, Label, Model, knob
from tidegate.config.upstreams import To, one_place

__all__ = ["ConnectTo", "ListenerTo"]


def _name(value: str) -> str:
    return value if value == "*" else names.host_pattern(value)


class ConnectTo(Model):
    """Where targets of a network or a name lead."""

    network: Annotated[str, AfterValidator(names.network), Label("NETWORK")] | None = knob(
        None, "Kind connect: targets that are written as an address of this network."
    )
    name: Annotated[str, AfterValidator(_name), Label("NAME")] | None = knob(
        None, "Kind connect: targets of this name; *.NAME stands for one label or more before it, * for every name."
    )
    endpoint: Endpoint = knob(..., "The endpoint that leads there, of an agent that serves CONNECT.")
    tenant: TenantName | None = knob(None, "Its owner; by default the `tenant` of the listener.")

    @model_validator(mode="after")
    def _for_something(self) -> Self:
        if (self.network is None) == (self.name is None):
            raise ValueError("is for exactly one of `network: NETWORK` and `name: NAME`")
        return self


class ListenerTo(To):
    """Where a listener leads: one place, or a list of which the first rule counts that is for a target."""

    rules: tuple[ConnectTo, ...] = Field(default=())

    @model_validator(mode="before")
    @classmethod
    def _written(cls, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return {"rules": value}
        if isinstance(value, Mapping) and "rules" in value:
            raise ValueError("rules are written without a key (`to: [{network: NETWORK, endpoint: NAME}]`)")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if "rules" not in self.model_fields_set:
            one_place(self)
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> Any:
        found = handler(self)
        return found["rules"] if "rules" in self.model_fields_set else found
