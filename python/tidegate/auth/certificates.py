"""
A client certificate as a credential: its names stand for endpoints and for the tenant.

Whether an authority that is trusted has issued it, the TLS handshake has decided before.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import NameOID

from tidegate.auth.strict import encoded
from tidegate.auth.verdict import EXPIRED, INVALID, UNKNOWN_TENANT, Granted, Refused, agreed_tenant
from tidegate.config.values import endpoint_name

__all__ = ["Names"]

_TENANT = {"o": NameOID.ORGANIZATION_NAME, "ou": NameOID.ORGANIZATIONAL_UNIT_NAME}
_FOREVER = 3600.0


@dataclass(frozen=True)
class Names:
    """Which names of a certificate count."""

    id: str
    """The set that asks, in the ids of keys."""
    endpoints: str
    """`dns`: every DNS name of the certificate is an endpoint. `cn`: its common name is."""
    tenant: str = "none"
    """`o`: its organisation is the tenant. `ou`: its organisational unit. `none`: it has none."""
    tenants: Collection[str] | None = None
    """The tenants there are; without them a certificate may name any."""

    def verify(self, der: bytes, now: float, asked: str = "") -> Granted | Refused:
        """What a certificate permits. A name stands for itself: a `*` in it is no pattern."""
        try:
            certificate = x509.load_der_x509_certificate(der)
            subject = certificate.subject
            names = _dns(certificate) if self.endpoints == "dns" else _texts(subject, NameOID.COMMON_NAME)
            owners = _texts(subject, _TENANT[self.tenant]) if self.tenant in _TENANT else []
        except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
            return Refused(INVALID, "the certificate cannot be read", _FOREVER)
        if self.endpoints == "cn" and len(names) > 1:
            return Refused(INVALID, "the certificate has several common names", _FOREVER)
        expires = certificate.not_valid_after_utc.timestamp()
        if now >= expires:
            return Refused(EXPIRED, "the certificate has expired", _FOREVER)
        if now < certificate.not_valid_before_utc.timestamp():
            return Refused(INVALID, "the certificate is not good yet")
        if self.tenant in _TENANT and (len(owners) != 1 or not _is_name(owners[0])):
            return Refused(UNKNOWN_TENANT, "the certificate names no tenant, or several", _FOREVER)
        tenant = agreed_tenant(asked, *owners)
        if tenant is None or (tenant and self.tenants is not None and tenant not in self.tenants):
            return Refused(UNKNOWN_TENANT, "the certificate is of another tenant")
        permitted = tuple(dict.fromkeys(name for name in names if _is_name(name)))
        key = f"{self.id}/{encoded(hashlib.sha256(der).digest())}"
        return Granted(key=key, tenant=tenant, listen=permitted, reach=permitted, expires=expires)


def _dns(certificate: x509.Certificate) -> list[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return list(found.value.get_values_for_type(x509.DNSName))


def _texts(subject: x509.Name, oid: x509.ObjectIdentifier) -> list[str]:
    return [str(each.value) for each in subject.get_attributes_for_oid(oid)]


def _is_name(text: str) -> bool:
    try:
        endpoint_name(text)
    except ValueError:
        return False
    return True
