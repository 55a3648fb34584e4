"""chacha20-poly1305@openssh.com.

Source: OpenSSH PROTOCOL 1.7 and PROTOCOL.chacha20poly1305
(draft-ietf-sshm-chacha20-poly1305). ChaCha20 with a 64 bit nonce, the sequence number.
The length field is encrypted under a key of its own, so that it can be read before the
packet is whole; the tag covers it, and nothing else is decrypted that is not authentic.

Without strict KEX a packet can be cut out of the first ones under this cipher unnoticed
(CVE-2023-48795), so it is never used with a peer that is not strict.
"""

from __future__ import annotations

import struct

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.poly1305 import Poly1305

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

CHACHA20_POLY1305 = b"chacha20-poly1305@openssh.com"

_KEY_LENGTH = 64
_LENGTH = struct.Struct(">I")
# The state's last four words: block counter, little-endian, and nonce, big-endian.
_COUNTER_AND_NONCE = struct.Struct("<Q8s")
_NONCE = struct.Struct(">Q")
_BLOCK = bytes(64)
_POLY1305_KEY_LENGTH = 32


class ChaCha20Poly1305:
    """One direction of a connection under ChaCha20 and Poly1305.

    :param key: 64 bytes: 32 for what is in the packet, 32 for its length.
    """

    block_size = 8
    aligned_from = LENGTH_SIZE
    tag_length = 16

    def __init__(self, key: bytes) -> None:
        if len(key) != _KEY_LENGTH:
            raise ValueError(f"a key of {len(key)} bytes; it has {_KEY_LENGTH}")
        # A stream cipher is its own inverse, whichever way this direction goes.
        nonce = _initial_state(0)
        self._body = Cipher(ChaCha20(key[:32], nonce), None).encryptor()
        self._header = Cipher(ChaCha20(key[32:], nonce), None).encryptor()

    def packet_length(self, sequence: int, field: Buffer) -> int:
        """See :class:`~rtunnel.wire.packet_cipher.PacketCipher`."""
        self._header.reset_nonce(_initial_state(sequence))
        return read_length(self._header.update(field))

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
        self._header.reset_nonce(_initial_state(sequence))
        header = self._header.update(_LENGTH.pack(len(body)))
        authenticator = self._start(sequence)
        body = self._body.update(body)
        authenticator.update(header)
        authenticator.update(body)
        out.append(header)
        out.append(body)
        out.append(authenticator.finalize())

    def open(self, sequence: int, packet: memoryview) -> bytes:
        """See :class:`~rtunnel.wire.packet_cipher.PacketCipher`."""
        end = len(packet) - self.tag_length
        authenticator = self._start(sequence)
        authenticator.update(packet[:end])
        try:
            authenticator.verify(bytes(packet[end:]))
        except InvalidSignature:
            raise not_authentic() from None
        return self._body.update(packet[LENGTH_SIZE:end])

    def _start(self, sequence: int) -> Poly1305:
        """Block 0 is the tag's key; the body's stream then begins at block 1."""
        self._body.reset_nonce(_initial_state(sequence))
        return Poly1305(self._body.update(_BLOCK)[:_POLY1305_KEY_LENGTH])


def _initial_state(sequence: int) -> bytes:
    return _COUNTER_AND_NONCE.pack(0, _NONCE.pack(sequence))


def _make(
    key: bytes, iv: bytes, mac: MacAlgorithm | None, mac_key: bytes
) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(key)


#: The cipher by its name.
CHACHA20_CIPHERS: CipherTable = {
    CHACHA20_POLY1305: CipherAlgorithm(
        CHACHA20_POLY1305, _KEY_LENGTH, 0, False, _make, needs_strict=True
    )
}
