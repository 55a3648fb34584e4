"""A certificate that is still good, shown to get the next one. Pure.

The request is signed by the key of the certificate that is to be renewed, over a text
that nothing else is. So whoever signs the new certificate believes no proxy that passed
the request on, and a request that somebody has recorded gets him a certificate for a
key that he does not have.
"""

from __future__ import annotations

from typing import ClassVar, Final

import attrs

from rtunnel.errors import CertificateError, MessageError
from rtunnel.trust.signing_role import Role
from rtunnel.wire.certificate import (
    MAX_CERTIFICATE_LENGTH,
    Certificate,
    CertificateKind,
)
from rtunnel.wire.data_types import Reader, string, text
from rtunnel.wire.keys import (
    MAX_PUBLIC_KEY_LENGTH,
    PrivateKey,
    PublicKey,
)

#: What is signed begins with this, so that no other signature can be taken for it.
DOMAIN: Final = b"rtunnel renewal v1"
#: Seconds by which clocks may differ, and a request may take to whoever signs.
MAX_AGE: Final = 300.0
#: Bytes of one signature; RSA of 8192 bits has 1024.
MAX_SIGNATURE: Final = 2048
#: Decimal digits of a time.
MAX_DIGITS: Final = 20


@attrs.frozen
class RenewalRequest:
    """Certify the same agent or proxy again; a
    :class:`~rtunnel.trust.signing_request.SigningRequest`.

    :param source: the IP address that it came from, as whoever passes it on says.
    :param certificate: to be renewed.
    :param key: to be certified: that of the certificate, or a fresh one.
    :param time: POSIX time, whole seconds, at which it was made.
    :param signature: of :attr:`signed_text`, by the key of the certificate.
    :param proof: likewise by ``key``, when that is a fresh one; else empty.
    """

    kind: ClassVar[str] = "renewal"
    once: ClassVar[bool] = False

    source: str
    certificate: Certificate
    key: PublicKey
    time: int
    signature: bytes
    proof: bytes = b""

    @classmethod
    def make(
        cls,
        certificate: Certificate,
        present: PrivateKey,
        now: float,
        fresh: PrivateKey | None = None,
        source: str = "",
    ) -> RenewalRequest:
        """Ask for the next certificate.

        :param present: the private key of the certificate.
        :param now: POSIX time.
        :param fresh: the key to be certified, if another one.
        """
        key = (fresh or present).public
        data = _signed_text(certificate, key, int(now))
        return cls(
            source,
            certificate,
            key,
            int(now),
            present.sign(data),
            b"" if fresh is None else fresh.sign(data),
        )

    @property
    def role(self) -> Role:
        """Which authority has to sign."""
        is_host = self.certificate.kind is CertificateKind.HOST
        return "proxy" if is_host else "agent"

    def check(self, now: float) -> None:
        """Check the signatures and the age; whether the certificate is to be believed
        is another question.

        :param now: POSIX time.
        :raises CertificateError: why it counts for nothing.
        """
        if abs(now - self.time) > MAX_AGE:
            raise CertificateError(
                f"the request was made {abs(now - self.time):.0f} seconds "
                f"{'ago' if now > self.time else 'ahead of our clock'}"
            )
        data = _signed_text(self.certificate, self.key, self.time)
        if not _verifies(self.certificate.key, self.signature, data):
            raise CertificateError("not signed by the key of the certificate")
        fresh = self.key != self.certificate.key
        if fresh and not _verifies(self.key, self.proof, data):
            raise CertificateError("not signed by the fresh key")

    def encode_body(self) -> bytes:
        """Certificate, key, time in decimal, signature and proof, each a string."""
        return b"".join(
            (
                string(self.certificate.blob),
                string(self.key.blob),
                text(str(self.time)),
                string(self.signature),
                string(self.proof),
            )
        )

    @classmethod
    def decode_body(cls, source: str, reader: Reader) -> RenewalRequest:
        """Read that.

        :raises CertificateError: when certificate is malformed.
        :raises ProtocolError: when something else is.
        :raises MessageError: when the time is no time.
        """
        certificate = Certificate.from_blob(reader.string(MAX_CERTIFICATE_LENGTH))
        key = PublicKey.from_blob(reader.string(MAX_PUBLIC_KEY_LENGTH))
        digits = reader.text(MAX_DIGITS)
        if not (digits.isascii() and digits.isdecimal()):
            raise MessageError("a renewal's time is not a whole number")
        signature = reader.string(MAX_SIGNATURE)
        return cls(
            source,
            certificate,
            key,
            int(digits),
            signature,
            reader.string(MAX_SIGNATURE),
        )


def _signed_text(certificate: Certificate, key: PublicKey, time: int) -> bytes:
    return b"".join(
        (string(DOMAIN), string(certificate.blob), string(key.blob), text(str(time)))
    )


def _verifies(key: PublicKey, signature: bytes, data: bytes) -> bool:
    return any(
        key.verify(signature, data, algorithm) for algorithm in key.signature_algorithms
    )
