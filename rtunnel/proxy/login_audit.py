"""What this proxy records of logins, and what it makes of them being recordable."""

from __future__ import annotations

from rtunnel.audit.events import JoinRefused, LoginRefused
from rtunnel.errors import DISCONNECT_SERVICE_NOT_AVAILABLE, ProtocolError
from rtunnel.naming import printable
from rtunnel.proxy import refusals
from rtunnel.proxy.login_events import login_accepted
from rtunnel.proxy.people_seen import PeopleSeen
from rtunnel.proxy.recording import Recording
from rtunnel.trust.identity import Identity


class LoginAudit:
    """Audits logins; a :class:`~rtunnel.ssh.userauth.LoginEvents`.

    :param people: remembers who has logged in.
    :param proxy_id: our own.
    """

    def __init__(self, audit: Recording, people: PeopleSeen, proxy_id: str) -> None:
        self._audit = audit
        self._people = people
        self._proxy_id = proxy_id

    def login_accepted(self, identity: Identity, address: str) -> None:
        """Somebody is about to be logged in.

        :raises ProtocolError: when that has to be recorded and cannot be.
        """
        if not self._audit.record(login_accepted(identity, self._proxy_id, address)):
            raise ProtocolError(
                refusals.NOBODY_UNRECORDED, DISCONNECT_SERVICE_NOT_AVAILABLE
            )
        self._people.saw(identity)

    def login_refused(self, address: str, username: str, reason: str) -> None:
        """A key or certificate was refused."""
        self._audit.record_refusal(
            LoginRefused(
                source=address,
                proxy=self._proxy_id,
                user=printable(username, 64),
                reason=reason,
            )
        )

    def token_refused(self, address: str, token: str, reason: str) -> None:
        """A token did not log anybody in."""
        self._audit.record_refusal(
            JoinRefused(proxy=self._proxy_id, source=address, reason=printable(reason))
        )

    def closed(self) -> str | None:
        """Why nobody can log in now, in a sentence for them."""
        return None if self._audit.problem is None else refusals.NOBODY_UNRECORDED
