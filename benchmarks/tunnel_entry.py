"""A proxy with a local TCP port that leads through its tunnel, as sshd has for ``-R``.

The proxy itself has no such port: people come by SSH. To measure a tunnel alone, next
to ``ssh -R``, this runs a proxy from its config file, as ``twistd rtunnel-proxy`` does,
and beside it a port of 127.0.0.1 whose connections take the way of a client's channel:
allow rules, audit, dispatch, splice.

    python -m benchmarks.tunnel_entry proxy.toml PORT TARGET_PORT
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.python.failure import Failure

from rtunnel.config import load_proxy
from rtunnel.errors import OpenRefused
from rtunnel.naming import Target
from rtunnel.proxy.service import ProxyService
from rtunnel.tap.lean_polling import use_lean_polling
from rtunnel.tcp_stream import TcpStream
from rtunnel.trust.identity import UserIdentity

reactor: Any = global_reactor

#: Who everybody at the local port is, for the allow rules.
USER = UserIdentity(
    name="bench",
    principals=("bench",),
    key_id="bench",
    fingerprint="",
    source="127.0.0.1",
    certificate=None,
    valid_before=None,
)


class Entry(Factory):
    """Leads each connection to the one target."""

    noisy = False

    def __init__(self, proxy: ProxyService, port: int) -> None:
        self._client: Any = proxy.parts.accepted.make_handler(USER)
        self._target = Target("localhost", "b", port)

    def buildProtocol(self, addr: object) -> TcpStream:
        """A connection, which waits until the target has accepted."""
        stream = _EntryStream()
        stream.entry = self
        return stream

    async def join(self, stream: TcpStream) -> None:
        """Dial for one connection."""
        try:
            join = await self._client.reach(self._target)
        except OpenRefused:
            stream.abort()
        else:
            join(stream)


class _EntryStream(TcpStream):
    entry: Entry

    def connectionMade(self) -> None:
        super().connectionMade()
        joining = Deferred.fromCoroutine(self.entry.join(self))
        joining.addErrback(_tell)


def _tell(failure: Failure) -> None:
    failure.printTraceback(sys.stderr)


def main() -> None:
    """Run until a signal comes."""
    config, port, target_port = sys.argv[1:]
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)])
    proxy = ProxyService(load_proxy(Path(config)), reactor, now=time.time)
    entry = Entry(proxy, int(target_port))
    use_lean_polling(reactor)  # as the program does
    reactor.listenTCP(int(port), entry, backlog=4096, interface="127.0.0.1")
    proxy.started.addErrback(_tell)
    reactor.callWhenRunning(proxy.startService)
    reactor.addSystemEventTrigger("before", "shutdown", proxy.stopService)
    reactor.run()


if __name__ == "__main__":
    main()
