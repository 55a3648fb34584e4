"""The audit events about who is trusted: joining, renewing, rotating, revoking.

Of the fields of every line these use ``key_id`` for the key id of the certificate that
was signed or refused, and ``target`` for what was acted on.
"""

from __future__ import annotations

from typing import ClassVar

import attrs

from rtunnel.audit.fields import Outcome


@attrs.frozen(kw_only=True)
class TokenAdded:
    """A join token was made.

    :param proxy: that made it.
    :param target: ``token:ID``, by the id that ``rtunnel token ls`` shows.
    :param cluster: whose agents, or the one whose proxies, may join with it.
    :param seconds: how long it is good for.
    :param reason: what for, as "for an agent, once".
    """

    event: ClassVar[str] = "token_added"
    proxy: str
    target: str
    cluster: str
    seconds: float
    reason: str
    outcome: Outcome = "ok"


@attrs.frozen(kw_only=True)
class TokenRemoved:
    """A join token was withdrawn.

    :param target: ``token:ID``.
    """

    event: ClassVar[str] = "token_removed"
    proxy: str
    target: str
    cluster: str | None = None
    reason: str = ""
    outcome: Outcome = "ok"


@attrs.frozen(kw_only=True)
class JoinAccepted:
    """An agent or a proxy got its first certificate for a token.

    :param proxy: that signed it.
    :param source: address the newcomer came from.
    :param target: ``token:ID``.
    :param key_id: of the certificate: the instance id of an agent, the id of a proxy.
    :param agent: instance id of an agent; None for a proxy.
    :param seconds: how long the certificate is valid.
    :param reason: by which proxy the request was passed on; "" when by none.
    """

    event: ClassVar[str] = "join_accepted"
    proxy: str
    source: str
    cluster: str
    target: str
    key_id: str
    seconds: float
    agent: str | None = None
    reason: str = ""
    outcome: Outcome = "ok"


@attrs.frozen(kw_only=True)
class JoinRefused:
    """Somebody wanted to join and may not, or could not be served.

    :param reason: the true one, which the newcomer is not told.
    :param target: ``token:ID``; None when no token is known by what was sent.
    :param outcome: "failed" when the token is good, but nobody could sign.
    """

    event: ClassVar[str] = "join_refused"
    proxy: str
    source: str
    reason: str
    cluster: str | None = None
    target: str | None = None
    outcome: Outcome = "refused"


@attrs.frozen(kw_only=True)
class CertificateRenewed:
    """An agent or a proxy got a new certificate for one that is still good.

    :param proxy: that signed it.
    :param source: address of the agent, or of the proxy that passed the request on;
        None when the proxy renewed its own.
    :param key_id: of the certificate.
    :param agent: instance id of an agent; None for a proxy.
    :param seconds: how long the new certificate is valid.
    :param reason: by which proxy the request was passed on; "" when by none.
    """

    event: ClassVar[str] = "certificate_renewed"
    proxy: str
    cluster: str
    key_id: str
    seconds: float
    source: str | None = None
    agent: str | None = None
    reason: str = ""
    outcome: Outcome = "ok"


@attrs.frozen(kw_only=True)
class RenewalRefused:
    """A certificate was not renewed.

    :param key_id: of the certificate that was shown, if it could be read.
    :param outcome: "failed" when it might have been, but nobody could sign.
    """

    event: ClassVar[str] = "renewal_refused"
    proxy: str
    reason: str
    cluster: str | None = None
    key_id: str | None = None
    source: str | None = None
    agent: str | None = None
    outcome: Outcome = "refused"


@attrs.frozen(kw_only=True)
class CaRotated:
    """The rotation of an authority went a phase further, or back.

    :param proxy: where it was asked for.
    :param target: ``host_ca``, ``agent_ca`` or ``user_ca``.
    :param reason: from which phase to which.
    """

    event: ClassVar[str] = "ca_rotated"
    proxy: str
    target: str
    reason: str
    outcome: Outcome = "ok"


@attrs.frozen(kw_only=True)
class FollowerForgotten:
    """No rotation waits any longer for a proxy or an agent.

    :param proxy: where it was asked for.
    :param target: ``agent:UUID`` or ``proxy:UUID``.
    """

    event: ClassVar[str] = "follower_forgotten"
    proxy: str
    target: str
    outcome: Outcome = "ok"


@attrs.frozen(kw_only=True)
class Revoked:
    """Something is not trusted any longer.

    :param proxy: where it was asked for.
    :param target: what, as ``serial:42``, ``user:alice`` or ``agent:UUID``.
    :param reason: the operator's.
    """

    event: ClassVar[str] = "revoked"
    proxy: str
    target: str
    reason: str
    outcome: Outcome = "ok"


@attrs.frozen(kw_only=True)
class RevocationRemoved:
    """What was revoked is trusted again.

    :param target: as in :class:`Revoked`.
    """

    event: ClassVar[str] = "revocation_removed"
    proxy: str
    target: str
    reason: str = ""
    outcome: Outcome = "ok"


@attrs.frozen(kw_only=True)
class RevocationListFailed:
    """A key revocation list cannot be used; what it said before stays in force.

    :param target: the file.
    :param reason: what is wrong with it.
    """

    event: ClassVar[str] = "revocation_list_failed"
    proxy: str
    target: str
    reason: str
    outcome: Outcome = "failed"


@attrs.frozen(kw_only=True)
class LoginEnded:
    """Somebody who was logged in is so no longer, against their will.

    Their connections to targets each have a line of their own.

    :param user: for a client, who it is; for an agent ``cluster`` and ``agent``; for
        another proxy only ``key_id``. As in ``login_accepted``.
    :param reason: that it was revoked and why, that it has expired, or that the rules
        no longer allow anything.
    """

    event: ClassVar[str] = "login_ended"
    proxy: str
    source: str
    reason: str
    user: str | None = None
    key_id: str | None = None
    cluster: str | None = None
    agent: str | None = None
    outcome: Outcome = "refused"
