"""The site side of a dial: a proxy asks for ``host:port``, the agent connects, or not.

The agent's own allow list is the last word, whatever the proxy has allowed. A name is
resolved once, every address that comes of it is checked, and only a checked address is
connected to: nothing is gained by a name that changes its mind in between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from twisted.internet.defer import Deferred, TimeoutError
from twisted.logger import Logger

from rtunnel.agent.happy_eyeballs import first_success
from rtunnel.agent.reactors import IAgentReactor
from rtunnel.discovery.transport_request import TransportRequest
from rtunnel.errors import (
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_CONNECT_FAILED,
    MessageError,
    OpenRefused,
)
from rtunnel.naming import printable
from rtunnel.resolution import interleaved, resolve
from rtunnel.splice import SpliceReport, splice
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.connection import Attach
from rtunnel.tcp_stream import TcpStream, connect_tcp
from rtunnel.trust.targets import TargetPatterns

#: Seconds for one dial, the name's resolution included; proxies wait a little longer.
DIAL_TIMEOUT: Final = 10.0
#: Addresses of one name that are connected to.
MAX_ATTEMPTS: Final = 8


class Site:
    """What can be reached through this agent.

    :param cluster: for sentences that people read.
    :param allow: what may be reached.
    :param pinned: names in lower case, and the IP address that each stands for.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IAgentReactor,
        cluster: str,
        allow: TargetPatterns,
        pinned: Mapping[str, str],
    ) -> None:
        self._reactor = reactor
        self._cluster = cluster
        self._allow = allow
        self._pinned = dict(pinned)

    def change(self, allow: TargetPatterns, pinned: Mapping[str, str]) -> None:
        """Decide by these from now on. What is open stays."""
        self._allow = allow
        self._pinned = dict(pinned)

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
            stream = await self.dial(request.host, request.port)
        except OpenRefused as error:
            self._log.info(
                "connection {connection_id} of {user} from {source} to {target} "
                "refused: {reason}",
                reason=error.text,
                **fields,
            )
            raise

        def attach(channel: Channel) -> None:
            self._log.info(
                "connection {connection_id} of {user} from {source} to {target} open",
                **fields,
            )
            splice(channel, stream, self._reactor, closed)

        def closed(report: SpliceReport) -> None:
            self._log.info(
                "connection {connection_id} of {user} to {target} closed after "
                "{seconds:.3f} s, {bytes_in} bytes in, {bytes_out} bytes out {reason}",
                bytes_in=report.bytes_in,
                bytes_out=report.bytes_out,
                seconds=report.seconds,
                reason=report.reason,
                **fields,
            )
            gone()

        return attach

    async def dial(self, host: str, port: int) -> TcpStream:
        """Connect to a target, if it is allowed.

        :param host: name or IP address; "" is the agent's own host.
        :param port: TCP port.
        :raises OpenRefused: not allowed (code 1), or not to be reached (code 2).
        """
        dialled = Deferred.fromCoroutine(self._dial(host, port))
        dialled.addTimeout(DIAL_TIMEOUT, self._reactor)
        try:
            return await dialled
        except TimeoutError:
            raise OpenRefused(
                OPEN_CONNECT_FAILED,
                f"connection to {_shown(host, port)} timed out after "
                f"{DIAL_TIMEOUT:g} s",
            ) from None

    async def _dial(self, host: str, port: int) -> TcpStream:
        # Before anything is resolved: the resolver may be somebody else's.
        verdict = self._allow.allows_name(host, port)
        if not verdict:
            raise self._prohibited(verdict.reason)
        permitted = await self._permitted_addresses(host, port)
        return await first_success(
            [
                partial(self._connect, host, address, port)
                for address in interleaved(permitted)[:MAX_ATTEMPTS]
            ],
            self._reactor,
        )

    async def _permitted_addresses(self, host: str, port: int) -> list[str]:
        name = (host or "localhost").lower().removesuffix(".")
        pinned = self._pinned.get(name)
        if pinned is not None:
            addresses: tuple[str, ...] = (pinned,)
        else:
            addresses = await resolve(self._reactor, name)
        if not addresses:
            raise OpenRefused(
                OPEN_CONNECT_FAILED,
                f"the agent of cluster {self._cluster!r} cannot resolve {name!r}",
            )
        verdicts = {
            address: self._allow.allows_address(
                host, address, port, pinned=pinned is not None
            )
            for address in addresses
        }
        permitted = [address for address in addresses if verdicts[address]]
        if not permitted:
            raise self._prohibited(verdicts[addresses[0]].reason)
        return permitted

    def _connect(self, host: str, address: str, port: int) -> Deferred[TcpStream]:
        return Deferred.fromCoroutine(
            connect_tcp(
                self._reactor, address, port, DIAL_TIMEOUT, name=host or "localhost"
            )
        )

    def _prohibited(self, reason: str) -> OpenRefused:
        return OpenRefused(
            OPEN_ADMINISTRATIVELY_PROHIBITED,
            f"the agent of cluster {self._cluster!r} refuses: {reason}",
        )


def _shown(host: str, port: int) -> str:
    name = host or "localhost"
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
