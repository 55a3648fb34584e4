"""Tests for :mod:`rtunnel.counting`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.counting import counted


class CountedTests(SynchronousTestCase):
    """:func:`counted`."""

    def test_one_is_singular_and_everything_else_plural(self) -> None:
        """Nothing and parts of one are, too."""
        for number, said in (
            (0, "0 seconds"),
            (0.5, "0.5 seconds"),
            (1, "1 second"),
            (1.0, "1 second"),
            (1.5, "1.5 seconds"),
            (2, "2 seconds"),
            (10, "10 seconds"),
            (86400.0, "86400 seconds"),
            (12345678, "12345678 seconds"),
        ):
            self.assertEqual(counted(number, "second"), said)

    def test_number_and_word_agree_as_they_are_shown(self) -> None:
        """What is cut off cannot be seen."""
        self.assertEqual(counted(1.0001, "second"), "1 second")
        self.assertEqual(counted(1.001, "second"), "1.001 seconds")

    def test_words_with_a_plural_of_their_own(self) -> None:
        """Also for a verb."""
        self.assertEqual(counted(1, "proxy", "proxies"), "1 proxy")
        self.assertEqual(counted(3, "proxy", "proxies"), "3 proxies")
        self.assertEqual(counted(1, "has", "have"), "1 has")
