"""The sentences a client's ``ssh`` shows when a target cannot be reached.

They are the only error text that stock ``ssh`` prints (RFC 4254 section 5.1), so each
says what is wrong and, where that helps, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection

from rtunnel.counting import counted
from rtunnel.errors import (
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_CONNECT_FAILED,
    OPEN_RESOURCE_SHORTAGE,
    OpenRefused,
)
from rtunnel.naming import Target


def not_allowed(user: str, target: Target, other_times: bool = False) -> OpenRefused:
    """No rule lets this user reach that target.

    :param other_times: whether one does at other times.
    """
    return OpenRefused(
        OPEN_ADMINISTRATIVELY_PROHIBITED,
        f"{user} is not allowed to reach {target}{_when(other_times)}; ask the proxy's "
        "operator",
    )


def unknown_cluster(
    cluster: str, known: Collection[str], alone: bool = False
) -> OpenRefused:
    """No agent of such a cluster was ever seen.

    :param known: clusters that this user may reach, for "did you mean".
    :param alone: whether it was asked for without a host, which may be one that lacks
        its cluster.
    """
    near = difflib.get_close_matches(cluster, known, n=1)
    hint = ""
    if near:
        hint = f"; did you mean {near[0]!r}?"
    elif alone:
        hint = "; a host is written HOST.CLUSTER"
    return OpenRefused(
        OPEN_ADMINISTRATIVELY_PROHIBITED, f"there is no cluster {cluster!r}{hint}"
    )


def offline(cluster: str) -> OpenRefused:
    """The cluster is known, but no agent of it holds a tunnel, here or at a peer."""
    return OpenRefused(
        OPEN_CONNECT_FAILED,
        f"cluster {cluster!r} is offline: none of its agents has a tunnel to a proxy",
    )


def no_answer(cluster: str, seconds: float) -> OpenRefused:
    """An agent took the dial and did not answer in time."""
    return OpenRefused(
        OPEN_CONNECT_FAILED,
        f"the agent of cluster {cluster!r} did not answer within "
        f"{counted(seconds, 'second')}",
    )


def tunnel_lost(cluster: str) -> OpenRefused:
    """The tunnel broke while the dial was under way."""
    return OpenRefused(
        OPEN_CONNECT_FAILED,
        f"the tunnel to cluster {cluster!r} broke while connecting; try again",
    )


def draining() -> OpenRefused:
    """The proxy is going down and takes nothing new."""
    return OpenRefused(
        OPEN_RESOURCE_SHORTAGE,
        "this proxy is shutting down; connect again to reach another one",
    )


def share_taken(user: str, cluster: str, count: int) -> OpenRefused:
    """The user has as many connections through a tunnel as others may still open.

    :param count: how many the user has.
    """
    return OpenRefused(
        OPEN_RESOURCE_SHORTAGE,
        f"{user} has {counted(count, 'connection')} through the tunnel to cluster "
        f"{cluster!r} already, and the rest is left to others; end some",
    )


def too_many_sessions(limit: int) -> OpenRefused:
    """The client has so many sessions that lead nowhere yet."""
    return OpenRefused(
        OPEN_RESOURCE_SHORTAGE,
        f"{limit} sessions of this connection are open already; end one, or connect "
        "again",
    )


def lapsed() -> OpenRefused:
    """The certificate or key that they logged in with is good no longer."""
    return OpenRefused(
        OPEN_ADMINISTRATIVELY_PROHIBITED,
        "your certificate or key has expired, or is trusted no longer; log in with a "
        "new one",
    )


#: Who wants to log in hears this while the audit file has to be written and cannot be.
NOBODY_UNRECORDED = (
    "this proxy cannot write its audit file, and takes nobody until it can"
)


def not_recorded() -> OpenRefused:
    """The same, for who is logged in."""
    return OpenRefused(
        OPEN_RESOURCE_SHORTAGE,
        "the proxy cannot write its audit file, and opens nothing until it can; tell "
        "its operator",
    )


# Told by the proxy that the client is connected to, of a peer that holds the tunnel.


def share_of_link_taken(user: str, peer: str, count: int) -> OpenRefused:
    """The user has as many connections through the peer as others may still open.

    :param peer: the other proxy's name.
    :param count: how many the user has.
    """
    return OpenRefused(
        OPEN_RESOURCE_SHORTAGE,
        f"{user} has {counted(count, 'connection')} from this proxy through proxy "
        f"{peer} already, and the rest is left to others; end some",
    )


def peer_unreachable(cluster: str, peer: str, reason: str) -> OpenRefused:
    """There is no link to the peer, and none can be made.

    :param peer: the other proxy's name.
    """
    return OpenRefused(
        OPEN_CONNECT_FAILED,
        f"{_holder(cluster, peer)} cannot be reached from this proxy: {reason}",
    )


def peer_no_answer(cluster: str, peer: str, seconds: float) -> OpenRefused:
    """The peer took the request and did not answer in time."""
    return OpenRefused(
        OPEN_CONNECT_FAILED,
        f"{_holder(cluster, peer)} did not answer within {counted(seconds, 'second')}",
    )


def peer_lost(cluster: str, peer: str) -> OpenRefused:
    """The link to the peer broke, or fell silent, while it was asked."""
    return OpenRefused(
        OPEN_CONNECT_FAILED,
        f"{_holder(cluster, peer)} was lost while connecting; try again",
    )


# Told by the peer. Codes 1 and 2 are answers; after code 4 the proxy that asked goes on
# to another peer.


def not_allowed_by_peer(
    user: str, target: Target, name: str, other_times: bool = False
) -> OpenRefused:
    """The peer's own rules do not let this user reach that target.

    :param name: of the proxy that says so.
    :param other_times: whether one does at other times.
    """
    return OpenRefused(
        OPEN_ADMINISTRATIVELY_PROHIBITED,
        f"{_holder(target.cluster, name)} does not allow {user} to reach "
        f"{target}{_when(other_times)}; ask its operator",
    )


def login_not_accepted(cluster: str, name: str) -> OpenRefused:
    """The peer cannot identify the user, for a reason that its own log has."""
    return OpenRefused(
        OPEN_ADMINISTRATIVELY_PROHIBITED,
        f"{_holder(cluster, name)} does not accept your key or certificate; ask its "
        "operator",
    )


def local_for_peer(target: Target, name: str) -> OpenRefused:
    """Each proxy dials targets of the proxies' own cluster itself."""
    return OpenRefused(
        OPEN_ADMINISTRATIVELY_PROHIBITED,
        f"proxy {name} reaches {target} for its own clients only",
    )


def no_tunnel_at_peer(cluster: str, name: str) -> OpenRefused:
    """The tunnel that the proxy was asked for is gone."""
    return OpenRefused(
        OPEN_RESOURCE_SHORTAGE,
        f"proxy {name} holds no tunnel to cluster {cluster!r} any more; try again",
    )


def fault_at_peer(fault: OpenRefused) -> OpenRefused:
    """Its tunnels do not answer."""
    return OpenRefused(OPEN_RESOURCE_SHORTAGE, fault.text)


def peer_lapsed(name: str) -> OpenRefused:
    """The certificate is good no longer that the proxy which asks has logged in with.

    :param name: of the proxy that says so.
    """
    return OpenRefused(
        OPEN_RESOURCE_SHORTAGE,
        f"proxy {name} waits for a new certificate of this one; try again",
    )


def peer_draining(name: str) -> OpenRefused:
    """The proxy that was asked is going down."""
    return OpenRefused(
        OPEN_RESOURCE_SHORTAGE, f"proxy {name} is shutting down; try again"
    )


def _when(other_times: bool) -> str:
    return " at this time" if other_times else ""


def _holder(cluster: str, peer: str) -> str:
    return f"proxy {peer}, which holds the tunnel to cluster {cluster!r},"
