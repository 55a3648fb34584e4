"""OpenSSH's key revocation lists, read: which keys and certificates are good no longer.

Source: OpenSSH's PROTOCOL.krl, and what OpenSSH makes of it where that says nothing. A
list is all or nothing: what cannot be read as a whole is refused as a whole, because a
section that is passed over may be the one that names the stolen key. Pure.
"""

from __future__ import annotations

import enum
import hashlib
import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Final

import attrs

from rtunnel.errors import ProtocolError, RevocationListError
from rtunnel.naming import printable
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.data_types import Reader

#: Bytes in a list: a hundred thousand keys, or half a million serial numbers.
MAX_KRL_LENGTH: Final = 4 * 1024 * 1024

#: Bytes in one bitmap of serial numbers; OpenSSH's own limit (2**24 bits).
MAX_BITMAP_LENGTH: Final = 2 * 1024 * 1024

_MAGIC = b"SSHKRL\n\0"
_FORMAT_VERSION = 1

_SHA1_LENGTH = 20
_SHA256_LENGTH = 32
_MAX_SERIAL = 2**64 - 1


class _Section(enum.IntEnum):
    """Sections of a list."""

    CERTIFICATES = 1
    EXPLICIT_KEY = 2
    FINGERPRINT_SHA1 = 3
    SIGNATURE = 4
    FINGERPRINT_SHA256 = 5
    EXTENSION = 255


class _CertificateSection(enum.IntEnum):
    """Sections of a section about certificates."""

    SERIAL_LIST = 0x20
    SERIAL_RANGE = 0x21
    SERIAL_BITMAP = 0x22
    KEY_ID = 0x23
    EXTENSION = 0x39


@attrs.frozen
class SerialBitmap:
    """Serial numbers from ``offset`` on, one bit each; the last byte has the first."""

    offset: int
    bits: bytes = attrs.field(repr=False)

    def __contains__(self, serial: int) -> bool:
        byte, bit = divmod(serial - self.offset, 8)
        if not 0 <= byte < len(self.bits):
            return False
        return bool(self.bits[-1 - byte] >> bit & 1)


@attrs.frozen
class SerialRanges:
    """Serial numbers as ranges that lie apart. Made by :meth:`of`.

    :param lows: where each begins, in order.
    :param highs: where each ends, itself a serial number of it.
    """

    lows: tuple[int, ...] = attrs.field(repr=False)
    highs: tuple[int, ...] = attrs.field(repr=False)

    @classmethod
    def of(cls, ranges: Iterable[tuple[int, int]]) -> SerialRanges:
        """From ranges in any order, which may overlap; both ends belong to them."""
        lows: list[int] = []
        highs: list[int] = []
        for low, high in sorted(ranges):
            if highs and low <= highs[-1] + 1:
                highs[-1] = max(highs[-1], high)
            else:
                lows.append(low)
                highs.append(high)
        return cls(tuple(lows), tuple(highs))

    def __contains__(self, serial: int) -> bool:
        index = bisect_right(self.lows, serial) - 1
        return index >= 0 and serial <= self.highs[index]


@attrs.frozen
class RevokedCertificates:
    """What one section says about the certificates of one authority.

    :param ca_blob: that authority's key; None for all of them.
    :param serials: ranges and bitmaps of serial numbers.
    :param key_ids: key ids.
    """

    ca_blob: bytes | None
    serials: tuple[SerialRanges | SerialBitmap, ...] = ()
    key_ids: frozenset[bytes] = frozenset()

    def reason(self, certificate: Certificate) -> str | None:
        """Why ``certificate`` is revoked by this section; None when it is not."""
        if self.ca_blob is not None and self.ca_blob != certificate.ca_key.blob:
            return None
        if certificate.key_id and certificate.key_id.encode() in self.key_ids:
            return f"key id {printable(certificate.key_id)!r}"
        # As for OpenSSH: zero is what a signer without serial numbers writes.
        serial = certificate.serial
        if serial and any(serial in serials for serials in self.serials):
            return f"serial {serial}"
        return None


@attrs.frozen
class KeyRevocationList:
    """One list. Made by :meth:`from_bytes`.

    :param version: the issuer's number, which grows from one list to the next.
    :param generated: POSIX time.
    :param comment: the issuer's.
    :param certificates: what is said about certificates.
    :param keys: SHA-256 of keys that are listed, or the hash that is listed.
    :param sha1_keys: keys of which only the SHA-1 is listed.
    """

    version: int
    generated: int
    comment: str
    certificates: tuple[RevokedCertificates, ...] = attrs.field(repr=False)
    keys: frozenset[bytes] = attrs.field(repr=False)
    sha1_keys: frozenset[bytes] = attrs.field(repr=False)

    @classmethod
    def from_bytes(cls, data: bytes) -> KeyRevocationList:
        """Read a list.

        Signatures are passed over, as OpenSSH does: whoever may write the file is
        trusted with it.

        :param data: the file, at most :data:`MAX_KRL_LENGTH` bytes.
        :raises RevocationListError: malformed; of another format version; with a
            section or a critical extension that we do not know.
        """
        if len(data) > MAX_KRL_LENGTH:
            raise RevocationListError(
                f"a key revocation list of {len(data)} bytes; {MAX_KRL_LENGTH} is the "
                "limit"
            )
        if not data.startswith(_MAGIC):
            raise RevocationListError(
                "not an OpenSSH key revocation list; ssh-keygen -k makes them"
            )
        try:
            return cls._parse(Reader(data, len(_MAGIC)))
        except ProtocolError as error:
            raise RevocationListError(
                f"a malformed key revocation list: {error}"
            ) from None

    @classmethod
    def _parse(cls, reader: Reader) -> KeyRevocationList:
        format_version = reader.uint32()
        if format_version != _FORMAT_VERSION:
            raise RevocationListError(
                f"a key revocation list of format version {format_version}; only "
                f"{_FORMAT_VERSION} is known"
            )
        version = reader.uint64()
        generated = reader.uint64()
        # Flags, of which none is defined, and a field for the future.
        reader.uint64()
        reader.string()
        comment = _c_string(reader).decode("utf-8", "backslashreplace")
        certificates: list[RevokedCertificates] = []
        keys: set[bytes] = set()
        sha1_keys: set[bytes] = set()
        while reader.remaining:
            kind = reader.byte()
            section = Reader(reader.string())
            match kind:
                case _Section.CERTIFICATES:
                    certificates.append(_read_certificates(section))
                case _Section.EXPLICIT_KEY:
                    keys.update(hashlib.sha256(key).digest() for key in _blobs(section))
                case _Section.FINGERPRINT_SHA1:
                    sha1_keys.update(_blobs(section, _SHA1_LENGTH))
                case _Section.FINGERPRINT_SHA256:
                    keys.update(_blobs(section, _SHA256_LENGTH))
                case _Section.SIGNATURE:
                    # The section is the key that signed, its signature follows.
                    reader.string()
                    continue
                case _Section.EXTENSION:
                    _read_extension(section)
                case _:
                    raise RevocationListError(
                        f"a key revocation list with a section of type {kind}, which "
                        "is not known"
                    )
            section.end()
        return cls(
            version,
            generated,
            comment,
            tuple(certificates),
            frozenset(keys),
            frozenset(sha1_keys),
        )

    def key_is_revoked(self, blob: bytes) -> bool:
        """Whether a plain key is on the list.

        :param blob: as SSH sends it, no certificate.
        """
        return (
            hashlib.sha256(blob).digest() in self.keys
            or hashlib.sha1(blob, usedforsecurity=False).digest() in self.sha1_keys
        )

    def certificate_reason(self, certificate: Certificate) -> str | None:
        """Why a certificate is revoked; None when it is not.

        One whose key, or whose authority's key, is on the list is revoked as well.
        """
        if self.key_is_revoked(certificate.key.blob):
            return f"key {certificate.key.fingerprint}"
        if self.key_is_revoked(certificate.ca_key.blob):
            return f"the authority's key {certificate.ca_key.fingerprint}"
        for section in self.certificates:
            reason = section.reason(certificate)
            if reason is not None:
                return reason
        return None


def _read_certificates(reader: Reader) -> RevokedCertificates:
    ca_blob = reader.string()
    reader.string()
    ranges: list[tuple[int, int]] = []
    bitmaps: list[SerialBitmap] = []
    key_ids: set[bytes] = set()
    while reader.remaining:
        kind = reader.byte()
        section = Reader(reader.string())
        match kind:
            case _CertificateSection.SERIAL_LIST:
                ranges += ((serial, serial) for serial in _read_serials(section))
            case _CertificateSection.SERIAL_RANGE:
                ranges.append(_read_range(section))
            case _CertificateSection.SERIAL_BITMAP:
                bitmaps.append(_read_bitmap(section))
            case _CertificateSection.KEY_ID:
                while section.remaining:
                    key_ids.add(_c_string(section))
            case _CertificateSection.EXTENSION:
                _read_extension(section)
            case _:
                raise RevocationListError(
                    "a key revocation list with a section of certificates of type "
                    f"{kind:#x}, which is not known"
                )
        section.end()
    return RevokedCertificates(
        ca_blob or None,
        (*([SerialRanges.of(ranges)] if ranges else []), *bitmaps),
        frozenset(key_ids),
    )


def _read_serials(reader: Reader) -> Iterator[int]:
    data = reader.rest()
    if len(data) % 8:
        raise RevocationListError("a key revocation list with half a serial number")
    for (serial,) in struct.iter_unpack(">Q", data):
        yield _check_serial(serial)


def _read_range(reader: Reader) -> tuple[int, int]:
    low = _check_serial(reader.uint64())
    high = reader.uint64()
    if high < low:
        raise RevocationListError(
            f"a key revocation list with serials from {low} down to {high}"
        )
    return low, high


def _read_bitmap(reader: Reader) -> SerialBitmap:
    offset = reader.uint64()
    # An mpint, but one that need not begin with a zero (OpenSSH's bitmap.c).
    bits = reader.string(MAX_BITMAP_LENGTH).lstrip(b"\0")
    bitmap = SerialBitmap(offset, bits)
    highest = offset + 8 * (len(bits) - 1) + bits[0].bit_length() - 1 if bits else 0
    if highest > _MAX_SERIAL:
        raise RevocationListError(
            "a key revocation list with serial numbers of more than 64 bits"
        )
    if 0 in bitmap:
        _check_serial(0)
    return bitmap


def _check_serial(serial: int) -> int:
    if serial == 0:
        raise RevocationListError(
            "a key revocation list with serial number 0, which no certificate is "
            "revoked by"
        )
    return serial


def _read_extension(reader: Reader) -> None:
    name = _c_string(reader)
    critical = reader.boolean()
    reader.string()
    if critical:
        raise RevocationListError(
            f"a key revocation list with the critical extension "
            f"{printable(name, 64)!r}, which is not known"
        )


def _blobs(reader: Reader, length: int | None = None) -> Iterator[bytes]:
    while reader.remaining:
        blob = reader.string()
        if length is not None and len(blob) != length:
            raise RevocationListError(
                f"a key revocation list with a hash of {len(blob)} bytes instead of "
                f"{length}"
            )
        yield blob


def _c_string(reader: Reader) -> bytes:
    value = reader.string()
    if b"\0" in value:
        raise RevocationListError("a key revocation list with a NUL in a text")
    return value
