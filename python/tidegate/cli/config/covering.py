"""
Whether a certificate will do for a domain and every name below it.

Whoever writes the configuration is told at once, and the configuration is written all the same: the file may come
later, from an authority that wants to see the domain first.
"""

import os
from collections.abc import Iterator

from cryptography import x509

from tidegate.config.certificates import match
from tidegate.config.files import read

__all__ = ["doubts"]


def doubts(domain: str, cert: str, key: str) -> Iterator[str]:
    """What will keep visitors or agents away, a sentence each."""
    cert, key = os.path.expanduser(cert), os.path.expanduser(key)
    missing = {name: why for name in (cert, key) if (why := _unreadable(name)) is not None}
    yield from (
        f"{name}: cannot be read now: {why} (it has to be there before the gateway starts)"
        for name, why in missing.items()
    )
    if cert in missing:
        return
    try:
        names = _names(cert)
    except ValueError:
        yield f"{cert}: holds no certificate that can be read"
        return
    lacking = [each for each in (domain, f"*.{domain}") if not {*names} & {each, f"*.{each.partition('.')[2]}"}]
    if lacking:
        held = ", ".join(names) or "no name"
        yield f"{cert}: is not for {' and '.join(lacking)} (it is for {held}): browsers and agents will refuse it"
    if key not in missing:
        try:
            match(cert, key)
        except ValueError as error:
            yield str(error)


def _unreadable(name: str) -> str | None:
    try:
        with open(name, "rb") as file:
            file.read(1)
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return None


def _names(cert: str) -> list[str]:
    """The DNS names that the first certificate of a chain is for."""
    first = x509.load_pem_x509_certificate(read(cert).encode())
    try:
        found = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [name.lower() for name in found.get_values_for_type(x509.DNSName)]
