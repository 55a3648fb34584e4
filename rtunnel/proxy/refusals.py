"""The sentences a client's ``ssh`` shows when a target cannot be reached.

They are the only error text that stock ``ssh`` prints (RFC 4254 section 5.1), so each
says what is wrong and, where that helps, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection

from rtunnel.errors import (
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_CONNECT_FAILED,
    OPEN_RESOURCE_SHORTAGE,
    OpenRefused,
)
from rtunnel.naming import Target


def not_allowed(user: str, target: Target) -> OpenRefused:
    """No rule lets this user reach that target."""
    return OpenRefused(
        OPEN_ADMINISTRATIVELY_PROHIBITED,
        f"{user} is not allowed to reach {target}; ask the proxy's operator",
    )


def unknown_cluster(cluster: str, known: Collection[str]) -> OpenRefused:
    """No agent of such a cluster was ever seen.

    :param known: clusters that this user may reach, for "did you mean".
    """
    near = difflib.get_close_matches(cluster, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return OpenRefused(
        OPEN_ADMINISTRATIVELY_PROHIBITED, f"there is no cluster {cluster!r}{hint}"
    )


def offline(cluster: str) -> OpenRefused:
    """The cluster is known, but no agent of it holds a tunnel to this proxy."""
    return OpenRefused(
        OPEN_CONNECT_FAILED,
        f"cluster {cluster!r} is offline: none of its agents has a tunnel here",
    )


def no_answer(cluster: str, seconds: float) -> OpenRefused:
    """An agent took the dial and did not answer in time."""
    return OpenRefused(
        OPEN_CONNECT_FAILED,
        f"the agent of cluster {cluster!r} did not answer within {seconds:g} seconds",
    )


def tunnel_lost(cluster: str) -> OpenRefused:
    """The tunnel broke while the dial was under way."""
    return OpenRefused(
        OPEN_CONNECT_FAILED,
        f"the tunnel to cluster {cluster!r} broke while connecting; try again",
    )


def local_not_listed(target: Target) -> OpenRefused:
    """The target is on the proxy's own side, and ``[local] allow`` lacks it."""
    return OpenRefused(
        OPEN_ADMINISTRATIVELY_PROHIBITED,
        f"{target} is not in this proxy's [local] allow list",
    )


def draining() -> OpenRefused:
    """The proxy is going down and takes nothing new."""
    return OpenRefused(
        OPEN_RESOURCE_SHORTAGE,
        "this proxy is shutting down; connect again to reach another one",
    )
