"""The audit events: a closed set, each one line of JSON.

Pure. Every line has the same fields in the same order; what an event does not speak of
is null. Whatever came from a peer is escaped and cut, so that a line is always one line
and no name can look like another field. No key, token or payload has a place here.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any, ClassVar

import attrs

from rtunnel.audit.fields import EVENT_FIELDS, Outcome
from rtunnel.audit.trust_events import (
    CaRotated,
    CertificateRenewed,
    FollowerForgotten,
    JoinAccepted,
    JoinRefused,
    LoginEnded,
    RenewalRefused,
    RevocationListFailed,
    RevocationRemoved,
    Revoked,
    TokenAdded,
    TokenRemoved,
)
from rtunnel.naming import printable
from rtunnel.timestamps import rfc3339

__all__ = [
    "AuditGap",
    "AuditLeftOut",
    "AuditStarted",
    "CaRotated",
    "CertificateRenewed",
    "ConnectionClosed",
    "ConnectionOpened",
    "ConnectionRefused",
    "Event",
    "FollowerForgotten",
    "JoinAccepted",
    "JoinRefused",
    "LoginAccepted",
    "LoginEnded",
    "LoginRefused",
    "Outcome",
    "PolicyReloaded",
    "ProxyStarted",
    "ProxyStopping",
    "RenewalRefused",
    "RevocationListFailed",
    "RevocationRemoved",
    "Revoked",
    "TokenAdded",
    "TokenRemoved",
    "TunnelDown",
    "TunnelUp",
    "event_line",
]


@attrs.frozen(kw_only=True)
class LoginAccepted:
    """A client, an agent or another proxy has logged in.

    :param user: for a client, who it is; ``key_id`` is that of the certificate, or the
        fingerprint of a plain key.
    :param cluster: for an agent, the cluster it serves; ``agent`` is its instance id.
        For another proxy, nothing but ``key_id``, which is its id. For a newcomer,
        the cluster of its token, and ``token:ID`` as ``key_id``.
    :param source: address it came from.
    """

    event: ClassVar[str] = "login_accepted"
    proxy: str
    source: str
    user: str | None = None
    key_id: str | None = None
    cluster: str | None = None
    agent: str | None = None
    outcome: Outcome = "ok"


@attrs.frozen(kw_only=True)
class LoginRefused:
    """Somebody could not prove to be anybody whom we know.

    :param user: the login name that was tried; proves nothing.
    """

    event: ClassVar[str] = "login_refused"
    proxy: str
    source: str
    reason: str
    user: str | None = None
    key_id: str | None = None
    outcome: Outcome = "refused"


@attrs.frozen(kw_only=True)
class TunnelUp:
    """An agent's tunnel takes connections from now on."""

    event: ClassVar[str] = "tunnel_up"
    proxy: str
    source: str
    cluster: str
    agent: str
    outcome: Outcome = "ok"


@attrs.frozen(kw_only=True)
class TunnelDown:
    """An agent's tunnel is gone.

    :param seconds: how long it was up.
    """

    event: ClassVar[str] = "tunnel_down"
    proxy: str
    source: str
    cluster: str
    agent: str
    seconds: float
    reason: str
    outcome: Outcome = "ok"


@attrs.frozen(kw_only=True)
class ConnectionOpened:
    """A user's connection has reached its target.

    :param agent: instance id of the agent it goes through; None when dialled directly.
    """

    event: ClassVar[str] = "connection_opened"
    connection_id: str
    user: str
    key_id: str
    source: str
    cluster: str
    target: str
    proxy: str
    agent: str | None = None
    outcome: Outcome = "ok"


@attrs.frozen(kw_only=True)
class ConnectionRefused:
    """A user's connection has not reached its target.

    :param outcome: "refused" when a rule forbids it, "failed" when it was tried.
    """

    event: ClassVar[str] = "connection_refused"
    connection_id: str
    user: str
    key_id: str
    source: str
    cluster: str
    target: str
    proxy: str
    reason: str
    agent: str | None = None
    outcome: Outcome = "refused"


@attrs.frozen(kw_only=True)
class ConnectionClosed:
    """A user's connection is over.

    :param bytes_in: from the user to the target.
    :param bytes_out: from the target to the user.
    :param seconds: how long it was open.
    :param reason: why it broke; "" when both sides had ended it, which is what
        ``outcome`` goes by when it is not given.
    """

    event: ClassVar[str] = "connection_closed"
    connection_id: str
    user: str
    key_id: str
    source: str
    cluster: str
    target: str
    proxy: str
    bytes_in: int
    bytes_out: int
    seconds: float
    reason: str = ""
    agent: str | None = None
    outcome: Outcome = attrs.field()

    @outcome.default
    def _outcome_by_reason(self) -> Outcome:
        return "failed" if self.reason else "ok"


@attrs.frozen(kw_only=True)
class ProxyStarted:
    """The proxy listens."""

    event: ClassVar[str] = "proxy_started"
    proxy: str
    outcome: Outcome = "ok"


@attrs.frozen(kw_only=True)
class ProxyStopping:
    """The proxy takes nothing new and will end.

    :param reason: who or what asked for it.
    """

    event: ClassVar[str] = "proxy_stopping"
    proxy: str
    reason: str = ""
    outcome: Outcome = "ok"


@attrs.frozen(kw_only=True)
class PolicyReloaded:
    """The rules on who may reach what were read again.

    :param outcome: "failed" when they could not be used and the old ones stay.
    """

    event: ClassVar[str] = "policy_reloaded"
    proxy: str
    reason: str = ""
    outcome: Outcome = "ok"


@attrs.frozen(kw_only=True)
class AuditStarted:
    """The first line of a file, or the first that a process writes to another one.

    :param reason: "a new chain", or "continues" and the newest ``chain`` of the file
        that was written to before.
    """

    event: ClassVar[str] = "audit_started"
    proxy: str | None
    reason: str
    outcome: Outcome = "ok"


@attrs.frozen(kw_only=True)
class AuditGap:
    """Events that happened before this one are missing.

    :param reason: how many, and why they could not be written.
    """

    event: ClassVar[str] = "audit_gap"
    proxy: str | None
    reason: str
    outcome: Outcome = "failed"


@attrs.frozen(kw_only=True)
class AuditLeftOut:
    """Logins were refused that have no line each, because they were too many.

    :param seconds: from the first of them until now.
    :param reason: how many of which event, since when, and above which rate.
    """

    event: ClassVar[str] = "audit_left_out"
    proxy: str
    reason: str
    seconds: float
    outcome: Outcome = "ok"


Event = (
    LoginAccepted
    | LoginRefused
    | TunnelUp
    | TunnelDown
    | ConnectionOpened
    | ConnectionRefused
    | ConnectionClosed
    | ProxyStarted
    | ProxyStopping
    | PolicyReloaded
    | AuditStarted
    | AuditGap
    | AuditLeftOut
    | TokenAdded
    | TokenRemoved
    | JoinAccepted
    | JoinRefused
    | CertificateRenewed
    | RenewalRefused
    | CaRotated
    | FollowerForgotten
    | Revoked
    | RevocationRemoved
    | RevocationListFailed
    | LoginEnded
)


_as_json = json.JSONEncoder(ensure_ascii=False).encode


@cache
def _field_names(kind: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in attrs.fields(kind))


def event_line(event: Event, time: float) -> str:
    """An event as one line of JSON, its newline included, and without its ``chain``.

    :param time: when it happened, seconds since the epoch.
    """
    line: dict[str, object] = dict.fromkeys(EVENT_FIELDS)
    line["time"] = rfc3339(time)
    line["event"] = event.event
    kind: Any = type(event)
    for name in _field_names(kind):
        value = getattr(event, name)
        line[name] = printable(value) if isinstance(value, str) else value
    if line["seconds"] is not None:
        line["seconds"] = round(max(0.0, float(str(line["seconds"]))), 3)
    return _as_json(line) + "\n"
