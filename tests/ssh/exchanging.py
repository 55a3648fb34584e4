"""Pairs of transports that exchange keys, and what they have seen of it."""

from __future__ import annotations

from twisted.internet.task import Clock

from rtunnel.ssh.limits import DEFAULT_LIMITS, TransportLimits
from rtunnel.ssh.transport import ServerTransport
from tests.ssh.transports import Pair, RecordingService, make_client, make_server


def logged_in(limits: TransportLimits = DEFAULT_LIMITS) -> Pair:
    """A pair with these limits at both ends, logged in."""
    clock = Clock()
    return Pair(
        make_server(clock, limits=limits), make_client(clock, limits=limits), clock
    ).log_in()


def completed(pair: Pair) -> tuple[int, int]:
    """Key exchanges that each end has seen the end of."""
    return (
        pair.server_transport.exchanges.completed,
        pair.client_transport.exchanges.completed,
    )


def running(server: ServerTransport) -> RecordingService:
    """The service that a server runs."""
    assert isinstance(server.service, RecordingService)
    return server.service
