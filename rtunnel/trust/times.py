"""Times of the week: when a rule holds.

Pure. ``[DAYS] [HH:MM-HH:MM] [ZONE]``, as in ``mon-fri 08:00-18:00 Europe/Berlin``.
DAYS are ``mon`` to ``sun``, ranges of them and commas between; without them it is every
day. Without hours it is the whole day. Hours that end before they begin last until the
next day, and count for the day on which they begin. ZONE is a name of the IANA time
zone database; without one it is UTC, wherever the proxy runs, so that all proxies mean
the same hours.
"""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo

import attrs

from rtunnel.errors import InvalidName
from rtunnel.naming import printable

#: What a time looks like, for error messages.
TIME_FORMS = (
    '"mon-fri 08:00-18:00", "sat,sun", "22:00-06:00" or '
    '"mon 08:00-12:00 Europe/Berlin"; UTC unless it names a zone'
)

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_LIST = re.compile(r"[a-z]{3}(-[a-z]{3})?(,[a-z]{3}(-[a-z]{3})?)*")
_HOURS = re.compile(r"([0-9]{2}):([0-9]{2})-([0-9]{2}):([0-9]{2})")
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,3}")
_WHOLE_DAY = 24 * 60


@attrs.frozen
class TimesOfWeek:
    """One entry of ``times``.

    :param text: as the operator wrote it.
    :param days: on which it begins; Monday is 0.
    :param start: minutes from midnight.
    :param end: minutes from midnight, itself too late; at most ``start`` when it is on
        the next day.
    :param zone: whose midnight.
    """

    text: str
    days: frozenset[int]
    start: int
    end: int
    zone: tzinfo = attrs.field(eq=False)

    @classmethod
    def parse(cls, text: str) -> TimesOfWeek:
        """Read what :data:`TIME_FORMS` shows.

        :raises InvalidName: when it is none of them; the sentence says what is wrong.
        """
        words = text.split(" ")
        days = frozenset(range(7))
        start, end = 0, _WHOLE_DAY
        zone: tzinfo = UTC
        begun = False
        if words and _DAY_LIST.fullmatch(words[0]):
            days = frozenset(_parse_days(words.pop(0)))
            begun = True
        if words and (hours := _HOURS.fullmatch(words[0])):
            words.pop(0)
            start, end = _parse_hours(*map(int, hours.groups()))
            begun = True
        if begun and len(words) == 1 and _ZONE.fullmatch(words[0]):
            zone = _parse_zone(words.pop())
        if words or not begun:
            raise InvalidName(f"{printable(text)!r} is none of {TIME_FORMS}")
        return cls(text, days, start, end, zone)

    def holds(self, now: float) -> bool:
        """Whether ``now`` is inside.

        :param now: POSIX time.
        """
        try:
            local = datetime.fromtimestamp(now, self.zone)
        except (ValueError, OverflowError, OSError):
            return False
        today, minute = local.weekday(), local.hour * 60 + local.minute
        if self.start < self.end:
            return today in self.days and self.start <= minute < self.end
        return (today in self.days and minute >= self.start) or (
            (today - 1) % 7 in self.days and minute < self.end
        )


def _parse_days(text: str) -> Iterator[int]:
    for part in text.split(","):
        first, _, last = part.partition("-")
        day, end = _day(first), _day(last or first)
        yield day
        while day != end:
            day = (day + 1) % 7
            yield day


def _day(name: str) -> int:
    try:
        return _DAYS.index(name)
    except ValueError:
        raise InvalidName(f"{name!r} is none of the days {', '.join(_DAYS)}") from None


def _parse_hours(
    start_hour: int, start_minute: int, end_hour: int, end_minute: int
) -> tuple[int, int]:
    start = start_hour * 60 + start_minute
    end = end_hour * 60 + end_minute
    if max(start_minute, end_minute) > 59 or start >= _WHOLE_DAY or end > _WHOLE_DAY:
        raise InvalidName("hours are from 00:00 to 24:00")
    if start == end:
        raise InvalidName("the hours end when they begin; the whole day has none")
    return start, end


def _parse_zone(name: str) -> tzinfo:
    try:
        return zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        raise InvalidName(
            f"{printable(name)!r} is no time zone of this system's database, as "
            "Europe/Berlin is"
        ) from None
