"""
Looks into certificates: whether a key belongs to one, and until when it is good.

What is shown to whom is the engine's; here only what a person has to know before it starts.
"""

import base64
import re
import ssl
from datetime import UTC, datetime

__all__ = ["match", "not_after"]

_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
_UTC_TIME = 0x17


def match(cert: str, key: str) -> None:
    """Refuses a certificate and a key, both names of files, that do not belong together."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=_no_password)
    except _EncryptedKeyError:
        raise ValueError(f"{key} is encrypted; there is nobody to ask for its password") from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"{key} is not the key of {cert}") from None
        raise ValueError(f"{cert} and {key} cannot be used: {(error.reason or str(error)).lower()}") from None


class _EncryptedKeyError(Exception):
    """A key asks for a password."""


def _no_password() -> str:
    raise _EncryptedKeyError


def not_after(pem: str) -> datetime:
    """When the first certificate of a chain ends to be good, or a `ValueError`."""
    found = _BLOCK.search(pem)
    if found is None:
        raise ValueError("no certificate")
    try:
        return _validity_end(base64.b64decode(found[1]))
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError("no certificate") from error


def _validity_end(der: bytes) -> datetime:
    """RFC 5280: Certificate { tbs { [0] version, serial, signature, issuer, validity { notBefore, notAfter } } }."""
    certificate, _ = _inside(der, 0)
    position, _ = _inside(der, certificate)
    if der[position] == 0xA0:
        position = _after(der, position)
    for _ in range(3):
        position = _after(der, position)
    not_before, _ = _inside(der, position)
    begin, end = _inside(der, _after(der, not_before))
    text = der[begin:end].decode("ascii")
    if der[_after(der, not_before)] == _UTC_TIME:  # RFC 5280: two digits of the year, from 1950 on
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _inside(der: bytes, position: int) -> tuple[int, int]:
    """Where the content of one DER value begins and ends."""
    length, begin = der[position + 1], position + 2
    if length & 0x80:
        octets = length & 0x7F
        length, begin = int.from_bytes(der[begin : begin + octets], "big"), begin + octets
    return begin, begin + length


def _after(der: bytes, position: int) -> int:
    return _inside(der, position)[1]
