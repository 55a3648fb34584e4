"""Tunnels to proxies that would not be believed any longer.

A proxy shows its host certificate when a tunnel is made, and the tunnel may stay for
months. So it is looked at again: a tunnel is made anew before the certificate that it
stands on ends, or when the authority of that is trusted no longer; and let go when
nothing has come of it. When that is revoked it is closed at once: who is at the other
end may be a thief.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rtunnel.timestamps import rfc3339
from rtunnel.trust.renewal import lifetime
from rtunnel.trust.revocation import Revocations
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.keys import PublicKey

#: Seconds from one look to the next.
LOOK_INTERVAL: Final = 5.0
#: The part of a certificate's life that is left when a tunnel is made anew. Proxies
#: renew when a third is left.
AHEAD: Final = 0.1
#: Seconds to make a tunnel anew, once the proxy's authority is trusted no longer.
GRACE: Final = 60.0
#: Seconds that what is open on a tunnel has to finish when it is let go.
FINISH: Final = 3600.0


class WatchedTunnel(Protocol):
    """The part of a tunnel that is needed here."""

    @property
    def proxy_id(self) -> str | None:
        """Which proxy it leads to."""

    @property
    def host_certificate(self) -> Certificate | None:
        """What that has shown."""

    def drain(self, seconds: float) -> None:
        """Serve nothing new on it, and let go."""

    def close(self, reason: str) -> None:
        """End it, whatever is open."""


class HostWatch:
    """Looks at the host certificates of an agent's tunnels.

    :param now: wall clock, seconds since the epoch.
    :param trusted: the host authorities that are trusted now.
    :param revocations: what is revoked of proxies now.
    :param tunnels: those in service.
    :param every: all that are not over, also those that are being let go.
    :param make_anew: has another tunnel to a proxy made, to take the place of this one.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        clock: IReactorTime,
        now: Callable[[], float],
        trusted: Callable[[], Collection[PublicKey]],
        revocations: Callable[[], Revocations],
        tunnels: Callable[[], Iterable[WatchedTunnel]],
        every: Callable[[], Iterable[WatchedTunnel]],
        make_anew: Callable[[str], None],
    ) -> None:
        self._clock = clock
        self._now = now
        self._trusted = trusted
        self._revocations = revocations
        self._tunnels = tunnels
        self._every = every
        self._make_anew = make_anew
        #: Certificates for the sake of which a tunnel was to be made anew, and when.
        self._asked: dict[Certificate, float] = {}
        self._looking = LoopingCall(self.look)
        self._looking.clock = clock

    def start(self) -> None:
        """Begin to look."""
        looking: Deferred[LoopingCall] = self._looking.start(LOOK_INTERVAL, now=False)
        looking.addErrback(
            lambda failure: self._log.failure("host certificates are not seen", failure)
        )

    def stop(self) -> None:
        """Look no more."""
        if self._looking.running:
            self._looking.stop()

    def look(self) -> None:
        """Look at all of them now."""
        self._close_revoked()
        asked, self._asked = self._asked, {}
        for tunnel in list(self._tunnels()):
            certificate = tunnel.host_certificate
            if certificate is None or tunnel.proxy_id is None:
                continue
            reason = self._reason_against(certificate)
            if reason is None and not self._ends_soon(certificate):
                continue
            if certificate not in asked:
                # Once: a proxy that cannot renew would only show the same one again.
                asked[certificate] = self._clock.seconds()
                self._make_anew(tunnel.proxy_id)
            self._asked[certificate] = asked[certificate]
            waited = self._clock.seconds() - asked[certificate]
            if reason is not None and waited >= GRACE:
                self._log.warn(
                    "letting go of the tunnel to proxy {proxy}: {reason}",
                    proxy=tunnel.proxy_id,
                    reason=reason,
                )
                tunnel.drain(FINISH)

    def _close_revoked(self) -> None:
        revocations = self._revocations()
        for tunnel in list(self._every()) if revocations else ():
            certificate = tunnel.host_certificate
            if certificate is None:
                continue
            reason = revocations.certificate_reason(certificate)
            if reason is not None:
                self._log.warn(
                    "closing the tunnel to proxy {proxy}: {reason}",
                    proxy=tunnel.proxy_id,
                    reason=reason,
                )
                tunnel.close("your host certificate has been revoked")

    def _reason_against(self, certificate: Certificate) -> str | None:
        if self._now() >= certificate.valid_before:
            return f"its certificate expired at {rfc3339(certificate.valid_before)}"
        if certificate.ca_key not in self._trusted():
            return (
                f"its authority {certificate.ca_key.fingerprint} is trusted no longer"
            )
        return None

    def _ends_soon(self, certificate: Certificate) -> bool:
        left = certificate.valid_before - self._now()
        return left < AHEAD * lifetime(certificate)
