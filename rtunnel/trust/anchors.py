"""Whose signatures count: the authorities of the three roles. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from rtunnel.errors import ConfigError
from rtunnel.wire.keys import PublicKey


def _keys(keys: Iterable[PublicKey]) -> frozenset[PublicKey]:
    return frozenset(keys)


@attrs.frozen
class TrustAnchors:
    """The authorities' public keys, by role: one each, more while one is rotated.

    Three authorities, three roles: no key may stand for two of them.

    :param user: may sign people's certificates.
    :param agent: may sign agents' certificates.
    :param host: may sign host certificates, those by which proxies log in at each
        other among them.
    :raises ConfigError: when two roles share a CA key.
    """

    user: frozenset[PublicKey] = attrs.field(default=(), converter=_keys)
    agent: frozenset[PublicKey] = attrs.field(default=(), converter=_keys)
    host: frozenset[PublicKey] = attrs.field(default=(), converter=_keys)

    def __attrs_post_init__(self) -> None:
        shared = (
            (self.user & self.agent)
            | (self.user & self.host)
            | (self.agent & self.host)
        )
        if shared:
            raise ConfigError(
                [
                    f"the key {key.fingerprint} is CA in two roles; host, agent and "
                    "user CA have to be three keys"
                    for key in shared
                ]
            )
