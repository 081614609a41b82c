"""
Reads a token, and turns its claims into what it permits.

Says nothing about its signature: that is `keys`, and `verify` puts both together. What a token says in a way that two
readers could understand differently makes it invalid as a whole.
"""

import json
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from tidegate.auth import strict

__all__ = ["LARGEST", "Claims", "InvalidTokenError", "Token", "claims_of", "name_pattern", "permits", "read"]

LARGEST = 16 * 1024
"""Bytes of a token."""

_LATEST = float(2**53)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
_PATTERN = re.compile(r"[A-Za-z0-9._-]{0,128}\*|[A-Za-z0-9._-]{1,128}")

Names = tuple[str, ...]


class InvalidTokenError(Exception):
    """A token is wrong in itself; the text says why, with no value of it."""


@dataclass(frozen=True)
class Token:
    """The parts of a token whose form is right. Nothing in it is believed yet."""

    algorithm: str
    """What its header says."""
    kid: str | None
    """The name of its key, where it gives one."""
    claims: dict[str, Any]
    """Its claims as they are written."""
    signed: bytes
    """What is signed."""
    signature: bytes
    """The signature."""


@dataclass(frozen=True)
class Claims:
    """What a token says, once its signature is good."""

    expires: float | None
    """When it ends, in seconds since 1970."""
    not_before: float | None
    """When it begins."""
    issuer: str | None
    """Who says to have issued it."""
    audience: Names
    """Whom it is for; empty where it does not say."""
    tenant: str
    """The tenant that it names, or nothing."""
    listen: Names | None
    """Patterns of the endpoints that it may offer; none where it names no endpoints at all."""
    reach: Names | None
    """Patterns of the endpoints that it may reach; none where it names no endpoints at all."""


def read(text: str) -> Token:
    """The parts of a token, or `InvalidTokenError`."""
    if len(text) > LARGEST:
        raise InvalidTokenError(f"is larger than {LARGEST // 1024} KiB")
    # At most three cuts: a megabyte of dots costs nothing.
    parts = text.split(".", 3)
    if len(parts) != 3:
        raise InvalidTokenError("is no token (three parts with dots between them)")
    header, claims = _part(parts[0], "header"), _part(parts[1], "claims")
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str):
        raise InvalidTokenError("its header names no algorithm")
    if "crit" in header:
        raise InvalidTokenError("its header demands something (`crit`) that is not known here")
    if "kid" in header and not isinstance(kid, str):
        raise InvalidTokenError("`kid` in its header is no text")
    try:
        signature = strict.base64url(parts[2])
    except ValueError:
        raise InvalidTokenError("its signature is no base64url") from None
    return Token(algorithm, kid, claims, f"{parts[0]}.{parts[1]}".encode(), signature)


def _part(text: str, what: str) -> dict[str, Any]:
    try:
        return strict.parse(strict.base64url(text))
    except ValueError as error:
        raise InvalidTokenError(f"its {what} cannot be read: {str(error).removeprefix('it ')}") from None


def claims_of(token: Token) -> Claims:
    """What a token says, or `InvalidTokenError`."""
    claims = token.claims
    _time(claims, "iat")
    listen, reach, tenant = _tidegate(_object(claims, "tidegate"))
    named = _piko(claims)
    if listen is None and reach is None:
        listen = reach = named
    elif listen is None or reach is None:
        # Whoever names endpoints for one direction has not forgotten the other.
        listen, reach = listen or (), reach or ()
    issuer = claims.get("iss")
    if "iss" in claims and not isinstance(issuer, str):
        raise InvalidTokenError("`iss` is no text")
    return Claims(
        expires=_time(claims, "exp"),
        not_before=_time(claims, "nbf"),
        issuer=issuer,
        audience=_audience(claims),
        tenant=tenant,
        listen=listen,
        reach=reach,
    )


def permits(patterns: Collection[str] | None, name: str) -> bool:
    """Whether a name of an endpoint is among these; none means all."""
    return patterns is None or any(
        name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern for pattern in patterns
    )


def name_pattern(text: str) -> str:
    """The text itself, where it is the name of an endpoint or the beginning of names (`web-*`)."""
    if not _PATTERN.fullmatch(text):
        raise ValueError(f"{json.dumps(text)} is no endpoint (a name, or the beginning of names and a `*`)")
    return text


def _time(claims: dict[str, Any], name: str) -> float | None:
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidTokenError(f"`{name}` is no number")
    # An integer may be too large for a float, so it is compared first.
    if not 0 <= value <= _LATEST:
        raise InvalidTokenError(f"`{name}` is no time")
    return float(math.floor(value))


def _audience(claims: dict[str, Any]) -> Names:
    if "aud" not in claims:
        return ()
    value = claims["aud"]
    written = [value] if isinstance(value, str) else value
    if not isinstance(written, list) or not all(isinstance(each, str) for each in written):
        raise InvalidTokenError("`aud` is neither a text nor a list of texts")
    return tuple(written)


def _object(claims: dict[str, Any], name: str) -> dict[str, Any] | None:
    if name not in claims:
        return None
    value = claims[name]
    if not isinstance(value, dict):
        raise InvalidTokenError(f"`{name}` is no object")
    return value


def _tidegate(claim: dict[str, Any] | None) -> tuple[Names | None, Names | None, str]:
    if claim is None:
        return None, None, ""
    # Each member narrows what the token permits: one that is not understood cannot be passed over.
    if claim.keys() - {"endpoints", "listen", "reach", "tenant"}:
        raise InvalidTokenError("`tidegate` holds more than `endpoints`, `listen`, `reach` and `tenant`")
    both, listen, reach = (_names(claim, "tidegate", name) for name in ("endpoints", "listen", "reach"))
    tenant = claim.get("tenant", "")
    if "tenant" in claim and not (isinstance(tenant, str) and _NAME.fullmatch(tenant)):
        raise InvalidTokenError("`tidegate.tenant` is no name of a tenant")
    return _together(both, listen), _together(both, reach), tenant


def _piko(claims: dict[str, Any]) -> Names | None:
    """An empty list names nothing, as with Piko, and so does null: programs in Go write it for a list without any."""
    if claims.get("piko") is None:
        return None
    claim = _object(claims, "piko") or {}
    return None if claim.get("endpoints") is None else _names(claim, "piko", "endpoints") or None


def _names(claim: dict[str, Any], where: str, name: str) -> Names | None:
    if name not in claim:
        return None
    written = claim[name]
    if not isinstance(written, list) or not all(isinstance(each, str) and _PATTERN.fullmatch(each) for each in written):
        raise InvalidTokenError(f"`{where}.{name}` is no list of endpoints")
    return tuple(dict.fromkeys(written))


def _together(one: Names | None, other: Names | None) -> Names | None:
    if one is None or other is None:
        return one if other is None else other
    return tuple(dict.fromkeys((*one, *other)))
