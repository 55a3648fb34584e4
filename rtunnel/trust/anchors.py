"""Whose signatures count: the authorities of the three roles. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from rtunnel.errors import ConfigError
from rtunnel.trust.identity import (
    AgentIdentity,
    Identity,
    PeerIdentity,
    UserIdentity,
)
from rtunnel.wire.keys import PublicKey


def _keys(keys: Iterable[PublicKey]) -> frozenset[PublicKey]:
    return frozenset(keys)


@attrs.frozen
class TrustAnchors:
    """The authorities' public keys, by role: one each, more while one is rotated.

    Three authorities, three roles: no key may stand for two of them.

    :param user: may sign people's certificates.
    :param agent: may sign agents' certificates.
    :param host: may sign host certificates, those by which proxies log in at each
        other among them.
    :raises ConfigError: when two roles share a CA key.
    """

    user: frozenset[PublicKey] = attrs.field(default=(), converter=_keys)
    agent: frozenset[PublicKey] = attrs.field(default=(), converter=_keys)
    host: frozenset[PublicKey] = attrs.field(default=(), converter=_keys)

    def __attrs_post_init__(self) -> None:
        shared = (
            (self.user & self.agent)
            | (self.user & self.host)
            | (self.agent & self.host)
        )
        if shared:
            raise ConfigError(
                [
                    f"the key {key.fingerprint} is CA in two roles; host, agent and "
                    "user CA have to be three keys"
                    for key in shared
                ]
            )

    def reason_against(self, identity: Identity) -> str | None:
        """Why somebody who was believed would not be now; None when nothing speaks
        against it.

        :return: a sentence for our own log, when the certificate is of an authority
            that is trusted no longer. Who has none stands on no authority.
        """
        match identity:
            case UserIdentity():
                role, trusted = "user", self.user
            case AgentIdentity():
                role, trusted = "agent", self.agent
            case PeerIdentity():
                role, trusted = "host", self.host
            case _:
                return None
        if identity.certificate is None or identity.certificate.ca_key in trusted:
            return None
        fingerprint = identity.certificate.ca_key.fingerprint
        return f"the {role} authority {fingerprint} is trusted no longer"
