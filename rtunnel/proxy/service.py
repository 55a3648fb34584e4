"""The proxy as a Twisted service: what starts, in which order, and how it leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

from twisted.application.service import Service
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.task import deferLater
from twisted.logger import Logger

from rtunnel.audit.events import PolicyReloaded, ProxyStarted, ProxyStopping
from rtunnel.config import ProxyConfig, load_proxy
from rtunnel.counting import counted
from rtunnel.errors import ConfigError, KeyFileError
from rtunnel.proxy.assembly import ProxyParts
from rtunnel.proxy.listeners import Listeners
from rtunnel.proxy.peer_addresses import unreachable
from rtunnel.proxy.revoking import Revoking
from rtunnel.proxy.rotation import Rotation
from rtunnel.proxy.tokens import Tokens
from rtunnel.trust.policy import Policy

#: Seconds that closed connections have to flush what was written before.
FLUSH_TIMEOUT = 3.0


class ProxyService(Service):
    """One proxy.

    :param config: checked values of its config file.
    :param reactor: listens, resolves, connects, and is the clock.
    :param now: wall clock, seconds since the epoch.
    :param new_id: makes connection ids.
    :raises RtunnelError: when keys or certificates cannot be used.
    :ivar started: fires when every listener is open; fails when one cannot be, or the
        registry refuses.
    """

    _log = Logger()

    def __init__(
        self,
        config: ProxyConfig,
        reactor: Any,
        now: Callable[[], float],
        new_id: Callable[[], str] = lambda: uuid4().hex,
    ) -> None:
        self._config = config
        self._reactor = reactor
        self.started: Deferred[None] = Deferred()
        self._ready = False
        self._leaving = False
        self._listeners = Listeners(config, reactor)
        self._starting: Deferred[None] | None = None
        self.parts = ProxyParts(config, reactor, now, new_id)

    @property
    def tokens(self) -> Tokens:
        """The join tokens."""
        return self.parts.tokens

    @property
    def rotation(self) -> Rotation:
        """The state of the authorities, and steps of their rotation."""
        return self.parts.trust.rotation

    @property
    def revoking(self) -> Revoking:
        """What changes the operators' revocations."""
        return self.parts.revoking

    def startService(self) -> None:
        """Begin to start; :attr:`started` tells how it went."""
        super().startService()
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.chainDeferred(self.started)

    async def _start(self) -> None:
        parts = self.parts
        await parts.registry.start()
        await parts.membership.start()
        await parts.known.start()
        await parts.revocations.start()
        parts.audit.start()
        parts.publication.start()
        await self._listeners.open(parts.factory, parts.peer_factory)
        await self._publish_peer_addresses()
        await parts.trust.start()
        self._ready = True
        parts.audit.record(ProxyStarted(proxy=parts.membership.record.id))
        self._log.info(
            "proxy {name} ({id}) of cluster {cluster} is ready on {listen}",
            name=self._config.name,
            id=parts.membership.record.id,
            cluster=self._config.cluster,
            listen=", ".join(self._listeners.addresses),
        )

    async def _publish_peer_addresses(self) -> None:
        addresses = self._listeners.peer_addresses()
        problem = unreachable(self._config, addresses)
        if problem is not None:
            self._log.warn(
                "{path}: other proxies cannot pass connections on to this one: "
                "{problem}",
                path=str(self._config.path),
                problem=problem,
            )
        await self.parts.membership.set_peer_addresses(addresses)

    def not_ready(self) -> str | None:
        """Why a balancer should send nobody here; None when it should."""
        if self._leaving:
            return "draining"
        return self.parts.audit.problem if self._ready else "starting"

    def status(self) -> dict[str, Any]:
        """The status document (docs/operations.md), with where this proxy listens."""
        parts = self.parts
        document = parts.accepted.status()
        document["proxy"]["listen"] = self._listeners.addresses
        document["proxy"]["certificate"] = parts.trust.certificate_status()
        document["registry"] = {"problem": parts.membership.problem}
        document["revocation"] = parts.revocations.status()
        document["audit"] = parts.audit.status()
        return document

    def reload(self) -> None:
        """Read what may change, and reopen the audit file (SIGHUP).

        That is the ``[[allow]]`` rules, this proxy's certificate, the authorities, and
        the key revocation lists. With ``close_on_change`` what these allow no longer is
        closed, and who is logged in by a line of ``authorized_keys`` that is gone.
        A config file with errors changes nothing; each error is logged. So it is with
        keys and certificates.
        """
        parts = self.parts
        parts.audit.reopen()
        self._reload_credentials()
        parts.revocations.check_files()
        try:
            config = load_proxy(self._config.path)
        except ConfigError as error:
            for problem in error.problems:
                self._log.error("not reloaded: {problem}", problem=problem)
            parts.audit.record(
                PolicyReloaded(
                    proxy=parts.membership.record.id,
                    outcome="failed",
                    reason=error.problems[0],
                )
            )
            return
        parts.policy = Policy(config.allow)
        parts.audit.record(PolicyReloaded(proxy=parts.membership.record.id))
        parts.logins.close_on_change = config.close_on_change
        parts.logins.reloaded()
        self._log.info(
            "reloaded {rules} from {path}; other keys need a restart",
            count=len(config.allow),
            rules=counted(len(config.allow), "[[allow]] rule"),
            path=str(self._config.path),
        )

    def _reload_credentials(self) -> None:
        try:
            changed = self.parts.credentials.reload()
        except (ConfigError, KeyFileError) as error:
            self._log.error("not reloaded: {problem}", problem=str(error))
            return
        if changed:
            self._log.info(
                "certificate and authorities were read again; open connections stay"
            )

    def stopService(self) -> Deferred[None]:
        """Drain and stop: see "Signals" in docs/operations.md.

        :return: fires when everything is closed.
        """
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        parts = self.parts
        if self.not_ready() == "starting":
            # Still starting, or never started: nothing is open to be drained.
            if self._starting is not None:
                self._starting.cancel()
            await self._listeners.close()
            await parts.membership.leave()
            await parts.registry.close()
            parts.audit.stop()
            return
        drain = self._config.drain
        self._ready = False
        self._leaving = True
        parts.audit.record(ProxyStopping(proxy=parts.membership.record.id))
        # Until balancers have asked again, they send people here.
        grace = min(drain.grace, drain.timeout)
        if grace:
            await deferLater(self._reactor, grace)
        parts.accepted.refuse_new()
        await parts.membership.set_state("draining")
        await self._listeners.close()
        await self._drained(drain.timeout - grace)
        parts.peers.close_all()
        closing = parts.accepted.close_all()
        closing.addTimeout(FLUSH_TIMEOUT, self._reactor, onTimeoutCancel=_ignore)
        await closing
        parts.publication.stop()
        parts.logins.stop()
        parts.trust.stop()
        parts.known.stop()
        parts.revocations.stop()
        await parts.membership.leave()
        await parts.registry.close()
        parts.audit.stop()
        self._log.info("proxy {name} has stopped", name=self._config.name)

    async def _drained(self, timeout: float) -> None:
        parts = self.parts
        idle = parts.accepted.drain(timeout)
        if not idle.called:
            self._log.info(
                "waiting for open connections ({count}), at most {timeout:g} s",
                count=parts.accepted.open_connections,
                timeout=timeout,
            )
        idle.addTimeout(timeout, self._reactor)
        try:
            await idle
        except TimeoutError:
            self._log.warn(
                "cutting {connections} still open after {timeout:g} s",
                count=parts.accepted.open_connections,
                connections=counted(parts.accepted.open_connections, "connection"),
                timeout=timeout,
            )


def _ignore(result: object, timeout: float) -> None:
    """What did not go by itself is cut when the process ends."""
