"""
Certificates of the demonstration, for names below .localhost and for nothing else.

Keys that everybody has protect nobody: never use them elsewhere. They are good until 2124, so that the demonstration
needs no tool that makes some; the authority's own key was destroyed when it had signed these two, and it may sign only
for `localhost`.
"""

import ssl
from pathlib import Path

__all__ = ["AUTHORITY", "GATE", "SEALED", "serving", "trusting", "write"]

AUTHORITY = """\
-----BEGIN CERTIFICATE-----
MIIBuTCCAV+gAwIBAgIBATAKBggqhkjOPQQDAjAzMTEwLwYDVQQDDCh0aWRlZ2F0
ZSBkZW1vbnN0cmF0aW9uLCB0cnVzdCBpdCBub3doZXJlMCAXDTI0MDEwMTAwMDAw
MFoYDzIxMjQwMTAxMDAwMDAwWjAzMTEwLwYDVQQDDCh0aWRlZ2F0ZSBkZW1vbnN0
cmF0aW9uLCB0cnVzdCBpdCBub3doZXJlMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcD
QgAEawW6pVXSYSByB1r/JQyEqi4aFkSg0xJGaFWlzF25glhGQaStM4kTzxAD8Zej
J0pRtwICuicYMljGi8UauvgokKNiMGAwEgYDVR0TAQH/BAgwBgEB/wIBADAOBgNV
HQ8BAf8EBAMCAgQwGwYDVR0eAQH/BBEwD6ANMAuCCWxvY2FsaG9zdDAdBgNVHQ4E
FgQUfRNUwE3L9ezIkPD46ydR3OTyqbowCgYIKoZIzj0EAwIDSAAwRQIhAIb3kxZR
orjgNfq80Ao/vsVRd6sXWp54GcRXFL5RC/bgAiB5ia4bB/3DMoGB49zSbuw0mpyS
q3JB6IMBtCZiB4EbdQ==
-----END CERTIFICATE-----
"""
"""Who signed the two others; no system trusts it."""

GATE = """\
-----BEGIN CERTIFICATE-----
MIIB7jCCAZOgAwIBAgIBAjAKBggqhkjOPQQDAjAzMTEwLwYDVQQDDCh0aWRlZ2F0
ZSBkZW1vbnN0cmF0aW9uLCB0cnVzdCBpdCBub3doZXJlMCAXDTI0MDEwMTAwMDAw
MFoYDzIxMjQwMTAxMDAwMDAwWjAmMSQwIgYDVQQDDBt0aWRlZ2F0ZSBkZW1vbnN0
cmF0aW9uIGdhdGUwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARsD+uZKE1Uyrh6
n01cp3PoPOWS9MOTgT/b7BRMvyGJZFeZYXdauZntJJN9UOiJObWyxM6Y5/gbMBrB
VLT8MPt3o4GiMIGfMAwGA1UdEwEB/wQCMAAwDgYDVR0PAQH/BAQDAgeAMBMGA1Ud
JQQMMAoGCCsGAQUFBwMBMB0GA1UdDgQWBBQy3c2oH+jkpOhxLOb5crKnFTUk5DAf
BgNVHSMEGDAWgBR9E1TATcv17MiQ8PjrJ1Hc5PKpujAqBgNVHREEIzAhgg1hcHAu
bG9jYWxob3N0ghBpbnNpZGUubG9jYWxob3N0MAoGCCqGSM49BAMCA0kAMEYCIQCK
lHYxar1VmNNjhmnSQtj4l3jPP3huw20sNmBW3PymtQIhAN7r/bKGW5xw9DC8xt3m
rwLWWbK2UHqxQ66UgIPZfmx9
-----END CERTIFICATE-----
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg9ZtDVJGxfpp6O8nt
dquxiOnO64LfKIh9+3ge2wv6HOqhRANCAARsD+uZKE1Uyrh6n01cp3PoPOWS9MOT
gT/b7BRMvyGJZFeZYXdauZntJJN9UOiJObWyxM6Y5/gbMBrBVLT8MPt3
-----END PRIVATE KEY-----
"""
"""Certificate and key of the gateway, for app.localhost and inside.localhost."""

SEALED = """\
-----BEGIN CERTIFICATE-----
MIIB4TCCAYagAwIBAgIBAzAKBggqhkjOPQQDAjAzMTEwLwYDVQQDDCh0aWRlZ2F0
ZSBkZW1vbnN0cmF0aW9uLCB0cnVzdCBpdCBub3doZXJlMCAXDTI0MDEwMTAwMDAw
MFoYDzIxMjQwMTAxMDAwMDAwWjAoMSYwJAYDVQQDDB10aWRlZ2F0ZSBkZW1vbnN0
cmF0aW9uIHNlYWxlZDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABEx/GtSezoeI
3ZnCHVL5I2fOrSpFQcTMGJWXmvwTY5PBkZef0QY90KNWQW6u9Zy1qfWLp0HRMm9i
UGTmQQG06SKjgZMwgZAwDAYDVR0TAQH/BAIwADAOBgNVHQ8BAf8EBAMCB4AwEwYD
VR0lBAwwCgYIKwYBBQUHAwEwHQYDVR0OBBYEFCUlg+B2jPUri3JapNNai9Z7FRuD
MB8GA1UdIwQYMBaAFH0TVMBNy/XsyJDw+OsnUdzk8qm6MBsGA1UdEQQUMBKCEHNl
YWxlZC5sb2NhbGhvc3QwCgYIKoZIzj0EAwIDSQAwRgIhAL7y7HyO6InEga0O+KPR
Fk8xPd//4xYl49kpgpdHZKjSAiEA6UOSBqOjQLgCRv9SxKkZIRTtDCxxAJlUCaNA
igXBjSk=
-----END CERTIFICATE-----
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgZQKyJ7tvlIWl2zYw
i9mdPppBcw+TzvbvF2x+YGfurF2hRANCAARMfxrUns6HiN2Zwh1S+SNnzq0qRUHE
zBiVl5r8E2OTwZGXn9EGPdCjVkFurvWctan1i6dB0TJvYlBk5kEBtOki
-----END PRIVATE KEY-----
"""
"""Certificate and key of the service that ends TLS itself, for sealed.localhost."""


def write(folder: Path, name: str, text: str) -> str:
    """Writes a file for its owner alone; its name."""
    path = folder / name
    path.touch(mode=0o600)
    path.write_text(text)
    return str(path)


def trusting() -> ssl.SSLContext:
    """What a visitor needs who trusts the demonstration."""
    return ssl.create_default_context(cadata=AUTHORITY)


def serving(folder: Path) -> ssl.SSLContext:
    """What the service that ends TLS itself needs; files are all that Python reads keys from."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(write(folder, "sealed.pem", SEALED))
    return context
