"""Whose certificates have logged people in here: nobody keeps a list of all that there
are, and who exchanges the user authority has to know which ones would be good no more.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import attrs

from rtunnel.trust.identity import Identity, UserIdentity
from rtunnel.wire.certificate import FOREVER
from rtunnel.wire.keys import PublicKey

#: People that are remembered for each key of the authority; then those who have not
#: come for the longest time are forgotten.
MAX_PEOPLE: Final = 10_000


@attrs.frozen
class SeenPerson:
    """Somebody who has logged in by certificate.

    :param valid_before: POSIX time when the last such certificate ends.
    """

    name: str
    valid_before: int


class PeopleSeen:
    """Who has logged in at this proxy since it started, and with what.

    :param now: wall clock, seconds since the epoch.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._ends: OrderedDict[tuple[PublicKey, str], int] = OrderedDict()

    def saw(self, identity: Identity) -> None:
        """Somebody has logged in."""
        if not isinstance(identity, UserIdentity) or identity.certificate is None:
            return
        certificate = identity.certificate
        key = certificate.ca_key, identity.name
        self._ends[key] = max(certificate.valid_before, self._ends.get(key, 0))
        self._ends.move_to_end(key)
        if len(self._ends) > MAX_PEOPLE:
            self._ends.popitem(last=False)

    def not_by(self, signs: PublicKey) -> tuple[SeenPerson, ...]:
        """Those with a certificate that is still good, and of another key than this;
        not those who have come with one of this key as well.

        :param signs: the authority's key that signs now.
        """
        now = self._now()
        for key in [key for key, end in self._ends.items() if _is_over(end, now)]:
            del self._ends[key]
        newer = {name for authority, name in self._ends if authority == signs}
        people: dict[str, int] = {}
        for (_, name), end in self._ends.items():
            if name not in newer:
                people[name] = max(end, people.get(name, 0))
        return tuple(SeenPerson(name, people[name]) for name in sorted(people))


def _is_over(end: int, now: float) -> bool:
    return end != FOREVER and end <= now
