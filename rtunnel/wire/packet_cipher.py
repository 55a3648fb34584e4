"""The seam between SSH packets and what protects them: seal and open one packet.

A packet cipher belongs to one direction and one set of keys. It encrypts and
authenticates together, so that an AEAD and a cipher with a MAC are the same thing to
everything above (RFC 4253 section 6; OpenSSH PROTOCOL 1.5 to 1.7).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

import attrs

from rtunnel.errors import DISCONNECT_MAC_ERROR, ProtocolError

#: A packet has at least 16 bytes (RFC 4253 section 6), length field included. Where
#: that does not count among the blocks, OpenSSH sends packets of 12, in one block of 8.
MIN_PACKET_LENGTH = 12

#: Bytes of padding at least (RFC 4253 section 6).
MIN_PADDING = 4

#: Bytes of the length field in front of every packet.
LENGTH_SIZE = 4

Buffer: TypeAlias = bytes | bytearray | memoryview

_LENGTH = struct.Struct(">I")


class PacketCipher(Protocol):
    """One direction of a connection under one set of keys.

    ``block_size`` is what the padded part of a packet has to be a multiple of.
    ``aligned_from`` is where that part begins: 0 when the length field counts, 4 when
    it does not. ``tag_length`` is the number of bytes that follow the packet.
    """

    @property
    def block_size(self) -> int: ...

    @property
    def aligned_from(self) -> int: ...

    @property
    def tag_length(self) -> int: ...

    def packet_length(self, sequence: int, field: Buffer) -> int:
        """The packet's length field, in bytes that follow it, the tag not counted.

        :param sequence: the packet's sequence number.
        :param field: the first four bytes as they came. Not authenticated yet.
        """

    def seal(
        self,
        sequence: int,
        number: int,
        payload: Buffer,
        data: Buffer,
        padding: bytes,
        out: list[bytes],
    ) -> None:
        """Append one whole packet to ``out``, in pieces that are not joined.

        :param sequence: the packet's sequence number.
        :param number: the message number.
        :param payload: the message without its number.
        :param data: more of the message, so that a caller need not join the two.
        :param padding: as many bytes as :func:`padding_length` says.
        """

    def open(self, sequence: int, packet: memoryview) -> bytes:
        """Check one whole packet and return it without length field and tag.

        :param packet: length field, body and tag.
        :return: padding length, payload and padding.
        :raises ProtocolError: when the packet is not authentic.
        """


@attrs.frozen
class CipherAlgorithm:
    """A cipher by its name in KEXINIT.

    :param key_length: bytes of key.
    :param iv_length: bytes of initial IV.
    :param needs_mac: whether a MAC is negotiated beside it.
    :param needs_strict: whether it is safe under strict KEX only.
    :param make: from key, IV, the MAC (None for an AEAD) and the MAC's key.
    """

    name: bytes
    key_length: int
    iv_length: int
    needs_mac: bool
    make: Callable[[bytes, bytes, MacAlgorithm | None, bytes], PacketCipher]
    needs_strict: bool = False


@attrs.frozen
class MacAlgorithm:
    """A MAC by its name in KEXINIT.

    :param digest: the hash as :mod:`hashlib` calls it.
    :param key_length: bytes of key, which is also the length of the tag.
    """

    name: bytes
    digest: str
    key_length: int


class ClearCipher:
    """What the first packets travel in, before the first NEWKEYS: nothing."""

    block_size = 8
    aligned_from = 0
    tag_length = 0

    def packet_length(self, sequence: int, field: Buffer) -> int:
        """See :class:`PacketCipher`."""
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
        """See :class:`PacketCipher`."""
        length = 2 + len(payload) + len(data) + len(padding)
        out.append(_LENGTH.pack(length))
        out.append(join_body(number, payload, data, padding))

    def open(self, sequence: int, packet: memoryview) -> bytes:
        """See :class:`PacketCipher`."""
        return bytes(packet[LENGTH_SIZE:])


def read_length(field: Buffer) -> int:
    """The length field when it travels in the clear."""
    length: int = _LENGTH.unpack_from(field)[0]
    return length


def padding_length(cipher: PacketCipher, payload_length: int) -> int:
    """Bytes of padding for a message, its number counted, under ``cipher``."""
    block_size = cipher.block_size
    length = LENGTH_SIZE - cipher.aligned_from + 1 + payload_length
    padding = block_size - length % block_size
    return padding if padding >= MIN_PADDING else padding + block_size


def check_packet_length(cipher: PacketCipher, length: int, limit: int) -> None:
    """Refuse a length field that no packet under ``cipher`` can have.

    :param limit: bytes allowed in ``length``.
    :raises ProtocolError: when it is too small, too large or not in whole blocks.
    """
    if not MIN_PACKET_LENGTH - cipher.aligned_from <= length <= limit:
        raise ProtocolError(f"a packet length of {length}; {limit} is the limit")
    if (length + LENGTH_SIZE - cipher.aligned_from) % cipher.block_size:
        raise ProtocolError(f"a packet length of {length}, not in whole blocks")


def join_body(number: int, payload: Buffer, data: Buffer, padding: bytes) -> bytes:
    """What gets encrypted: padding length, message number, message, padding."""
    return b"".join((bytes((len(padding), number)), payload, data, padding))


def not_authentic() -> ProtocolError:
    """The one error for a packet whose tag is wrong."""
    return ProtocolError("a packet is not authentic", DISCONNECT_MAC_ERROR)


CipherTable: TypeAlias = Mapping[bytes, CipherAlgorithm]
MacTable: TypeAlias = Mapping[bytes, MacAlgorithm]
