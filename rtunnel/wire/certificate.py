"""OpenSSH certificates: read, checked and signed.

Source: draft-miller-ssh-cert, which describes what OpenSSH does. A certificate says
nothing until :meth:`Certificate.check` has accepted it for one role.
"""

from __future__ import annotations

import enum
import secrets
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache

import attrs

from rtunnel.errors import CertificateError, KeyFormatError, ProtocolError
from rtunnel.naming import printable
from rtunnel.wire.certificate_check import (
    check_principals,
    check_signature,
    check_validity,
)
from rtunnel.wire.certificate_options import (
    Options,
    check_host_options,
    check_user_options,
    encode_options,
    read_options,
)
from rtunnel.wire.data_types import Reader, string, text, uint32, uint64
from rtunnel.wire.keys import (
    ECDSA_P256,
    ED25519,
    RSA,
    RSA_SHA256,
    RSA_SHA512,
    SIGNATURE_ALGORITHMS,
    SK_ECDSA_P256,
    SK_ED25519,
    PrivateKey,
    PublicKey,
    join_openssh_line,
    split_openssh_line,
)

#: Bytes in a certificate blob.
MAX_CERTIFICATE_LENGTH = 64 * 1024

#: Principals in one certificate; OpenSSH's own limit.
MAX_PRINCIPALS = 256

#: Certificates that are remembered as read, and as signed by whom they name: both are
#: so or not for good, and cost as much as the rest of a login. Longer ones are not.
MAX_REMEMBERED = 64
MAX_REMEMBERED_LENGTH = 4096

#: A ``valid_before`` that means "for ever".
FOREVER = 2**64 - 1

#: Seconds by which the clock of a CA may be ahead of ours.
DEFAULT_SKEW = 60.0

#: Certificate algorithms as key exchange and authentication name them, best first,
#: and the algorithm that signatures with such a certificate then name. The plain
#: ``ssh-rsa-cert-v01@openssh.com`` is not among them: it stands for SHA-1.
CERTIFICATE_ALGORITHMS: dict[bytes, bytes] = {
    b"ssh-ed25519-cert-v01@openssh.com": ED25519,
    b"sk-ssh-ed25519-cert-v01@openssh.com": SK_ED25519,
    b"ecdsa-sha2-nistp256-cert-v01@openssh.com": ECDSA_P256,
    b"sk-ecdsa-sha2-nistp256-cert-v01@openssh.com": SK_ECDSA_P256,
    b"rsa-sha2-512-cert-v01@openssh.com": RSA_SHA512,
    b"rsa-sha2-256-cert-v01@openssh.com": RSA_SHA256,
}

#: Certificate types, the first field of a blob: key type inside, and how many fields
#: that key has.
_TYPES: dict[bytes, tuple[bytes, int]] = {
    b"ssh-ed25519-cert-v01@openssh.com": (ED25519, 1),
    b"sk-ssh-ed25519-cert-v01@openssh.com": (SK_ED25519, 2),
    b"ecdsa-sha2-nistp256-cert-v01@openssh.com": (ECDSA_P256, 2),
    b"sk-ecdsa-sha2-nistp256-cert-v01@openssh.com": (SK_ECDSA_P256, 3),
    b"ssh-rsa-cert-v01@openssh.com": (RSA, 2),
}
_TYPE_OF_KEY = {key_type: name for name, (key_type, _) in _TYPES.items()}

_NONCE_LENGTH = 32


class CertificateKind(enum.IntEnum):
    """Whom a certificate speaks of: SSH_CERT_TYPE_USER or SSH_CERT_TYPE_HOST."""

    USER = 1
    HOST = 2


@attrs.frozen(repr=False)
class Certificate:
    """A certificate as it is written, whether or not it deserves belief.

    Made by :meth:`from_blob`, :meth:`from_openssh` or :func:`sign_certificate`.
    Equal when the blobs are.

    :param blob: the certificate as SSH sends it.
    :param algorithm: its type, the first field of the blob.
    :param key: the key that it speaks of.
    :param principals: names that it gives the key.
    :param valid_after: POSIX time of its first valid second.
    :param valid_before: POSIX time of the first second that is too late;
        :data:`FOREVER` for never.
    :param critical_options: what a reader has to understand or refuse.
    :param extensions: what a reader may pass over.
    :param ca_key: the key said to have signed it.
    :param signature: that key's signature blob.
    """

    blob: bytes
    algorithm: bytes = attrs.field(eq=False)
    key: PublicKey = attrs.field(eq=False)
    serial: int = attrs.field(eq=False)
    kind: CertificateKind = attrs.field(eq=False)
    key_id: str = attrs.field(eq=False)
    principals: tuple[str, ...] = attrs.field(eq=False)
    valid_after: int = attrs.field(eq=False)
    valid_before: int = attrs.field(eq=False)
    critical_options: Options = attrs.field(eq=False)
    extensions: Options = attrs.field(eq=False)
    ca_key: PublicKey = attrs.field(eq=False)
    signature: bytes = attrs.field(eq=False)

    @classmethod
    def from_blob(cls, blob: bytes) -> Certificate:
        """Read a certificate as a peer sends it.

        :param blob: at most :data:`MAX_CERTIFICATE_LENGTH` bytes.
        :raises CertificateError: malformed; of an unknown type; options out of order
            or repeated; a key or CA key that is refused, or that is itself a
            certificate.
        """
        if len(blob) > MAX_CERTIFICATE_LENGTH:
            raise CertificateError(
                f"a certificate of {len(blob)} bytes; {MAX_CERTIFICATE_LENGTH} is the "
                "limit"
            )
        try:
            if len(blob) <= MAX_REMEMBERED_LENGTH:
                return _parsed(blob)
            return cls._parse(blob)
        except ProtocolError as error:
            raise CertificateError(f"a malformed certificate: {error}") from None

    @classmethod
    def _parse(cls, blob: bytes) -> Certificate:
        reader = Reader(blob)
        algorithm = reader.string(64)
        if algorithm not in _TYPES:
            raise CertificateError(
                f"a certificate of type {printable(algorithm, 64)!r} is not accepted"
            )
        reader.string()
        key_type, field_count = _TYPES[algorithm]
        key = _read_key(
            b"".join(
                [
                    string(key_type),
                    *(string(reader.string()) for _ in range(field_count)),
                ]
            ),
            "its key",
        )
        serial = reader.uint64()
        kind_number = reader.uint32()
        try:
            kind = CertificateKind(kind_number)
        except ValueError:
            raise CertificateError(
                f"a certificate of kind {kind_number}, neither user nor host"
            ) from None
        key_id = _check_text(reader.text(), "key id")
        principals = _read_principals(reader.string())
        valid_after = reader.uint64()
        valid_before = reader.uint64()
        critical_options = read_options(reader.string(), "critical option")
        extensions = read_options(reader.string(), "extension")
        reader.string()
        ca_key = _read_key(reader.string(), "its CA key")
        signature = reader.string()
        reader.end()
        return cls(
            blob=blob,
            algorithm=algorithm,
            key=key,
            serial=serial,
            kind=kind,
            key_id=key_id,
            principals=principals,
            valid_after=valid_after,
            valid_before=valid_before,
            critical_options=critical_options,
            extensions=extensions,
            ca_key=ca_key,
            signature=signature,
        )

    @classmethod
    def from_openssh(cls, line: str) -> tuple[Certificate, str]:
        """Read one line of a ``-cert.pub`` file: type, base64, comment.

        :return: the certificate, and the comment ("" when there is none).
        :raises CertificateError: when it is no such line, or :meth:`from_blob`
            refuses.
        """
        try:
            algorithm, blob, comment = split_openssh_line(line)
        except KeyFormatError as error:
            raise CertificateError(str(error)) from None
        certificate = cls.from_blob(blob)
        if certificate.algorithm != algorithm.encode("ascii", "replace"):
            raise CertificateError(
                "a certificate line names another type than its certificate"
            )
        return certificate, comment

    def to_openssh(self, comment: str = "") -> str:
        """The certificate as one line of a ``-cert.pub`` file, without a newline."""
        return join_openssh_line(self.algorithm, self.blob, comment)

    @property
    def signature_algorithms(self) -> tuple[bytes, ...]:
        """The certificate algorithms that it can be used with, best first."""
        return tuple(
            name
            for name, plain in CERTIFICATE_ALGORITHMS.items()
            if plain in self.key.signature_algorithms
        )

    def verify(self, signature: bytes, data: bytes, algorithm: bytes) -> bool:
        """Whether the holder of :attr:`key` signed ``data``.

        Says nothing about the certificate itself; that is :meth:`check`. Never raises.

        :param signature: the whole signature blob; it names the plain algorithm.
        :param algorithm: a certificate algorithm, as both sides agreed on.
        """
        plain = CERTIFICATE_ALGORITHMS.get(algorithm)
        return plain is not None and self.key.verify(signature, data, plain)

    def check(
        self,
        *,
        kind: CertificateKind,
        trusted: Collection[PublicKey],
        now: float,
        source: str | None = None,
        principal: str | None = None,
        skew: float = DEFAULT_SKEW,
    ) -> None:
        """Accept the certificate in one role, or say why not.

        :param kind: what it has to be.
        :param trusted: the CA keys that count in this role.
        :param now: POSIX time.
        :param source: IP address that the holder comes from. Without it a certificate
            bound to addresses is refused.
        :param principal: a name that it has to give, exactly.
        :param skew: seconds that it may begin in the future. Its end has no skew, as
            in OpenSSH: expired is expired.
        :raises CertificateError: when any check fails; the reason is for our log.
        """
        if self.kind is not kind:
            raise CertificateError(
                f"a {self.kind.name.lower()} certificate where a "
                f"{kind.name.lower()} certificate is needed"
            )
        if self.ca_key not in trusted:
            raise CertificateError(
                f"the certificate is signed by {self.ca_key.fingerprint}, which is no "
                f"trusted CA for {kind.name.lower()} certificates here"
            )
        self.check_signature()
        check_validity(self.valid_after, self.valid_before, now, skew)
        check_principals(self.principals, principal)
        if kind is CertificateKind.USER:
            check_user_options(self.critical_options, source)
        else:
            check_host_options(self.critical_options)

    def check_signature(self) -> None:
        """That the CA that it names has signed it; whether to trust that one, and
        whether it holds otherwise, is not asked.

        :raises CertificateError: when it has not.
        """
        if len(self.blob) <= MAX_REMEMBERED_LENGTH:
            _check_signed(self)
        else:
            self._check_signed()

    def _check_signed(self) -> None:
        signed = self.blob[: -len(string(self.signature))]
        check_signature(self.ca_key, self.signature, signed)

    def __repr__(self) -> str:
        return (
            f"<Certificate {self.kind.name.lower()} {printable(self.key_id)!r} "
            f"serial {self.serial} for {self.key.fingerprint} "
            f"by {self.ca_key.fingerprint}>"
        )


# What raises is not remembered.


@lru_cache(maxsize=MAX_REMEMBERED)
def _parsed(blob: bytes) -> Certificate:
    return Certificate._parse(blob)


@lru_cache(maxsize=MAX_REMEMBERED)
def _check_signed(certificate: Certificate) -> None:
    certificate._check_signed()


def sign_certificate(
    ca: PrivateKey,
    key: PublicKey,
    *,
    kind: CertificateKind,
    key_id: str,
    principals: Sequence[str],
    valid_after: int,
    valid_before: int,
    serial: int,
    critical_options: Iterable[tuple[str, bytes]] = (),
    extensions: Iterable[tuple[str, bytes]] = (),
) -> Certificate:
    """Sign a certificate for ``key``.

    :param ca: signs with its best algorithm.
    :param principals: at least one.
    :param valid_after: POSIX time, whole seconds.
    :param valid_before: POSIX time, or :data:`FOREVER`.
    :param serial: 0 to 2**64-1.
    :param critical_options: names and raw data; most data is itself an SSH string.
        They are put in order here.
    :param extensions: likewise.
    :raises CertificateError: when no reader would accept the result.
    """
    if not principals:
        raise CertificateError("a certificate has to name a principal")
    if not 0 <= valid_after < valid_before <= FOREVER:
        raise CertificateError("a certificate has to end after it begins")
    if not 0 <= serial < 2**64:
        raise CertificateError(f"the serial number {serial} does not fit 64 bits")
    algorithm = _TYPE_OF_KEY[key.algorithm]
    signed = b"".join(
        (
            string(algorithm),
            string(secrets.token_bytes(_NONCE_LENGTH)),
            key.blob[len(string(key.algorithm)) :],
            uint64(serial),
            uint32(kind),
            text(key_id),
            string(b"".join(map(text, principals))),
            uint64(valid_after),
            uint64(valid_before),
            string(encode_options(critical_options)),
            string(encode_options(extensions)),
            string(b""),
            string(ca.public.blob),
        )
    )
    return Certificate.from_blob(signed + string(ca.sign(signed)))


def parse_public_key(algorithm: bytes, blob: bytes) -> PublicKey | Certificate:
    """Read the public key of a login request or of a key exchange.

    :param algorithm: the public key or certificate algorithm that the peer names; it
        has to be one that we accept, and to fit the blob.
    :return: what ``verify(signature, data, algorithm)`` can then be asked of.
    :raises KeyFormatError: for a plain key that is refused.
    :raises CertificateError: for a certificate that is malformed.
    """
    parsed: PublicKey | Certificate
    if algorithm in CERTIFICATE_ALGORITHMS:
        parsed = Certificate.from_blob(blob)
    elif any(algorithm in names for names in SIGNATURE_ALGORITHMS.values()):
        parsed = PublicKey.from_blob(blob)
    else:
        raise KeyFormatError(
            f"the algorithm {printable(algorithm, 64)!r} is not accepted"
        )
    if algorithm not in parsed.signature_algorithms:
        raise KeyFormatError(
            f"a key of type {printable(parsed.algorithm, 64)!r} sent as "
            f"{printable(algorithm, 64)!r}"
        )
    return parsed


def _read_key(blob: bytes, role: str) -> PublicKey:
    try:
        if Reader(blob).string(64) in _TYPES:
            raise CertificateError(f"a certificate where {role} has to be plain")
        return PublicKey.from_blob(blob)
    except KeyFormatError as error:
        raise CertificateError(f"a certificate with {role} refused: {error}") from None


def _read_principals(data: bytes) -> tuple[str, ...]:
    reader = Reader(data)
    principals: list[str] = []
    while reader.remaining:
        if len(principals) == MAX_PRINCIPALS:
            raise CertificateError(
                f"a certificate of more than {MAX_PRINCIPALS} principals"
            )
        principal = _check_text(reader.text(), "principal")
        if not principal:
            raise CertificateError("a certificate with an empty principal")
        principals.append(principal)
    return tuple(principals)


def _check_text(value: str, what: str) -> str:
    # OpenSSH refuses it too: what follows a NUL is invisible to some readers.
    if "\0" in value:
        raise CertificateError(f"a certificate with a NUL in its {what}")
    return value
