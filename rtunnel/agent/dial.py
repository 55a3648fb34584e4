"""The site side of a dial: a proxy asks for ``host:port``, the agent connects, or not.

The agent's own allow list is the last word, whatever the proxy has allowed; see
:mod:`rtunnel.target_dialer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs
from twisted.logger import Logger

from rtunnel.discovery.transport_request import TransportRequest
from rtunnel.errors import (
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    MessageError,
    OpenRefused,
)
from rtunnel.naming import printable
from rtunnel.splice import Splice, SpliceReport
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.connection import Attach
from rtunnel.target_dialer import IDialingReactor, TargetDialer
from rtunnel.tcp_stream import TcpStream
from rtunnel.trust.targets import TargetPatterns


@attrs.frozen
class _Open:
    """A connection: what was asked for, and where that led."""

    joined: Splice
    host: str
    address: str
    port: int


class Site:
    """What can be reached through this agent.

    :param cluster: for sentences that people read.
    :param allow: what may be reached.
    :param pinned: names in lower case, and the IP address that each stands for.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IDialingReactor,
        cluster: str,
        allow: TargetPatterns,
        pinned: Mapping[str, str],
    ) -> None:
        self._reactor = reactor
        self._dialer = TargetDialer(
            reactor, f"the agent of cluster {cluster!r}", allow, pinned
        )
        self._open: dict[object, _Open] = {}
        #: How often the list was another by which what is open is closed.
        self._strict_changes = 0

    def change(
        self, allow: TargetPatterns, pinned: Mapping[str, str], *, close: bool = False
    ) -> None:
        """Decide by these from now on.

        :param close: whether what is open and not allowed any longer is closed; else
            it stays.
        """
        self._dialer.change(allow, pinned)
        if not close:
            return
        self._strict_changes += 1
        for each in list(self._open.values()):
            verdict = self._dialer.still_allows(each.host, each.address, each.port)
            if not verdict:
                each.joined.abort(f"not allowed any longer: {verdict.reason}")

    async def serve(
        self, data: bytes, proxy_id: str, gone: Callable[[], None]
    ) -> Attach:
        """Answer the open of a ``transport@rtunnel`` channel.

        :param data: the type-specific part of the open.
        :param proxy_id: who asks, for the log.
        :param gone: called when a channel that was opened is closed.
        :returns: joins the channel and the target, which has accepted.
        :raises OpenRefused: with the sentence that the client's ``ssh`` shows.
        """
        try:
            request = TransportRequest.decode(data)
        except MessageError as error:
            raise OpenRefused(OPEN_ADMINISTRATIVELY_PROHIBITED, str(error)) from None
        fields = {
            "connection_id": request.connection_id,
            "user": printable(request.user),
            "source": printable(request.source),
            "target": f"{request.host or 'localhost'}:{request.port}",
            "proxy": proxy_id,
        }
        try:
            stream = await self._dial(request)
        except OpenRefused as error:
            self._log.info(
                "connection {connection_id} of {user} from {source} to {target} "
                "refused: {reason}",
                reason=error.text,
                **fields,
            )
            raise

        key = object()

        def attach(channel: Channel) -> None:
            self._log.info(
                "connection {connection_id} of {user} from {source} to {target} open",
                **fields,
            )
            joined = Splice(channel, stream, self._reactor, closed)
            self._open[key] = _Open(
                joined, request.host, stream.peer_address, request.port
            )
            # It may end before this returns.
            joined.start()

        def closed(report: SpliceReport) -> None:
            del self._open[key]
            self._log.info(
                "connection {connection_id} of {user} to {target} closed after "
                "{seconds:.3f} s, {bytes_in} bytes in, {bytes_out} bytes out{why}",
                bytes_in=report.bytes_in,
                bytes_out=report.bytes_out,
                seconds=report.seconds,
                reason=report.reason,
                why=f": {report.reason}" if report.reason else "",
                **fields,
            )
            gone()

        return attach

    async def _dial(self, request: TransportRequest) -> TcpStream:
        """Connect to a target that is still allowed when it has accepted."""
        changes = self._strict_changes
        stream = await self.dial(request.host, request.port, request.user)
        if changes != self._strict_changes:
            verdict = self._dialer.still_allows(
                request.host, stream.peer_address, request.port
            )
            if not verdict:
                stream.abort()
                raise OpenRefused(
                    OPEN_ADMINISTRATIVELY_PROHIBITED,
                    f"not allowed any longer: {verdict.reason}",
                )
        return stream

    async def dial(self, host: str, port: int, person: str = "") -> TcpStream:
        """Connect to a target; see :meth:`TargetDialer.dial`."""
        return await self._dialer.dial(host, port, person)
