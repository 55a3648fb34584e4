"""What logins of tests are made of."""

from __future__ import annotations

from rtunnel.wire.certificate import Certificate, CertificateKind, sign_certificate
from rtunnel.wire.keys import ECDSA_P256, ED25519, RSA, PrivateKey, PublicKey

KEY_TYPES = (ED25519, ECDSA_P256, RSA)


def certificate(key: PublicKey) -> Certificate:
    """A user certificate for a key."""
    return sign_certificate(
        PrivateKey.generate(),
        key,
        kind=CertificateKind.USER,
        key_id="alice",
        principals=["alice"],
        valid_after=0,
        valid_before=2**40,
        serial=7,
    )
