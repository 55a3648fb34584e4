"""Audit events about logins: what is said of a person, an agent, another proxy, and
a newcomer with a token.
"""

from __future__ import annotations

import attrs

from rtunnel.audit.events import LoginAccepted, LoginEnded
from rtunnel.trust.identity import (
    AgentIdentity,
    Identity,
    JoinIdentity,
    UserIdentity,
)


def login_accepted(identity: Identity, proxy: str, address: str) -> LoginAccepted:
    """Somebody has logged in.

    :param proxy: our own id.
    :param address: where they come from.
    """
    who = _Who.of(identity)
    return LoginAccepted(source=address, proxy=proxy, **attrs.asdict(who))


def login_ended(identity: Identity, proxy: str, reason: str) -> LoginEnded:
    """Somebody is logged in no longer, against their will.

    :param proxy: our own id.
    """
    who = _Who.of(identity)
    return LoginEnded(
        source=identity.source, proxy=proxy, reason=reason, **attrs.asdict(who)
    )


@attrs.frozen
class _Who:
    user: str | None = None
    key_id: str | None = None
    cluster: str | None = None
    agent: str | None = None

    @classmethod
    def of(cls, identity: Identity) -> _Who:
        if isinstance(identity, AgentIdentity):
            return cls(cluster=identity.cluster, agent=identity.instance)
        if isinstance(identity, UserIdentity):
            return cls(user=identity.name, key_id=identity.key_id)
        if isinstance(identity, JoinIdentity):
            # A newcomer has no name yet.
            return cls(cluster=identity.cluster, key_id=f"token:{identity.token_id}")
        return cls(key_id=identity.proxy_id)
