"""aes128-gcm@openssh.com and aes256-gcm@openssh.com.

Source: RFC 5647 for the packet, OpenSSH PROTOCOL 1.6 for the names (a MAC is not
negotiated beside them). The length field is in the clear and authenticated; the nonce
is a counter of its own and does not depend on the sequence number.
"""

from __future__ import annotations

import struct
import weakref

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from rtunnel.wire.packet_cipher import (
    LENGTH_SIZE,
    Buffer,
    CipherAlgorithm,
    CipherTable,
    MacAlgorithm,
    join_body,
    not_authentic,
    read_length,
)

_NONCE_LENGTH = 12
_LENGTH = struct.Struct(">I")
_COUNTER = struct.Struct(">Q")
_COUNTER_MASK = 2**64 - 1

#: Ciphers that keep what OpenSSL makes of a key: 2.5 KB, which an idle tunnel need not
#: have twice. Making it anew costs 2 us.
MAX_AWAKE = 128


class _Awake:
    """The ciphers that were the last to be woken; each that is sends another to sleep.

    They are not kept alive for it: keys go with their connection.
    """

    def __init__(self) -> None:
        self._places: list[weakref.ref[AesGcm] | None] = [None] * MAX_AWAKE
        self._next = 0

    def add(self, cipher: AesGcm) -> None:
        """It has just been woken."""
        place, self._next = self._next, (self._next + 1) % MAX_AWAKE
        reference = self._places[place]
        other = None if reference is None else reference()
        if other is not None:
            other.sleep()
        self._places[place] = weakref.ref(cipher)


_awake = _Awake()


class AesGcm:
    """One direction of a connection under AES-GCM.

    :param key: 16 or 32 bytes.
    :param iv: 12 bytes; the last 8 count packets (RFC 5647 section 7.1).
    """

    block_size = 16
    aligned_from = LENGTH_SIZE
    tag_length = 16

    __slots__ = ("__weakref__", "_aead", "_counter", "_fixed", "_key")

    def __init__(self, key: bytes, iv: bytes) -> None:
        if len(iv) != _NONCE_LENGTH:
            raise ValueError(f"an IV of {len(iv)} bytes; GCM takes {_NONCE_LENGTH}")
        self._key = key
        self._aead: AESGCM | None = AESGCM(key)
        _awake.add(self)
        self._fixed = iv[:4]
        self._counter: int = _COUNTER.unpack(iv[4:])[0]

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
        body = join_body(number, payload, data, padding)
        header = _LENGTH.pack(len(body))
        out.append(header)
        aead = self._aead or self._wake()
        out.append(aead.encrypt(self._next_nonce(), body, header))

    def open(self, sequence: int, packet: memoryview) -> bytes:
        """See :class:`~rtunnel.wire.packet_cipher.PacketCipher`."""
        try:
            return (self._aead or self._wake()).decrypt(
                self._next_nonce(), packet[LENGTH_SIZE:], packet[:LENGTH_SIZE]
            )
        except InvalidTag:
            raise not_authentic() from None

    def seal_into(self, sequence: int, body: Buffer, out: memoryview) -> None:
        """See :class:`~rtunnel.wire.bulk_cipher.BulkCipher`."""
        _LENGTH.pack_into(out, 0, len(body))
        (self._aead or self._wake()).encrypt_into(
            self._next_nonce(), body, out[:LENGTH_SIZE], out[LENGTH_SIZE:]
        )

    def open_into(self, sequence: int, packet: memoryview, body: memoryview) -> None:
        """See :class:`~rtunnel.wire.bulk_cipher.BulkCipher`."""
        try:
            (self._aead or self._wake()).decrypt_into(
                self._next_nonce(), packet[LENGTH_SIZE:], packet[:LENGTH_SIZE], body
            )
        except InvalidTag:
            raise not_authentic() from None

    @property
    def is_awake(self) -> bool:
        """Whether OpenSSL has the key ready."""
        return self._aead is not None

    def _wake(self) -> AESGCM:
        aead = self._aead = AESGCM(self._key)
        _awake.add(self)
        return aead

    def sleep(self) -> None:
        """Do with less memory until the next packet."""
        self._aead = None

    def _next_nonce(self) -> bytes:
        nonce = self._fixed + _COUNTER.pack(self._counter)
        self._counter = (self._counter + 1) & _COUNTER_MASK
        return nonce


def _make(key: bytes, iv: bytes, mac: MacAlgorithm | None, mac_key: bytes) -> AesGcm:
    return AesGcm(key, iv)


#: The AES-GCM ciphers by name.
AES_GCM_CIPHERS: CipherTable = {
    name: CipherAlgorithm(name, key_length, _NONCE_LENGTH, False, _make)
    for name, key_length in (
        (b"aes128-gcm@openssh.com", 16),
        (b"aes256-gcm@openssh.com", 32),
    )
}
