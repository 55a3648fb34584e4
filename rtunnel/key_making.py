"""Private keys that are made while a program runs.

An RSA key takes from 0.03 to 0.5 seconds of computing, in which nothing else may stand
still. ``cryptography`` lets other threads run meanwhile.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorThreads
from twisted.internet.threads import deferToThreadPool

from rtunnel.wire.keys import PrivateKey

#: Makes a key of one of the types of :data:`~rtunnel.wire.keys.KEY_TYPES`.
MakeKey: TypeAlias = Callable[[bytes], Awaitable[PrivateKey]]


def key_maker(reactor: IReactorThreads) -> MakeKey:
    """Make keys in a thread of the reactor's.

    :return: what does; its Deferred may be cancelled, and the key is then dropped.
    """

    def make_key(key_type: bytes) -> Deferred[PrivateKey]:
        made: Deferred[PrivateKey] = deferToThreadPool(
            reactor, reactor.getThreadPool(), PrivateKey.generate, key_type
        )
        return made

    return make_key
