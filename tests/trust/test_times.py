"""Times of the week in rules."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import InvalidName
from rtunnel.trust.times import TimesOfWeek

#: A Monday.
MONDAY = datetime(2026, 11, 23, tzinfo=UTC)


def at(day: int, hour: int = 0, minute: int = 0, zone: str = "UTC") -> float:
    """A time of that week; Monday is day 0."""
    moment = MONDAY + timedelta(days=day)
    return moment.replace(hour=hour, minute=minute, tzinfo=ZoneInfo(zone)).timestamp()


class TimesOfWeekTests(SynchronousTestCase):
    """When a time of the week is."""

    def assert_holds(self, text: str, *moments: float) -> None:
        """It is then, and each moment a week later, too."""
        times = TimesOfWeek.parse(text)
        for moment in moments:
            self.assertTrue(times.holds(moment), datetime.fromtimestamp(moment, UTC))
            self.assertTrue(times.holds(moment + 7 * 86400))

    def assert_not(self, text: str, *moments: float) -> None:
        """It is not then."""
        times = TimesOfWeek.parse(text)
        for moment in moments:
            self.assertFalse(times.holds(moment), f"{text} at {moment}")

    def test_hours_of_some_days(self) -> None:
        """From the first second to the last before the end."""
        text = "mon-fri 08:00-18:00"
        self.assert_holds(text, at(0, 8), at(2, 12, 30), at(4, 18) - 1)
        self.assert_not(text, at(0, 8) - 1, at(0, 18), at(5, 12), at(6, 12))

    def test_days_alone_are_whole_days(self) -> None:
        """In any order, and around the end of the week."""
        self.assert_holds("sat,mon", at(0), at(1) - 1, at(5), at(6) - 1)
        self.assert_not("sat,mon", at(1), at(5) - 1, at(6))
        self.assert_holds("sun-tue", at(6), at(0), at(2) - 1)
        self.assert_not("sun-tue", at(6) - 1, at(2))
        self.assert_holds("mon-wed,wed,sat-sun", at(0), at(2), at(5), at(6))

    def test_hours_alone_are_those_of_every_day(self) -> None:
        """Up to midnight, which may be written as 24:00."""
        self.assert_holds("20:00-24:00", *(at(day + 1) - 1 for day in range(7)))
        self.assert_not("20:00-24:00", at(0), at(3, 19, 59))

    def test_night_counts_for_the_day_it_begins_on(self) -> None:
        """Friday night ends on Saturday morning."""
        text = "fri 22:00-06:00"
        self.assert_holds(text, at(4, 22), at(5), at(5, 5, 59))
        self.assert_not(text, at(4, 5), at(4, 21, 59), at(5, 6), at(5, 22))
        self.assert_holds("sun 23:00-00:30", at(6, 23), at(0, 0, 29))
        self.assert_holds("sun 23:00-00:00", at(6, 23, 59))
        self.assert_not("sun 23:00-00:00", at(0), at(6))

    def test_hours_are_utc_unless_a_zone_is_named(self) -> None:
        """Wherever the proxy runs; daylight saving is the zone's business."""
        text = "mon 08:00-09:00 Europe/Berlin"
        self.assert_holds(text, at(0, 7), at(0, 8, 59, "Europe/Berlin"))
        self.assert_not(text, at(0, 6, 59), at(0, 8))
        summer = at(0, 6) + 30 * 7 * 86400
        self.assert_holds(text, summer)
        self.assert_not(text, summer - 1)
        self.assert_holds("tue America/New_York", at(2, 4, 59))
        self.assert_not("tue America/New_York", at(1, 4, 59))
        self.assert_holds("08:00-09:00 UTC", at(0, 8))

    def test_impossible_clock_is_outside(self) -> None:
        """A rule that cannot be judged grants nothing."""
        self.assert_not("mon-sun", 1e300, -1e300, float("nan"), float("inf"))

    def test_other_texts_are_refused(self) -> None:
        """With what is wrong, or with what would be right."""
        for reason, texts in {
            "is none of": (
                "",
                " ",
                "always",
                "UTC",
                "Mon",
                "mon  08:00-09:00",
                "mon 8:00-9:00",
                "mon 08:00",
                "mon 08:00-09:00 UTC x",
                "mon\n",
                "mon-",
                "mon,",
                "mon ../../etc/passwd",
                "mon /etc/localtime",
                "mon Europe/Berlin\n",
                "mon \u212aolkata",
            ),
            "none of the days": ("mom", "mon-fry", "mon,xyz 08:00-09:00"),
            "00:00 to 24:00": (
                "08:60-09:00",
                "08:00-24:01",
                "24:00-06:00",
                "25:00-26:00",
            ),
            "end when they begin": ("08:00-08:00", "mon 00:00-00:00"),
            "no time zone": ("mon Nowhere/City", "mon Europe", "08:00-09:00 mon"),
        }.items():
            for text in texts:
                with self.assertRaises(InvalidName, msg=text) as caught:
                    TimesOfWeek.parse(text)
                self.assertIn(reason, str(caught.exception), text)

    @settings(deadline=None, max_examples=200)
    @given(st.text(max_size=40) | st.from_regex(r"[a-z,-]{3,9} [0-9:-]{9,11}.*"))
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        """No other error comes of it."""
        try:
            times = TimesOfWeek.parse(text)
        except InvalidName as error:
            self.assertTrue(str(error).isprintable())
            return
        times.holds(at(3, 4))

    @settings(deadline=None, max_examples=200)
    @given(
        st.integers(0, 6),
        st.integers(0, 1439),
        st.integers(0, 1440),
        st.integers(0, 7 * 1440 - 1),
    )
    def test_times_are_the_minutes_between(
        self, day: int, start: int, end: int, minute: int
    ) -> None:
        """The same as counting them."""
        if start == end:
            end += 1
        name = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")[day]
        text = f"{name} {start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02}"
        length = end - start if end > start else end - start + 1440
        begin = day * 1440 + start
        expected = (minute - begin) % (7 * 1440) < length
        holds = TimesOfWeek.parse(text).holds(at(0) + minute * 60)
        self.assertEqual(holds, expected, text)
