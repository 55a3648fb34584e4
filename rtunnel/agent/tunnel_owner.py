"""What a tunnel asks of the agent that owns it, and what it says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs

from rtunnel.discovery.messages import DiscoveryRequest
from rtunnel.discovery.tracker import ClaimAnswer
from rtunnel.discovery.trust_messages import TrustMessage

if TYPE_CHECKING:
    from rtunnel.agent.tunnel import Tunnel


class TunnelOwner(Protocol):
    """Who decides on tunnels and keeps the table of them."""

    def host_identified(self, tunnel: Tunnel, proxy_id: str) -> ClaimAnswer:
        """A proxy has proven its id; may the tunnel log in there?"""

    def tunnel_in_service(self, tunnel: Tunnel) -> None:
        """The proxy has taken the tunnel into service."""

    def tunnel_draining(self, tunnel: Tunnel, by_proxy: bool) -> None:
        """The tunnel serves nothing new, and is to be replaced."""

    def discovery_received(self, tunnel: Tunnel, request: DiscoveryRequest) -> None:
        """The proxy has said which proxies there are."""

    def replacement_proof(self, tunnel: Tunnel) -> str:
        """What shows the proxy that the tunnel may replace another one of ours; empty
        when it replaces none."""

    def replacement_wanted(self, tunnel: Tunnel) -> None:
        """The proxy wants the tunnel to be made anew."""

    def trust_message_received(self, tunnel: Tunnel, message: TrustMessage) -> bool:
        """The proxy says something of certificates or authorities; what to answer."""

    def tunnel_ended(self, tunnel: Tunnel, reason: str, by_us: bool) -> None:
        """The tunnel is gone, or never came to be. Called once."""


@attrs.frozen
class TunnelStatus:
    """A snapshot of one tunnel.

    :param address: that was dialled.
    :param proxy: id of the proxy; ``None`` before it is known.
    :param state: how far it is.
    :param since: POSIX time at which it was in service; ``None`` before.
    :param rtt_seconds: smoothed round trip; ``None`` before the first.
    :param channels: connections open or being opened.
    :param suspect: whether heartbeats are missing.
    """

    address: str
    proxy: str | None
    state: str
    since: float | None
    rtt_seconds: float | None
    channels: int
    suspect: bool
