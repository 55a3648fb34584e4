"""The proxy's own side: targets of its own cluster, dialled directly.

Only what ``[local] allow`` lists can be reached, and the address that is checked is the
one that is connected to: the name is resolved once.
"""

from __future__ import annotations

from typing import Any

from rtunnel.errors import OPEN_CONNECT_FAILED, OpenRefused
from rtunnel.naming import Target
from rtunnel.proxy import refusals
from rtunnel.resolution import resolve
from rtunnel.tcp_stream import TcpStream, connect_tcp
from rtunnel.trust.targets import TargetPatterns

#: Seconds for one TCP connection to a local target.
CONNECT_TIMEOUT = 10.0


class LocalSite:
    """Dials targets of the proxy's own cluster.

    :param allow: what may be dialled; empty means nothing.
    :param reactor: resolves names and connects.
    """

    def __init__(self, allow: TargetPatterns, reactor: Any) -> None:
        self._allow = allow
        self._reactor = reactor

    async def dial(self, target: Target) -> TcpStream:
        """Connect to a target.

        :raises OpenRefused: when it is not listed, or cannot be connected to.
        """
        if not self._allow.allows_name(target.host, target.port):
            raise refusals.local_not_listed(target)
        addresses = await resolve(self._reactor, target.host or "localhost")
        permitted = [
            address
            for address in addresses
            if self._allow.allows_address(target.host, address, target.port)
        ]
        if addresses and not permitted:
            raise refusals.local_not_listed(target)
        failure = OpenRefused(
            OPEN_CONNECT_FAILED, f"{target.host!r} has no address here"
        )
        for address in permitted:
            try:
                return await connect_tcp(
                    self._reactor, address, target.port, CONNECT_TIMEOUT
                )
            except OpenRefused as error:
                failure = error
        raise failure
