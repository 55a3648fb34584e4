"""The agent's own certificate, renewed through its tunnels."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, Protocol

import attrs
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rtunnel.agent.credentials import LiveCredentials
from rtunnel.certified_key import replace_certificate, replace_pair
from rtunnel.discovery.messages import Message
from rtunnel.discovery.trust_messages import NotRenewed, Renew, Renewed
from rtunnel.errors import (
    CertificateError,
    ConfigError,
    ConnectionClosed,
    KeyFileError,
    RequestFailed,
    RtunnelError,
    SigningUnavailable,
)
from rtunnel.key_making import MakeKey
from rtunnel.naming import printable
from rtunnel.renewal_timer import RenewalTimer
from rtunnel.state_directory import AGENT_KEY
from rtunnel.timestamps import rfc3339
from rtunnel.trust.bundle import TrustBundle
from rtunnel.trust.renewal_request import RenewalRequest
from rtunnel.wire.certificate import DEFAULT_SKEW, Certificate, CertificateKind
from rtunnel.wire.certificate_check import check_validity
from rtunnel.wire.keys import PrivateKey, PublicKey

#: Seconds that a proxy has to send the new certificate.
ANSWER_TIMEOUT: Final = 30.0
#: Seconds by which the clocks of two proxies that sign may differ.
MAX_SKEW: Final = 300.0
#: Proxies that are asked in one attempt.
MAX_ASKED: Final = 3

WHAT_TO_DO: Final = (
    "make sure that a proxy with the authorities' private keys runs, or sign it there "
    "with `rtunnel agent renew --ttl 52w --certificate agent_key-cert.pub`"
)


class AskedTunnel(Protocol):
    """The part of a tunnel that is needed here."""

    def send(self, message: Message) -> Deferred[None]:
        """Say something to the proxy; fails when it refuses, or is gone."""


@attrs.frozen
class _Asked:
    """A request that is to be answered.

    :param tunnel: by which the answer has to come.
    :param key: the fresh key, if the certificate is to be for one.
    """

    tunnel: AskedTunnel
    request: RenewalRequest
    key: PrivateKey | None
    answered: Deferred[None] = attrs.field(factory=Deferred, eq=False)


class Renewal:
    """Asks the proxies for the next certificate, and puts it in place.

    :param directory: the state directory.
    :param now: wall clock, seconds since the epoch.
    :param chance: a number from 0 up to 1.
    :param tunnels: those in service.
    :param fresh_key: whether the next certificate is to be for a new key.
    :param make_key: makes that.
    :param check: raises ConfigError when a certificate could not be used.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        directory: Path,
        credentials: LiveCredentials,
        clock: IReactorTime,
        now: Callable[[], float],
        chance: Callable[[], float],
        tunnels: Callable[[], Collection[AskedTunnel]],
        fresh_key: Callable[[], bool],
        make_key: MakeKey,
        check: Callable[[Certificate], None],
    ) -> None:
        self._path = directory / AGENT_KEY
        self._credentials = credentials
        self._clock = clock
        self._now = now
        self._tunnels = tunnels
        self._fresh_key = fresh_key
        self._make_key = make_key
        self._check = check
        self._asked: _Asked | None = None
        self._timer = RenewalTimer(
            clock,
            now=now,
            chance=chance,
            certificate=lambda: credentials.fresh().certificate,
            renew=self._renew,
            what_to_do=WHAT_TO_DO,
        )
        #: See :class:`~rtunnel.renewal_timer.RenewalTimer`.
        self.start, self.stop = self._timer.start, self._timer.stop
        self.hasten, self.try_now = self._timer.hasten, self._timer.try_now
        self.certificate_changed = self._timer.certificate_changed

    async def _renew(self) -> None:
        failure: RtunnelError = ConnectionClosed("no tunnel is in service")
        fresh = None
        if self._fresh_key() and self._tunnels():
            key_type = self._credentials.present.key.public.algorithm
            fresh = await self._make_key(key_type)
        for tunnel in list(self._tunnels())[:MAX_ASKED]:
            try:
                await self._ask(tunnel, fresh)
            except RtunnelError as error:
                failure = error
            else:
                return
        raise failure

    async def _ask(self, tunnel: AskedTunnel, fresh: PrivateKey | None) -> None:
        present = self._credentials.present
        request = RenewalRequest.make(
            present.certificate, present.key, self._now(), fresh
        )
        asked = self._asked = _Asked(tunnel, request, fresh)
        asked.answered.addTimeout(ANSWER_TIMEOUT, self._clock)
        try:
            try:
                await tunnel.send(Renew(request))
            except RequestFailed:
                raise SigningUnavailable(
                    "the proxy does not renew certificates"
                ) from None
            await asked.answered
        except TimeoutError:
            raise SigningUnavailable(
                f"the proxy has sent no certificate within {ANSWER_TIMEOUT:g} seconds"
            ) from None
        finally:
            self._asked = None
            asked.answered.addErrback(lambda failure: None)
            asked.answered.cancel()

    def answered(self, tunnel: AskedTunnel, message: Renewed | NotRenewed) -> bool:
        """A proxy says what has come of a request.

        :return: whether that was asked for and, for a certificate, is stored now.
        """
        asked = self._asked
        if asked is None or asked.tunnel is not tunnel or asked.answered.called:
            return False
        try:
            if isinstance(message, NotRenewed):
                raise SigningUnavailable(printable(message.reason))
            self._store(asked, message.certificate, message.bundle)
        except RtunnelError as error:
            asked.answered.errback(error)
            return isinstance(message, NotRenewed)
        asked.answered.callback(None)
        return True

    def _store(
        self, asked: _Asked, certificate: Certificate, bundle: TrustBundle | None
    ) -> None:
        present = self._credentials.present
        certificate.check_signature()
        check_validity(
            certificate.valid_after, certificate.valid_before, self._now(), DEFAULT_SKEW
        )
        if certificate.kind is not CertificateKind.USER or (
            certificate.key,
            certificate.key_id,
            certificate.principals,
            certificate.critical_options,
        ) != (
            asked.request.key,
            present.certificate.key_id,
            present.certificate.principals,
            present.certificate.critical_options,
        ):
            raise CertificateError("the certificate that came is not this agent's")
        if (
            certificate == present.certificate
            or certificate.valid_after < present.certificate.valid_after - MAX_SKEW
        ):
            # A proxy has seen those that went before, and one may be revoked by now.
            raise CertificateError("the certificate that came is not a new one")
        _check_authority(certificate.ca_key, present.certificate.ca_key, bundle)
        self._check(certificate)
        comment = f"rtunnel agent {present.instance} of {certificate.principals[0]}"
        if asked.key is None:
            replace_certificate(self._path, certificate, comment)
        else:
            replace_pair(self._path, asked.key, certificate, comment)
        try:
            self._credentials.reload()
        except (ConfigError, KeyFileError) as error:
            self._log.error("{reason}", reason=str(error))
            raise
        self._log.info(
            "this agent's certificate is renewed until {end}",
            end=rfc3339(certificate.valid_before),
        )


def _check_authority(
    authority: PublicKey, before: PublicKey, bundle: TrustBundle | None
) -> None:
    """Whether a key is that of the agent authority: the same as before, or one that
    this says is in its place. Else one proxy in wrong hands could give the agent a
    certificate that no other proxy takes.

    :param bundle: as the proxy has it.
    :raises CertificateError: when it is not.
    """
    if authority == before:
        return
    if (
        bundle is None
        or bundle.role != "agent"
        or authority not in bundle.trusted
        or bundle.signer([before]) is None
    ):
        raise CertificateError(
            "the certificate that came is of another authority, and the one before "
            "does not vouch for it"
        )
