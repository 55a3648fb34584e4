"""The status document: what ``rtunnel status --json`` prints.

Pure: made from records and snapshots. See docs/operations.md, "Admin socket".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rtunnel.registry.records import ProxyRecord, TunnelRecord
from rtunnel.timestamps import rfc3339


def status_document(
    own: ProxyRecord,
    proxies: Iterable[ProxyRecord],
    tunnels: Iterable[TunnelRecord],
    known_clusters: Iterable[str],
    visible: Callable[[str], bool] = lambda cluster: True,
) -> dict[str, Any]:
    """The document, with the tunnels of every proxy.

    :param proxies: all of them, the own one among them or not.
    :param tunnels: of all proxies; those of proxies that are not listed are left out,
        for they died with them.
    :param visible: whether a cluster is shown.
    """
    by_id = {own.id: own} | {p.id: p for p in proxies if p.id != own.id}
    by_cluster: dict[str, list[TunnelRecord]] = {name: [] for name in known_clusters}
    for tunnel in tunnels:
        if tunnel.proxy in by_id:
            by_cluster.setdefault(tunnel.cluster, []).append(tunnel)
    return {
        "proxy": _proxy(own),
        "proxies": [_proxy(by_id[key]) for key in sorted(by_id)],
        "clusters": [
            {
                "name": name,
                "online": bool(by_cluster[name]),
                "tunnels": [
                    _tunnel(t)
                    for t in sorted(by_cluster[name], key=lambda t: (t.proxy, t.agent))
                ],
            }
            for name in sorted(by_cluster)
            if visible(name)
        ],
    }


def _proxy(record: ProxyRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.name,
        "state": record.state,
        "addresses": list(record.addresses),
        "since": rfc3339(record.started, "seconds"),
    }


def _tunnel(record: TunnelRecord) -> dict[str, Any]:
    return {
        "proxy": record.proxy,
        "agent": record.agent,
        "since": rfc3339(record.since, "seconds"),
        "rtt_seconds": record.rtt_seconds,
        "channels": record.channels,
    }
