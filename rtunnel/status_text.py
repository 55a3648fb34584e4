"""The status document as text for a terminal. Pure.

The same tables for ``rtunnel ls`` and ``rtunnel status``, and for ``ssh PROXY ls``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rtunnel.counting import counted


def clusters_text(status: Mapping[str, Any]) -> str:
    """One line for each cluster: its name, whether it is online, its tunnels."""
    clusters = status["clusters"]
    if not clusters:
        return "no clusters yet: an agent appears here when its tunnel is up\n"
    return table(
        ("CLUSTER", "STATE", "TUNNELS"),
        [
            (
                cluster["name"],
                "online" if cluster["online"] else "offline",
                str(len(cluster["tunnels"])),
            )
            for cluster in clusters
        ],
    )


def status_text(status: Mapping[str, Any]) -> str:
    """Proxies first, then every tunnel of every cluster."""
    names = {proxy["id"]: proxy["name"] for proxy in status["proxies"]}
    own = status["proxy"]["id"]
    proxies = table(
        ("PROXY", "STATE", "ID"),
        [
            (
                proxy["name"] + (" (this)" if proxy["id"] == own else ""),
                proxy["state"],
                proxy["id"],
            )
            for proxy in status["proxies"]
        ],
    )
    rows = [
        (
            cluster["name"],
            names.get(tunnel["proxy"], tunnel["proxy"]),
            tunnel["agent"],
            tunnel["since"],
            _milliseconds(tunnel["rtt_seconds"]),
            str(tunnel["channels"]),
        )
        for cluster in status["clusters"]
        for tunnel in cluster["tunnels"]
    ]
    rows += [
        (cluster["name"], "-", "offline", "-", "-", "-")
        for cluster in status["clusters"]
        if not cluster["tunnels"]
    ]
    proxies += _certificate_text(status)
    if not rows:
        return f"{proxies}\n{clusters_text(status)}{_problems(status)}"
    tunnels = table(("CLUSTER", "PROXY", "AGENT", "SINCE", "RTT", "CHANNELS"), rows)
    return f"{proxies}\n{tunnels}{_problems(status)}"


def _problems(status: Mapping[str, Any]) -> str:
    return _audit_text(status) + _revocation_text(status)


def _certificate_text(status: Mapping[str, Any]) -> str:
    """When the certificate of the proxy that was asked ends, if it says so."""
    end = status["proxy"].get("certificate", {}).get("valid_before")
    return f"\nthis proxy's certificate ends {end}\n" if end else ""


def _audit_text(status: Mapping[str, Any]) -> str:
    """What is wrong with the audit file of the proxy that was asked, if anything is."""
    audit = status.get("audit") or {"lost": 0, "problem": None}
    said = ""
    if audit["problem"] is not None:
        said += f"\naudit: the file cannot be written: {audit['problem']}\n"
    if audit["lost"]:
        lost = counted(audit["lost"], "event was", "events were")
        said += f"\naudit: {lost} lost since the proxy started\n"
    return said


def _revocation_text(status: Mapping[str, Any]) -> str:
    """Why the proxy that was asked may not know of everything that is revoked."""
    revocation = status.get("revocation") or {"problem": None}
    if revocation["problem"] is None:
        return ""
    return (
        f"\nrevocation: what was known last stays in force: {revocation['problem']}\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces apart, one line a row."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in [head, *rows]
    ]
    return "".join(line.rstrip() + "\n" for line in lines)


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"
