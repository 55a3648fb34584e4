"""What a proxy does for those who want to join: look at the token, hand out the files.

The token is looked up when its bearer logs in and used up where the certificate is
signed, at this proxy or at a peer.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from rtunnel.audit.events import Event, JoinRefused
from rtunnel.config import ProxyConfig
from rtunnel.errors import (
    DISCONNECT_SERVICE_NOT_AVAILABLE,
    AuthenticationRefused,
    ProtocolError,
    SigningRefused,
    SigningUnavailable,
)
from rtunnel.proxy.join_verifier import target_of
from rtunnel.proxy.newcomer_files import agent_files, proxy_files
from rtunnel.proxy.signing import Signer
from rtunnel.proxy.tokens import Tokens
from rtunnel.trust.identity import JoinIdentity
from rtunnel.trust.join_bundle import encode_bundle
from rtunnel.trust.signing_request import JoinRequest
from rtunnel.trust.signing_role import Role
from rtunnel.wire.keys import PublicKey


class JoinDesk:
    """Serves newcomers.

    :param config: of this proxy, whose settings another one takes over.
    :param proxy_id: of this proxy.
    :param record: writes an audit event.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        config: ProxyConfig,
        proxy_id: str,
        tokens: Tokens,
        signer: Signer,
        record: Callable[[Event], object],
    ) -> None:
        self._config = config
        self._proxy_id = proxy_id
        self._tokens = tokens
        self._signer = signer
        self._record = record

    async def check_token(self, token: str, source: str) -> JoinIdentity:
        """Who logs in with a token.

        :param source: IP address that the connection comes from.
        :raises AuthenticationRefused: when it is not good; why is for our own log.
        :raises ProtocolError: when that cannot be found out now; the text is for the
            newcomer.
        """
        try:
            found = await self._tokens.look_up(token)
        except SigningRefused as error:
            raise AuthenticationRefused(str(error)) from None
        except SigningUnavailable as error:
            raise ProtocolError(str(error), DISCONNECT_SERVICE_NOT_AVAILABLE) from None
        return JoinIdentity(
            kind=found.kind,
            cluster=found.cluster,
            token_id=found.id,
            token=token,
            source=source,
            valid_before=found.expires,
        )

    async def join(
        self, bearer: JoinIdentity, role: Role, cluster: str, key: PublicKey
    ) -> str:
        """Use the token, and make the newcomer's files.

        :param role: what the newcomer wants to be.
        :param cluster: whose agent it believes to become; empty to take what the token
            says.
        :param key: the newcomer's.
        :return: a bundle, see :mod:`rtunnel.trust.join_bundle`.
        :raises SigningRefused: when it may not; the text is for our own log.
        :raises SigningUnavailable: when it cannot be served now; the text is for it.
        """
        request = JoinRequest(bearer.source, role, cluster, key, bearer.token)
        try:
            signed = await self._signer.sign(request)
        except SigningUnavailable as error:
            self._record(
                JoinRefused(
                    proxy=self._proxy_id,
                    source=bearer.source,
                    cluster=bearer.cluster,
                    target=target_of(bearer.token),
                    reason=str(error),
                    outcome="failed",
                )
            )
            raise
        self._log.info(
            "{role} {id} from {source} has joined with token {token}",
            role=role,
            id=signed.certificate.key_id,
            source=bearer.source,
            token=bearer.token_id,
        )
        files = agent_files if role == "agent" else proxy_files
        return encode_bundle(files(self._config, signed))
