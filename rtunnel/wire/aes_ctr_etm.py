"""aes128-ctr and aes256-ctr with a MAC over what was encrypted.

Source: RFC 4344 section 4 for the cipher; OpenSSH PROTOCOL 1.5 for
hmac-sha2-256-etm@openssh.com and hmac-sha2-512-etm@openssh.com: the length field is
in the clear, and the MAC covers sequence number, length field and ciphertext, so that
nothing is decrypted that is not authentic.
"""

from __future__ import annotations

import struct

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.constant_time import bytes_eq
from cryptography.hazmat.primitives.hashes import SHA256, SHA512
from cryptography.hazmat.primitives.hmac import HMAC

from rtunnel.wire.packet_cipher import (
    LENGTH_SIZE,
    Buffer,
    CipherAlgorithm,
    CipherTable,
    MacAlgorithm,
    MacTable,
    join_body,
    not_authentic,
    read_length,
)

_IV_LENGTH = 16
_LENGTH = struct.Struct(">I")
_SEQUENCE_AND_LENGTH = struct.Struct(">II")
_HASHES = {"sha256": SHA256, "sha512": SHA512}


class AesCtrEtm:
    """One direction of a connection under AES-CTR and HMAC, encrypt then MAC.

    :param key: 16 or 32 bytes.
    :param iv: 16 bytes, the first counter block.
    :param mac: which HMAC.
    :param mac_key: ``mac.key_length`` bytes.
    """

    block_size = 16
    aligned_from = LENGTH_SIZE

    def __init__(self, key: bytes, iv: bytes, mac: MacAlgorithm, mac_key: bytes):
        # CTR is its own inverse: one context serves whichever way this direction goes.
        self._stream = Cipher(AES(key), CTR(iv)).encryptor()
        # Copied for every packet, which saves hashing the key each time.
        self._keyed = HMAC(mac_key, _HASHES[mac.digest]())
        self._tag_length = mac.key_length

    @property
    def tag_length(self) -> int:
        """See :class:`~rtunnel.wire.packet_cipher.PacketCipher`."""
        return self._tag_length

    def packet_length(self, sequence: int, field: Buffer) -> int:
        """See :class:`~rtunnel.wire.packet_cipher.PacketCipher`."""
        return read_length(field)

    def seal(
        self,
        sequence: int,
        number: int,
        payload: Buffer,
        data: Buffer,
        padding: bytes,
        out: list[bytes],
    ) -> None:
        """See :class:`~rtunnel.wire.packet_cipher.PacketCipher`."""
        body = self._stream.update(join_body(number, payload, data, padding))
        tag = self._keyed.copy()
        tag.update(_SEQUENCE_AND_LENGTH.pack(sequence, len(body)))
        tag.update(body)
        out.append(_LENGTH.pack(len(body)))
        out.append(body)
        out.append(tag.finalize())

    def open(self, sequence: int, packet: memoryview) -> bytes:
        """See :class:`~rtunnel.wire.packet_cipher.PacketCipher`."""
        return self._stream.update(self._checked(sequence, packet))

    def seal_into(self, sequence: int, body: Buffer, out: memoryview) -> None:
        """See :class:`~rtunnel.wire.bulk_cipher.BulkCipher`."""
        end = LENGTH_SIZE + len(body)
        _LENGTH.pack_into(out, 0, len(body))
        self._stream.update_into(body, out[LENGTH_SIZE:end])
        tag = self._keyed.copy()
        tag.update(_LENGTH.pack(sequence))
        tag.update(out[:end])
        out[end:] = tag.finalize()

    def open_into(self, sequence: int, packet: memoryview, body: memoryview) -> None:
        """See :class:`~rtunnel.wire.bulk_cipher.BulkCipher`."""
        self._stream.update_into(self._checked(sequence, packet), body)

    def _checked(self, sequence: int, packet: memoryview) -> memoryview:
        """The encrypted body of a packet that is authentic."""
        end = len(packet) - self._tag_length
        tag = self._keyed.copy()
        tag.update(_LENGTH.pack(sequence))
        tag.update(packet[:end])
        if not bytes_eq(tag.finalize(), bytes(packet[end:])):
            raise not_authentic()
        return packet[LENGTH_SIZE:end]


def _make(key: bytes, iv: bytes, mac: MacAlgorithm | None, mac_key: bytes) -> AesCtrEtm:
    if mac is None:
        raise ValueError("AES-CTR needs a MAC beside it")
    return AesCtrEtm(key, iv, mac, mac_key)


#: The AES-CTR ciphers by name.
AES_CTR_CIPHERS: CipherTable = {
    name: CipherAlgorithm(name, key_length, _IV_LENGTH, True, _make)
    for name, key_length in ((b"aes128-ctr", 16), (b"aes256-ctr", 32))
}

#: The MACs that go beside them, by name.
ETM_MACS: MacTable = {
    name: MacAlgorithm(name, digest, key_length)
    for name, digest, key_length in (
        (b"hmac-sha2-256-etm@openssh.com", "sha256", 32),
        (b"hmac-sha2-512-etm@openssh.com", "sha512", 64),
    )
}
