"""
Authentication as people write it: secrets, verifiers, tenants, and what a listener, a route or admin asks for.

Only the form stands here. Names that nothing has are found by `auth_checks`, secrets are read above this layer, and
what the engine gets is `credentials`.
"""

import re
import shlex
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SecretStr,
    model_validator,
)

from tidegate.config.knobs import (
    TEXT_OR_TEXTS,
    Duration,
    FileName,
    Label,
    Model,
    Networks,
    Positive,
    Size,
    duration_text,
    knob,
)
from tidegate.config.values import header_text, shown_url, url_parts

__all__ = [
    "ALGORITHMS", "AdminAuth", "Allowed", "Auth", "CertificateGrant", "Denied", "Jwks", "Quota", "SecretSource",
    "Tenant", "TenantName", "Verifier", "VerifierName",
]  # fmt: skip

HMAC = ("HS256", "HS384", "HS512")
SIGNATURES = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA")
ALGORITHMS = (*HMAC, *SIGNATURES)
"""Every algorithm that a token may be signed by."""

Algorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA"
]  # fmt: skip


def _name(what: str) -> Any:
    def checked(value: object) -> str:
        text = str(value) if type(value) is int else value
        if not isinstance(text, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", text):
            raise ValueError(f"{text!r} is no name of a {what} (1 to 128 of the characters A-Z a-z 0-9 . _ -)")
        return text

    return BeforeValidator(checked)


def _some(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise ValueError("is empty (leave it out where it is not meant)")
    return value


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty (leave it out where it is not meant)")
    return value


def _words(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return shlex.split(value)
    except ValueError as error:
        raise ValueError(f"is no command: {str(error).lower()}") from None


def _variable(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError(f"{value!r} is no name of an environment variable")
    return value


def _realm(value: str) -> str:
    if not value or not header_text(value) or '"' in value or "\\" in value:
        raise ValueError("a realm is visible ASCII without quotes and backslashes")
    return value


TenantName = Annotated[str, _name("tenant"), Label("NAME")]
VerifierName = Annotated[str, _name("verifier"), Label("NAME")]
VerifierNames = Annotated[tuple[VerifierName, ...], Label("[NAME]")]
Allowed = Annotated[Networks, AfterValidator(_some)]
Denied = Annotated[Networks, AfterValidator(_some)]
Words = Annotated[
    tuple[Annotated[str, AfterValidator(_text)], ...],
    BeforeValidator(_words),
    AfterValidator(_some),
    Label("COMMAND"),
    TEXT_OR_TEXTS,
]
_Texts = Annotated[
    tuple[Annotated[str, AfterValidator(_text)], ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    AfterValidator(_some),
    Label("TEXT|[TEXT]"),
    TEXT_OR_TEXTS,
]


class SecretSource(Model):
    """Where something secret is read from: exactly one of `file`, `env` and `command`; never the value itself."""

    file: FileName | None = knob(None, "The file that holds it; it is read again when it changes.")
    env: Annotated[str, AfterValidator(_variable), Label("VARIABLE")] | None = knob(
        None, "The environment variable that holds it."
    )
    command: Words | None = knob(None, "The command that prints it; run without a shell.")
    _inline: SecretStr | None = PrivateAttr(default=None)

    @property
    def inline(self) -> SecretStr | None:
        """The value, where a predecessor's file or flag holds it. In a file of ours it cannot be written."""
        return self._inline

    @model_validator(mode="wrap")
    @classmethod
    def _written(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(value, SecretStr):  # which YAML cannot express
            held = handler({})
            held._inline = value  # noqa: SLF001  its own
            return held
        if isinstance(value, dict) and "value" in value:
            raise ValueError("`value`: a secret does not stand in a configuration (write file, env or command)")
        if isinstance(value, str):
            raise ValueError("a secret does not stand here (write {file: FILE}, {env: NAME} or {command: ...})")
        made = handler(value)
        given = [key for key in ("file", "env", "command") if getattr(made, key) is not None]
        if len(given) != 1 and made.inline is None:
            found = f", not {' and '.join(given)}" if given else ""
            raise ValueError(f"has exactly one of `file`, `env` and `command`{found}")
        return made


def _jwks_url(value: str) -> str:
    shown = shown_url(value)
    parts = url_parts(shown)
    if "@" in parts.netloc:
        raise ValueError("a URL of keys cannot hold a user or password")
    if parts.scheme not in ("http", "https") or not parts.hostname or value.partition("#")[2] or not header_text(value):
        raise ValueError(f"{shown!r} is no URL of keys (write https://HOST/PATH; a file is `file: NAME`)")
    if " " in value:
        raise ValueError(f"{shown!r} holds a space")
    return value


class Jwks(Model):
    """Public keys that an issuer publishes: exactly one of `url` and `file`."""

    narrows: ClassVar[tuple[str, ...]] = ("ca",)

    url: Annotated[str, AfterValidator(_jwks_url), Label("URL")] | None = knob(None, "Where they are fetched.")
    file: FileName | None = knob(None, "The file that holds them.")
    ca: FileName | None = knob(
        None, "With `url`: PEM file of the only certificate authorities to trust; by default the system's."
    )
    timeout: Positive = knob(10.0, "Longest time for one fetch.")
    refresh: Positive = knob(300.0, "They are fetched again after so long.")
    retry: Positive = knob(
        30.0, "A failed fetch is tried again after so long; a key that is not among them causes one in so long at most."
    )
    max_stale: Positive = knob(
        86400.0, "The last good ones count for so long while fetching fails; `refresh` or longer."
    )

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.url is None) == (self.file is None):
            raise ValueError("has exactly one of `url` and `file`")
        if self.url is None:
            strange = sorted(self.model_fields_set - {"url", "file"})
            if strange:
                raise ValueError(f"`{strange[0]}` belongs to `url`, not to `file`")
        elif self.ca is not None and not self.url.startswith("https:"):
            raise ValueError(f"`ca` says who may answer, but {shown_url(self.url)} does not use TLS (write https://)")
        if self.max_stale < self.refresh:
            oldest, often = (self._with_origin(key) for key in ("max_stale", "refresh"))
            raise ValueError(
                f"{oldest} is less than {often}: keys would be too old before they are fetched again "
                "(give `max_stale` time for an outage)"
            )
        return self

    def _with_origin(self, key: str) -> str:
        origin = "" if key in self.model_fields_set else ", by default"
        return f"`{key}` ({duration_text(getattr(self, key))}{origin})"


class Quota(Model):
    """How much at once, and how much a second; what is left out is not bounded."""

    narrows: ClassVar[tuple[str, ...]] = ("sessions", "streams", "requests", "bytes")

    sessions: Annotated[int, Field(ge=1)] | None = knob(None, "Most tunnels at once.")
    streams: Annotated[int, Field(ge=1)] | None = knob(None, "Most requests and connections running at once.")
    requests: Annotated[int, Field(ge=1)] | None = knob(None, "Most requests a second.")
    bytes: Annotated[Size, Field(ge=1)] | None = knob(None, "Most bytes a second, both directions together.")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if all(value is None for value in (self.sessions, self.streams, self.requests, self.bytes)):
            raise ValueError("has at least one of `sessions`, `streams`, `requests` and `bytes`")
        return self


class Verifier(Model):
    """Whose tokens are good, and what they may do: exactly one of `secret`, `public_key` and `jwks`."""

    narrows: ClassVar[tuple[str, ...]] = (
        "secret", "public_key", "jwks", "algorithms", "issuer", "audience", "tenant", "limits",
    )  # fmt: skip

    secret: SecretSource | None = Field(default=None, description="The secret that tokens are signed with (HS...).")
    public_key: SecretSource | None = Field(
        default=None, description="The key in PEM that tokens are verified with (RS..., ES..., EdDSA)."
    )
    jwks: Jwks | None = Field(default=None, description="The keys of an issuer that publishes them.")
    algorithms: Annotated[tuple[Algorithm, ...], Label("[ALGORITHM]")] = knob(
        (), "The algorithms that are taken; by default all that fit the key."
    )
    issuer: Annotated[str, AfterValidator(_text), Label("TEXT")] | None = knob(None, "What `iss` of a token has to be.")
    audience: _Texts = knob((), "What has to be in `aud` of a token; of a list one.")
    leeway: Duration = knob(0.0, "How far the clocks may differ.")
    require_expiry: bool = knob(True, "A token without `exp` is refused.")
    unlimited: bool = knob(False, "A token that names no endpoints may listen on and reach every one.")
    tenant: TenantName | None = knob(None, "Whose its tokens are; one that says another is refused.")
    limits: Quota | None = Field(default=None, description="Limits of each of its tokens.")

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        given = [key for key in ("secret", "public_key", "jwks") if getattr(self, key) is not None]
        if len(given) != 1:
            found = f", not {' and '.join(given)}" if given else ""
            raise ValueError(f"has exactly one of `secret`, `public_key` and `jwks`{found}")
        strange = [each for each in self.algorithms if each not in self.fitting]
        if strange:
            kind = "are signed with a secret" if strange[0] in HMAC else "are verified with a public key"
            raise ValueError(f"`{strange[0]}` does not fit `{given[0]}`: such tokens {kind}")
        return self

    @property
    def fitting(self) -> tuple[str, ...]:
        """The algorithms that can fit this kind of key; which of them fit the key itself is seen when it is read."""
        return HMAC if self.secret is not None else SIGNATURES


class Tenant(Model):
    """An owner of names of endpoints."""

    narrows: ClassVar[tuple[str, ...]] = ("verifiers", "limits")

    verifiers: VerifierNames = knob(
        (), "Where `by_tenant` stands: whose tokens are good for this tenant, names below `verifiers`."
    )
    limits: Quota | None = Field(default=None, description="Limits of all its tokens together.")


class CertificateGrant(Model):
    """What the names of a client certificate stand for."""

    narrows: ClassVar[tuple[str, ...]] = ("endpoints", "tenant")

    endpoints: Literal["dns", "cn"] = knob(
        ..., "The endpoints it may listen on and reach: the DNS names of the certificate, or its common name."
    )
    tenant: Literal["o", "ou", "none"] = knob("none", "Its tenant: the organisation or its unit, or none.")


class Auth(Model):
    """Whose credentials are good: at least one of `verifiers`, `by_tenant`, `users` and `certificate`, or `none`."""

    narrows: ClassVar[tuple[str, ...]] = ("verifiers", "by_tenant", "users", "certificate", "realm")

    verifiers: VerifierNames = knob((), "Whose tokens are good: names below `verifiers`, of which one has to accept.")
    by_tenant: bool = knob(
        False, "The header `x-tidegate-tenant-id` says which tenant's verifiers count (`tenants.NAME.verifiers`)."
    )
    users: SecretSource | None = Field(
        default=None, description="Kind http: users and their passwords, as `htpasswd -B` writes them, or argon2."
    )
    realm: Annotated[str, AfterValidator(_realm), Label("TEXT")] = knob("tidegate", "What browsers ask a password for.")
    certificate: CertificateGrant | None = Field(
        default=None, description="Names of a client certificate (`tls.client_ca`) stand for endpoints."
    )
    pass_: bool = Field(
        default=False,
        alias="pass",
        description="Kind http: `Authorization` goes on to the upstream although it was the credential.",
        json_schema_extra={"flag": None, "advanced": True},
    )
    disconnect_on_expiry: bool = knob(True, "Kind tunnel: a tunnel ends when its token expires.")

    @model_validator(mode="wrap")
    @classmethod
    def _written(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if value == "none":
            return handler({})
        made = handler(value)
        if isinstance(value, dict) and made.is_none:
            raise ValueError(
                "asks for nothing: write one of `verifiers: [NAME]`, `by_tenant: true`, `users: {file: FILE}` and "
                "`certificate: {endpoints: dns}`, or `auth: none`"
            )
        if made.by_tenant and made.verifiers:
            raise ValueError("`verifiers` and `by_tenant` exclude each other: with `by_tenant` each tenant has its own")
        if made.users is None and "realm" in made.model_fields_set and not made.verifiers and not made.by_tenant:
            raise ValueError("`realm` belongs to `users`, `verifiers` or `by_tenant`")
        return made

    @property
    def is_none(self) -> bool:
        """True for `auth: none`: no credential is asked for."""
        return not (self.verifiers or self.by_tenant or self.users or self.certificate)

    def says(self, key: str) -> bool:
        """Whether this key was written."""
        return ("pass_" if key == "pass" else key) in self.model_fields_set


class AdminAuth(Model):
    """Whose tokens are good on the admin listener."""

    narrows: ClassVar[tuple[str, ...]] = ("verifiers",)

    verifiers: Annotated[VerifierNames, AfterValidator(_some)] = knob(
        ..., "Whose tokens are good: names below `verifiers`, of which one has to accept."
    )
