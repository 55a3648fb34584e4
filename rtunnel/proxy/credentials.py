"""What this proxy is and whom it trusts, at this moment.

Certificates are renewed and authorities rotated while a proxy runs. So nothing keeps
what it has read of the state directory: whoever needs a key, a certificate or an
anchor asks here each time. Connections that are open stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import attrs

from rtunnel.errors import KeyFileError
from rtunnel.ssh.host_key import HostKey
from rtunnel.state_directory import ProxyCredentials
from rtunnel.trust.anchors import TrustAnchors
from rtunnel.trust.bundle import Role
from rtunnel.wire.keys import PublicKey


class LiveCredentials:
    """The present credentials of a proxy.

    :param load: reads and checks the state directory.
    :raises KeyFileError: when a file there cannot be used.
    :raises ConfigError: when one key is authority in two roles.
    """

    def __init__(self, load: Callable[[], ProxyCredentials]) -> None:
        self._load = load
        self._subscribers: dict[object, Callable[[], None]] = {}
        self._take(load())

    def _take(self, credentials: ProxyCredentials) -> None:
        self._anchors = TrustAnchors(
            host=credentials.host_cas,
            agent=credentials.agent_cas,
            user=credentials.user_cas,
        )
        self._present = credentials
        self._host_keys = (HostKey(credentials.key, credentials.certificate),)

    @property
    def present(self) -> ProxyCredentials:
        """As they are now; do not keep them."""
        return self._present

    @property
    def proxy_id(self) -> str:
        """The UUID of this proxy; it stays."""
        return self._present.proxy_id

    @property
    def anchors(self) -> TrustAnchors:
        """The authorities that are trusted now."""
        return self._anchors

    def host_keys(self) -> Sequence[HostKey]:
        """What to prove ourselves with to whoever connects now."""
        return self._host_keys

    def reload(self) -> bool:
        """Read the state directory again.

        :return: whether anything is different.
        :raises KeyFileError: when a file cannot be used, or the certificate is another
            proxy's; nothing changes then.
        :raises ConfigError: when one key is authority in two roles; likewise.
        """
        before, credentials = self._present, self._load()
        if credentials.proxy_id != before.proxy_id:
            raise KeyFileError(
                f"the host certificate is now that of proxy {credentials.proxy_id}, "
                f"but this is {before.proxy_id}; restart the proxy to be another one"
            )
        if credentials == before:
            return False
        self._take(credentials)
        self._tell()
        return True

    def check_trust(self, role: Role, keys: Collection[PublicKey]) -> None:
        """Check that keys could be those of an authority.

        :raises ConfigError: when one of them is authority in another role.
        """
        self._with(role, keys)

    def trust(self, role: Role, keys: Collection[PublicKey]) -> None:
        """Trust other keys in a role, whatever that means for our own certificate.

        :raises ConfigError: when one of them is authority in another role.
        """
        credentials, anchors = self._with(role, keys)
        if anchors != self._anchors:
            self._present, self._anchors = credentials, anchors
            self._tell()

    def _with(
        self, role: Role, keys: Collection[PublicKey]
    ) -> tuple[ProxyCredentials, TrustAnchors]:
        changes: dict[str, Any] = {f"{role}_cas": tuple(keys)}
        anchors: dict[str, Any] = {role: keys}
        return (
            attrs.evolve(self._present, **changes),
            attrs.evolve(self._anchors, **anchors),
        )

    def _tell(self) -> None:
        for token, callback in list(self._subscribers.items()):
            if token in self._subscribers:
                callback()

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Be told when anything is different.

        :return: call it to be told no more.
        """
        token = object()
        self._subscribers[token] = callback
        return lambda: self._subscribers.pop(token, None) and None
