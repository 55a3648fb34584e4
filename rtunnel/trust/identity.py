"""Who logged in at a proxy: a user, an agent, another proxy, or who wants to be one.

An identity is frozen when the login is decided and travels with everything that is
done in its name. Nothing in it comes from what the peer merely says.
"""

from __future__ import annotations

import uuid
from typing import TypeAlias

import attrs

from rtunnel.errors import InvalidName
from rtunnel.naming import printable
from rtunnel.trust.signing_role import Role
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.keys import PublicKey


@attrs.frozen
class UserIdentity:
    """A person, by certificate of the user CA or by a line of authorized_keys.

    :param name: the certificate's key id, or the line's comment.
    :param principals: what ``[[allow]]`` rules speak of, the name among them.
    :param key_id: the certificate's key id; for a plain key its fingerprint.
    :param fingerprint: of the key that signed the login, ``SHA256:...``.
    :param source: IP address that the connection comes from.
    :param certificate: None for a plain key.
    :param valid_before: POSIX time when the identity ends; None for never.
    :param key: the plain key; None when it has a certificate.
    """

    name: str
    principals: tuple[str, ...]
    key_id: str
    fingerprint: str
    source: str
    certificate: Certificate | None
    valid_before: float | None
    key: PublicKey | None = None


@attrs.frozen
class AgentIdentity:
    """An agent, by certificate of the agent CA.

    :param cluster: the certificate's only principal.
    :param instance: the agent's UUID, the certificate's key id.
    :param fingerprint: of the agent's key, ``SHA256:...``.
    :param source: IP address that the connection comes from.
    :param valid_before: POSIX time when the identity ends; None for never.
    """

    cluster: str
    instance: str
    fingerprint: str
    source: str
    certificate: Certificate
    valid_before: float | None


@attrs.frozen
class PeerIdentity:
    """Another proxy of the same cluster, by certificate of the host CA.

    :param proxy_id: its UUID, the certificate's first principal.
    :param names: all principals: id, cluster, public names.
    :param fingerprint: of its host key, ``SHA256:...``.
    :param source: IP address that the connection comes from.
    :param valid_before: POSIX time when the identity ends; None for never.
    """

    proxy_id: str
    names: tuple[str, ...]
    fingerprint: str
    source: str
    certificate: Certificate
    valid_before: float | None


@attrs.frozen
class JoinIdentity:
    """The bearer of a join token: nobody yet.

    :param kind: what it may become, an agent or a proxy.
    :param cluster: whose agent, or the proxies' own.
    :param token_id: by what people speak of the token.
    :param token: itself; it is used up when a certificate is signed.
    :param source: IP address that the connection comes from.
    :param valid_before: POSIX time when the token expires.
    """

    kind: Role
    cluster: str
    token_id: str
    token: str = attrs.field(repr=False)
    source: str
    valid_before: float | None


Identity: TypeAlias = UserIdentity | AgentIdentity | PeerIdentity | JoinIdentity


def check_uuid(name: str) -> str:
    """Return ``name`` if it is a UUID in its one usual form: lower case, hyphens.

    :raises InvalidName: when it is not.
    """
    try:
        canonical = str(uuid.UUID(name)) == name
    except ValueError:
        canonical = False
    if not canonical:
        raise InvalidName(f"{printable(name)!r} is not a UUID")
    return name
