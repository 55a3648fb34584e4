"""Whether an agent believes whoever answers, and what it advises if not. Pure."""

from __future__ import annotations

from rtunnel.errors import AuthorityUnknown, HostRefused
from rtunnel.state_directory import AgentCredentials
from rtunnel.trust import host_check
from rtunnel.trust.host_check import KnownHost


def check_host(
    algorithm: bytes, blob: bytes, credentials: AgentCredentials, now: float
) -> KnownHost:
    """Which proxy this is; see :func:`rtunnel.trust.host_check.check_host`.

    :param now: POSIX time.
    :raises HostRefused: it is none of ours; with advice, if it might be.
    :raises CertificateError: it is malformed, or of ours and not valid now.
    """
    try:
        return host_check.check_host(
            algorithm,
            blob,
            trusts=lambda key: key in credentials.host_cas,
            now=now,
            revocations=credentials.revocations(now),
        )
    except AuthorityUnknown as error:
        raise HostRefused(
            f"{error}; if the proxies' authority was rotated while this agent was "
            "off, copy host_ca.pub from the state directory that `rtunnel init` made"
        ) from None
