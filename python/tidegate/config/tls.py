"""TLS as people write it: what a listener shows and asks for, and how a server's certificate is checked."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema, model_validator

from tidegate.config.knobs import FileName, Label, Model, knob
from tidegate.config.names import host_name

__all__ = ["AdminTls", "Certificate", "ClientTls", "ServerTls"]


def _version(value: object) -> object:
    return str(value) if isinstance(value, float) else value


_Version = Annotated[
    Literal["1.2", "1.3"], BeforeValidator(_version), WithJsonSchema({"enum": ["1.2", "1.3", 1.2, 1.3]})
]


class Certificate(Model):
    """A certificate and its key."""

    cert: FileName = knob(..., "PEM file of the certificate chain, the leaf first.")
    key: FileName = knob(..., "PEM file of its private key.")


class ServerTls(Model):
    """How a listener speaks TLS."""

    narrows: ClassVar[tuple[str, ...]] = ("client_ca",)

    certificates: Annotated[tuple[Certificate, ...], Label("[{cert: FILE, key: FILE}]")] = knob(
        (), "What is shown, chosen by server name; the first where no name fits. None: everything is passed through."
    )
    client_ca: FileName | None = knob(None, "PEM file of the authorities whose client certificates are believed.")
    client_certificate: Literal["required", "optional"] = knob(
        "required", "With `client_ca`: whether a connection without a client certificate is refused."
    )
    min_version: _Version = knob("1.2", "The oldest version of TLS that is spoken.")

    @model_validator(mode="after")
    def _asks_only_where_it_decrypts(self) -> Self:
        if not self.certificates and self.client_ca is not None:
            raise ValueError("`client_ca` needs `certificates`: what is passed through shows its certificate elsewhere")
        if self.client_ca is None and "client_certificate" in self.model_fields_set:
            raise ValueError("`client_certificate` needs `client_ca`, the authorities that are believed")
        return self


class AdminTls(ServerTls):
    """The same, where nothing can be passed through."""

    @model_validator(mode="after")
    def _has_one_certificate(self) -> Self:
        if len(self.certificates) != 1:
            raise ValueError("needs `certificates: [{cert: FILE, key: FILE}]`, with one certificate")
        return self


class ClientTls(Model):
    """How a server's certificate is checked, and what is shown to it."""

    ca: FileName | None = knob(None, "PEM file of the only certificate authorities to trust; by default the system's.")
    cert: FileName | None = knob(None, "PEM file of our certificate chain.")
    key: FileName | None = knob(None, "PEM file of its private key.")
    server_name: Annotated[str, AfterValidator(lambda v: host_name(v).strip("[]")), Label("NAME")] | None = knob(
        None, "Name to expect in the certificate instead."
    )
    insecure_skip_verify: bool = knob(False, "Accept any certificate: anybody on the way can read along.")

    @model_validator(mode="after")
    def _cert_with_key(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError("`cert` and `key` belong together")
        return self

    def says_something(self) -> bool:
        """True where anything differs from the default."""
        return any((self.ca, self.cert, self.key, self.server_name, self.insecure_skip_verify))
