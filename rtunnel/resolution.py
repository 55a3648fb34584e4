"""Names to addresses, once: what was resolved is what is checked and connected to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IHostResolution,
    IReactorPluggableNameResolver,
    IResolutionReceiver,
)
from zope.interface import implementer

#: What "localhost" stands for: never asked of a resolver (RFC 6761 section 6.3).
LOOPBACK: Final = ("127.0.0.1", "::1")

#: Addresses of one name that are looked at.
MAX_ADDRESSES: Final = 32


async def resolve(reactor: IReactorPluggableNameResolver, host: str) -> tuple[str, ...]:
    """The addresses of a host, in the order that the system prefers.

    :param reactor: asks its name resolver, which by default is the system's.
    :param host: a name, or an IP address, which stands for itself. Names under
        ``localhost`` are :data:`LOOPBACK`.
    :returns: IPv4 and IPv6 addresses as text, each once; none when the name does not
        resolve, at most :data:`MAX_ADDRESSES`.
    """
    known = addresses_without_lookup(host)
    if known is not None:
        return known
    receiver = Receiver()
    reactor.nameResolver.resolveHostName(receiver, host)
    return await receiver.done


def addresses_without_lookup(host: str) -> tuple[str, ...] | None:
    """What :func:`resolve` says without asking anybody; None when it has to."""
    name = host.removesuffix(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return LOOPBACK
    if isIPAddress(host) or isIPv6Address(host):
        return (host,)
    return None


@implementer(IResolutionReceiver)
class Receiver:
    """Collects what a resolver finds.

    Cancelling ``done`` only means that the answer is not waited for: a resolver that
    runs in a thread cannot be stopped.

    :param ended: called when the resolver is done, whether somebody waits or not.
    """

    def __init__(self, ended: Callable[[], None] = lambda: None) -> None:
        self.done: Deferred[tuple[str, ...]] = Deferred()
        self._ended = ended
        self._found: dict[str, None] = {}

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        """See ``IResolutionReceiver``."""

    def addressResolved(self, address: IAddress) -> None:
        """One more address."""
        if (
            isinstance(address, IPv4Address | IPv6Address)
            and len(self._found) < MAX_ADDRESSES
        ):
            self._found[address.host] = None

    def resolutionComplete(self) -> None:
        """There are no more."""
        self._ended()
        # A cancelled Deferred takes one result more and drops it.
        self.done.callback(tuple(self._found))


def interleaved(addresses: Sequence[str], rotation: int = 0) -> tuple[str, ...]:
    """The order in which to try them: families take turns (RFC 8305 section 4).

    :param addresses: as :func:`resolve` gives them; the first one's family begins.
    :param rotation: begin with this one of them instead, counted round and round, so
        that dials that follow each other do not all get the same host.
    """
    if not addresses:
        return ()
    start = rotation % len(addresses)
    turned = [*addresses[start:], *addresses[:start]]
    begins_with_ipv6 = ":" in turned[0]
    first = [a for a in turned if (":" in a) is begins_with_ipv6]
    second = [a for a in turned if (":" in a) is not begins_with_ipv6]
    ordered: list[str] = []
    while first or second:
        ordered += first[:1] + second[:1]
        first, second = first[1:], second[1:]
    return tuple(ordered)
