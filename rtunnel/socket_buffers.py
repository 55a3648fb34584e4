"""How much the kernel may hold of a connection on which somebody does not read.

Linux lets the buffers of a socket grow with its speed, by default to 4 MiB of what goes
out and to 6 MiB or 32 MiB of what comes in, and full they stay when a reader stops. All
sockets of a machine share what ``net.ipv4.tcp_mem`` allows. A few hundred stuck
connections use that up, and then the kernel gives none more than a few packets. So data
waits where windows count it, and little of it here.

What a system does not know is left out: ``SO_BUF_LOCK`` is Linux's since 5.15.
"""

from __future__ import annotations

import contextlib
import socket
import sys

KIB = 1024
MIB = 1024 * KIB

#: Bytes that may wait in the kernel for their turn to be sent; what has been sent and
#: not acknowledged comes on top, as far as the peer takes it. With more, a channel has
#: moved so much before it is stuck that its window has grown past 512 KiB.
UNSENT = 128 * KIB

#: The same between our own programs, which always read: two of the largest writes, so
#: that none is cut and the next is there when one has gone.
UNSENT_BETWEEN_OURS = 512 * KIB

#: Bytes that a new connection's receive buffer is asked to have: one read. Linux counts
#: the same again for itself, and allows no more than ``net.core.rmem_max``.
FIRST = 256 * KIB

#: Bytes that a connection has moved when its receive buffer may grow: by then somebody
#: takes them, as there is more than the buffers and windows on the way hold.
PROVEN = 8 * MIB

#: Bytes, as Linux counts, from which on a receive buffer grows no more. In one step it
#: has grown to four times as much at most. A channel's window is 2 MiB.
ENOUGH = 1 * MIB

#: Bytes that are read between two looks at how large it is.
LOOK_EVERY = 1 * MIB

#: Linux's; Python has no name for it.
_SO_BUF_LOCK = 72
_UNLOCKED = 0
_LOCK_RECEIVE_BUFFER = 2

_NEVER = sys.maxsize


def limit_unsent(handle: socket.socket, limit: int = UNSENT) -> None:
    """Let no more than ``limit`` bytes wait in the kernel for their turn.

    Linux takes no more then, as if the send buffer were full.
    """
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if option is not None:
        # A peer that is gone already is noticed by other means.
        with contextlib.suppress(OSError):
            handle.setsockopt(socket.IPPROTO_TCP, option, limit)


class ReceiveBuffer:
    """The receive buffer of a connection that is not read while nobody takes the data.

    :param handle: its socket, connected.
    :ivar next_look: bytes that have to be read of it until :meth:`look` is to be
        called.
    """

    __slots__ = ("_handle", "_is_fixed", "next_look")

    def __init__(self, handle: socket.socket) -> None:
        self._handle = handle
        self._is_fixed = True
        self.next_look = _NEVER
        if not sys.platform.startswith("linux"):
            return
        with contextlib.suppress(OSError):
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, FIRST)
            # Older kernels hold to what the first buffer allowed without this.
            handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, 2 * FIRST)
            self.next_look = PROVEN

    def look(self, count: int) -> None:
        """Let it grow, or no longer.

        :param count: bytes that have been read.
        """
        self.next_look = _NEVER
        with contextlib.suppress(OSError):
            if self._is_fixed:
                self._lock(_UNLOCKED)
                self._is_fixed = False
            size = self._handle.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
            if size >= ENOUGH:
                self._lock(_LOCK_RECEIVE_BUFFER)
            else:
                self.next_look = count + LOOK_EVERY

    def _lock(self, what: int) -> None:
        self._handle.setsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK, what)
