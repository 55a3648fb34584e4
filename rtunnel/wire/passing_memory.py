"""Memory that data passes through: what is around the data is free to be written over.

A packet is its data with a header in front and padding behind. Data that lies in such
memory becomes a packet's body where it is, and need not be copied for that.
"""

from __future__ import annotations

import ctypes

from rtunnel.wire.packet_cipher import Buffer

_address_of = ctypes.addressof
_first_byte = ctypes.c_char.from_buffer


class PassingMemory(bytearray):
    """Memory that holds nothing but one piece of data at a time.

    Who is given a view of it may write over what is in front of the view, and over what
    is behind it if that is put back: more of the data may follow there.
    """


def with_surroundings(data: Buffer, before: int, behind: int) -> memoryview | None:
    """Data together with so many bytes around it.

    :param data: not empty.
    :return: None when ``data`` is not in :class:`PassingMemory`, or too near its ends.
    """
    if not isinstance(data, memoryview) or not isinstance(data.obj, PassingMemory):
        return None
    memory = data.obj
    # A view does not say where in its memory it begins; its address does.
    start = _address_of(_first_byte(data)) - _address_of(_first_byte(memory)) - before
    end = start + before + len(data) + behind
    if start < 0 or end > len(memory):
        return None
    return memoryview(memory)[start:end]
