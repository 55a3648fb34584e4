"""Which dial has the claim on a proxy, and which is to take it over. Pure."""

from __future__ import annotations

from typing import Final

from rtunnel.discovery.tracker import Tracker

#: Dials in vain that are to replace a tunnel, before it is kept as it is.
MAX_REPLACEMENTS: Final = 5


class Succession:
    """The dials behind the claims of a tracker.

    A proxy has one *owner*, the dial whose claim stands. While its tunnel is made anew
    it may have a *successor* as well, which takes the claim over when it is in service,
    or when the owner's tunnel is gone.

    :param tracker: is told what becomes of the claims.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        #: All by the id of the proxy: numbers of dials, and failures.
        self._owners: dict[str, int] = {}
        self._successors: dict[str, int] = {}
        self._failures: dict[str, int] = {}

    def granted(self, proxy_id: str, number: int) -> None:
        """A dial was granted a claim."""
        taken = proxy_id in self._owners
        (self._successors if taken else self._owners)[proxy_id] = number

    def owns(self, proxy_id: str, number: int) -> bool:
        """Whether a dial has the claim."""
        return self._owners.get(proxy_id) == number

    def replaced_by(self, proxy_id: str, number: int) -> int | None:
        """The number of the dial that this one is to take the claim over from."""
        if self._successors.get(proxy_id) != number:
            return None
        return self._owners[proxy_id]

    def in_service(self, proxy_id: str, number: int) -> int | None:
        """A dial's tunnel is in service.

        :returns: the number of the dial that it has replaced.
        """
        self._tracker.serve(proxy_id)
        replaced = self.replaced_by(proxy_id, number)
        if replaced is not None:
            del self._successors[proxy_id]
            self._failures.pop(proxy_id, None)
            self._owners[proxy_id] = number
        return replaced

    def make_anew(self, proxy_id: str) -> None:
        """The tunnel to a proxy is to be replaced."""
        self._failures.pop(proxy_id, None)
        self._tracker.make_anew(proxy_id)

    def ended(self, proxy_id: str, number: int, now: float) -> bool:
        """Nothing has come of a dial, or its tunnel is gone.

        :returns: False when another one had taken its place already.
        """
        if self._successors.get(proxy_id) == number:
            del self._successors[proxy_id]
            self._tracker.replacement_failed(proxy_id)
            self._failures[proxy_id] = self._failures.get(proxy_id, 0) + 1
            if self._failures[proxy_id] >= MAX_REPLACEMENTS:
                self._tracker.keep(proxy_id)
            return True
        if not self.owns(proxy_id, number):
            return False
        successor = self._successors.pop(proxy_id, None)
        if successor is None:
            del self._owners[proxy_id]
            self._tracker.release(proxy_id, now)
        else:
            self._owners[proxy_id] = successor
            self._tracker.succeed(proxy_id)
        return True
