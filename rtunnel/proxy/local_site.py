"""The proxy's own side: targets of its own cluster, dialled directly.

Only what ``[local] allow`` lists can be reached; see :mod:`rtunnel.target_dialer`.
"""

from __future__ import annotations

from rtunnel.naming import Target
from rtunnel.target_dialer import IDialingReactor, TargetDialer
from rtunnel.tcp_stream import TcpStream
from rtunnel.trust.targets import TargetPatterns


class LocalSite:
    """Dials targets of the proxy's own cluster.

    :param allow: what may be dialled; empty means nothing.
    """

    def __init__(self, reactor: IDialingReactor, allow: TargetPatterns) -> None:
        self._dialer = TargetDialer(
            reactor, "this proxy's [local] allow list", allow, {}
        )

    async def dial(self, target: Target, person: str) -> TcpStream:
        """Connect to a target.

        :param person: who asks for it, and takes turns with others.
        :raises OpenRefused: when it is not listed, or cannot be connected to.
        """
        return await self._dialer.dial(target.host, target.port, person)
