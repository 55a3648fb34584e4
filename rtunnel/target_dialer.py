"""Connecting to a target, if an allow list has it: for agents, and the local site.

A name is resolved once, every address that comes of it is checked, and only a checked
address is connected to: nothing is gained by a name that changes its mind in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import (
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
)

from rtunnel.errors import (
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_CONNECT_FAILED,
    OpenRefused,
)
from rtunnel.happy_eyeballs import first_success
from rtunnel.lookups import Lookups
from rtunnel.resolution import interleaved
from rtunnel.tcp_stream import TcpStream, connect_tcp
from rtunnel.trust.targets import TargetPatterns, Verdict

#: Seconds for one dial, the name's resolution included; proxies wait a little longer.
DIAL_TIMEOUT: Final = 10.0
#: Addresses of one name that are connected to.
MAX_ATTEMPTS: Final = 8


class IDialingReactor(IReactorTCP, IReactorTime, IReactorPluggableNameResolver):
    """Connects, keeps time, and resolves names."""


class TargetDialer:
    """Connects to what is allowed, and to nothing else.

    :param who: begins the sentence of a refusal.
    :param allow: what may be connected to.
    :param pinned: names in lower case, and the IP address that each stands for.
    """

    def __init__(
        self,
        reactor: IDialingReactor,
        who: str,
        allow: TargetPatterns,
        pinned: Mapping[str, str],
    ) -> None:
        self._reactor = reactor
        self._who = who
        self._allow = allow
        self._pinned = dict(pinned)
        self._lookups = Lookups(reactor)

    def change(self, allow: TargetPatterns, pinned: Mapping[str, str]) -> None:
        """Decide by these from now on. What is open stays."""
        self._allow = allow
        self._pinned = dict(pinned)

    def still_allows(self, host: str, address: str, port: int) -> Verdict:
        """Whether a connection that is open would be allowed now.

        :param host: as it was asked for.
        :param address: the IP address that it is connected to.
        :param port: TCP port.
        """
        pinned = self._pinned.get((host or "localhost").lower().removesuffix("."))
        verdict = self._allow.allows_name(host, port)
        if not verdict:
            return verdict
        return self._allow.allows_address(host, address, port, pinned == address)

    async def dial(self, host: str, port: int, person: str = "") -> TcpStream:
        """Connect to a target, if it is allowed.

        :param host: name or IP address; "" is the agent's own host.
        :param port: TCP port.
        :param person: who asks for it, and takes turns with others.
        :raises OpenRefused: not allowed (code 1), or not to be reached (code 2).
        """
        dialled = Deferred.fromCoroutine(self._dial(host, port, person))
        dialled.addTimeout(DIAL_TIMEOUT, self._reactor)
        try:
            return await dialled
        except TimeoutError:
            raise OpenRefused(
                OPEN_CONNECT_FAILED,
                f"connection to {_shown(host, port)} timed out after "
                f"{DIAL_TIMEOUT:g} s",
            ) from None

    async def _dial(self, host: str, port: int, person: str) -> TcpStream:
        # Before anything is resolved: the resolver may be somebody else's.
        verdict = self._allow.allows_name(host, port)
        if not verdict:
            raise self._prohibited(verdict.reason)
        permitted = await self._permitted_addresses(host, port, person)
        return await first_success(
            [
                partial(self._connect, host, address, port)
                for address in interleaved(permitted)[:MAX_ATTEMPTS]
            ],
            self._reactor,
        )

    async def _permitted_addresses(
        self, host: str, port: int, person: str
    ) -> list[str]:
        name = (host or "localhost").lower().removesuffix(".")
        pinned = self._pinned.get(name)
        if pinned is not None:
            addresses: tuple[str, ...] = (pinned,)
        else:
            addresses = await self._lookups.resolve(name, person)
        if not addresses:
            raise OpenRefused(
                OPEN_CONNECT_FAILED,
                f"{self._who} cannot resolve {name!r}",
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
        return connect_tcp(
            self._reactor, address, port, DIAL_TIMEOUT, name=host or "localhost"
        )

    def _prohibited(self, reason: str) -> OpenRefused:
        return OpenRefused(
            OPEN_ADMINISTRATIVELY_PROHIBITED,
            f"{self._who} refuses: {reason}",
        )


def _shown(host: str, port: int) -> str:
    name = host or "localhost"
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
