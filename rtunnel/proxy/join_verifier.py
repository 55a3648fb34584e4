"""Who may join, decided at the proxy that signs: whoever has a token that is good."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

from rtunnel.audit.events import JoinAccepted, JoinRefused
from rtunnel.errors import SigningRefused
from rtunnel.proxy.signing import AgentGrant, Grant, ProxyGrant
from rtunnel.proxy.tokens import Tokens
from rtunnel.trust.join_token import TokenRecord, hash_of
from rtunnel.trust.signing_request import JoinRequest
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.keys import PublicKey


def check_new_key(key: PublicKey) -> None:
    """Whether a key can be that of an agent or a proxy, which have nobody to touch it.

    :raises SigningRefused: when it cannot.
    """
    if key.algorithm.startswith(b"sk-"):
        raise SigningRefused(
            "a key in a security key wants to be touched for every login; make an "
            "Ed25519 key"
        )


class JoinVerifier:
    """A :class:`~rtunnel.proxy.signing.Verifier` of requests to join.

    :param proxy_id: of this proxy.
    :param cluster: of this proxy.
    :param new_id: makes the ids of agents and proxies: UUIDs.
    """

    def __init__(
        self,
        tokens: Tokens,
        *,
        proxy_id: str,
        cluster: str,
        new_id: Callable[[], str] = lambda: str(uuid4()),
    ) -> None:
        self._tokens = tokens
        self._proxy_id = proxy_id
        self._cluster = cluster
        self._new_id = new_id

    async def verify(self, request: JoinRequest) -> Grant:
        """Use the token up, and grant what it is for."""
        check_new_key(request.key)
        record = await self._tokens.redeem(request)
        if record.kind == "proxy":
            self._check_own(record)
            return ProxyGrant(request.key, self._new_id(), record.names)
        return AgentGrant(request.key, record.cluster, self._new_id())

    def _check_own(self, record: TokenRecord) -> None:
        if record.cluster != self._cluster:
            raise SigningRefused(
                f"token {record.id} is for a proxy of cluster {record.cluster}"
            )

    def accepted(
        self, request: JoinRequest, grant: Grant, certificate: Certificate
    ) -> JoinAccepted:
        """See :class:`~rtunnel.proxy.signing.Verifier`."""
        is_agent = isinstance(grant, AgentGrant)
        return JoinAccepted(
            proxy=self._proxy_id,
            source=request.source,
            cluster=grant.cluster if isinstance(grant, AgentGrant) else self._cluster,
            target=target_of(request.token),
            key_id=certificate.key_id,
            seconds=certificate.valid_before - certificate.valid_after,
            agent=certificate.key_id if is_agent else None,
        )

    def refused(self, request: JoinRequest, reason: str) -> JoinRefused:
        """See :class:`~rtunnel.proxy.signing.Verifier`."""
        return JoinRefused(
            proxy=self._proxy_id,
            source=request.source,
            reason=reason,
            cluster=request.cluster or None,
            target=target_of(request.token),
        )


def target_of(token: str) -> str:
    """How audit lines speak of a token: by its id, a part of its hash."""
    return f"token:{hash_of(token)[:12]}"
