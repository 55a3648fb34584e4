"""What of one proxy's config file holds for every proxy of the cluster."""

from __future__ import annotations

import tomllib
from typing import Any

from rtunnel.config.values import ProxyConfig

#: Keys of ``proxy.toml`` that speak of one proxy only.
OWN_KEYS = (
    ("name",),
    ("state",),
    ("ssh", "advertise"),
    ("ssh", "authorized_keys"),
    ("peer", "advertise"),
    ("audit", "path"),
)


def common_settings(first: ProxyConfig) -> dict[str, Any]:
    """What of a proxy's file holds for every proxy, as TOML data.

    :param first: as it was loaded; its file is read again.
    :raises OSError: when the file cannot be read.
    :raises TOMLDecodeError: when it is none any longer.
    """
    data = tomllib.loads(first.path.read_text("utf-8"))
    for *tables, key in OWN_KEYS:
        table = data
        for name in tables:
            table = table.get(name, {})
        table.pop(key, None)
    # Without the key there is no access, and a rendered file would have a first rule.
    data.setdefault("allow", [])
    kind, _, rest = first.registry.url.partition(":")
    if kind == "sqlite":
        url = f"sqlite:{(first.state / rest).resolve()}"
        data["registry"] = data.get("registry", {}) | {"url": url}
    return data
