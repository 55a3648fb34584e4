"""Packets sealed and opened in memory that is used again.

An addition to :mod:`rtunnel.wire.packet_cipher` for the ciphers that bulk data travels
under: memory that is allocated for each packet costs more than its encryption.
"""

from __future__ import annotations

from typing import Protocol, cast

from rtunnel.wire.packet_cipher import Buffer, PacketCipher


class BulkCipher(PacketCipher, Protocol):
    """A packet cipher that also works from one buffer into another.

    Memory that is used again costs a fraction of memory that is allocated for each
    packet. The counter is the same: each packet goes one way or the other.
    """

    def seal_into(self, sequence: int, body: Buffer, out: memoryview) -> None:
        """Write one whole packet to ``out``, whose length is that of the packet.

        :param sequence: the packet's sequence number.
        :param body: padding length, message number, message, padding.
        """

    def open_into(self, sequence: int, packet: memoryview, body: memoryview) -> None:
        """Check one whole packet and write it to ``body``, whose length fits exactly.

        :param sequence: the packet's sequence number.
        :param packet: length field, body and tag.
        :raises ProtocolError: when the packet is not authentic; ``body`` is of no use.
        """


def as_bulk_cipher(cipher: PacketCipher) -> BulkCipher | None:
    """The same cipher, if it also works from one buffer into another."""
    # Asking a Protocol costs as much as a whole packet.
    return cast(BulkCipher, cipher) if hasattr(cipher, "open_into") else None
