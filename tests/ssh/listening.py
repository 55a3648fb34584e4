"""Our server on a socket of its own."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet import reactor as global_reactor
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.trial.unittest import TestCase

from rtunnel.ssh.factory import ServerFactory
from rtunnel.ssh.transport import ServerTransport
from tests.interop.processes import LOOPBACK

# The module is typed as the module it replaces.
reactor: Any = global_reactor


async def listen(
    test: TestCase, factory: ServerFactory, accepted: list[ServerTransport]
) -> int:
    """Listen on the loopback address until the test ends; the port.

    :param accepted: gets our end of each connection.
    """
    build = factory.buildProtocol

    def keep(addr: Any) -> ServerTransport:
        transport = build(addr)
        assert transport is not None
        accepted.append(transport)
        return transport

    factory.buildProtocol = keep  # type: ignore[method-assign]
    endpoint = TCP4ServerEndpoint(reactor, 0, interface=LOOPBACK)
    port = await endpoint.listen(factory)
    test.addCleanup(port.stopListening)
    return cast(int, cast(Any, port.getHost()).port)
