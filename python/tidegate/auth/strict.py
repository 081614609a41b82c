"""
Reads the JSON and base64url of tokens in one way only.

What two readers could understand differently is refused: members that stand twice, numbers that are none, other
alphabets, bits that are left over.
"""

import base64
import json
import re
from typing import Any

__all__ = ["base64url", "encoded", "parse"]

_ALPHABET = re.compile(r"[A-Za-z0-9_-]*")


def base64url(text: str) -> bytes:
    """The bytes of base64url without padding."""
    if not _ALPHABET.fullmatch(text) or len(text) % 4 == 1:
        raise ValueError("is no base64url")
    value = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    # The last character may hold bits that no byte takes; only zeros are a form that everybody writes.
    if encoded(value) != text:
        raise ValueError("is no base64url")
    return value


def encoded(value: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def parse(data: bytes) -> dict[str, Any]:
    """The members of a JSON object in UTF-8, or a `ValueError` without a word of what stands in it."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except json.JSONDecodeError:
        raise ValueError("it is no JSON") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member stands twice")
    return found


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number")
