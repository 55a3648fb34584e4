"""Tests for :mod:`rtunnel.proxy.beginnings`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import RevocationRefused, RtunnelError
from rtunnel.proxy.beginnings import the_one


class TheOneTests(SynchronousTestCase):
    """:func:`the_one`, of three fruits."""

    def find(self, beginning: str) -> str:
        """The one."""
        return the_one(
            beginning,
            ("apple", "apricot", "pear"),
            str,
            what="a fruit",
            listed_by="rtunnel fruit ls",
            refusal=RevocationRefused,
        )

    def refused(self, beginning: str) -> str:
        """What is said to one that will not do."""
        return str(self.assertRaises(RevocationRefused, self.find, beginning))

    def test_as_much_as_is_unique_will_do(self) -> None:
        """And the whole."""
        self.assertEqual(
            [self.find("p"), self.find("apr"), self.find("apple")],
            ["pear", "apricot", "apple"],
        )

    def test_nothing_is_the_beginning_of_none(self) -> None:
        """Though every text begins with it, also where there is one only."""
        self.assertEqual(
            self.refused(""),
            "the id of a fruit is missing; `rtunnel fruit ls` shows those there are",
        )
        self.assertRaises(
            RtunnelError, the_one, "", ("pear",), str, what="a fruit", listed_by="ls"
        )

    def test_refusals_say_what_was_wrong_and_where_the_ids_are(self) -> None:
        """What was given is made safe to print, and cut."""
        self.assertEqual(
            self.refused("x\n"),
            "x\\n is not the id of a fruit; `rtunnel fruit ls` shows those there are",
        )
        self.assertEqual(
            self.refused("ap"),
            "ap is the beginning of 2 ids; give more of the one that you mean: "
            "`rtunnel fruit ls` shows them",
        )
        self.assertLess(len(self.refused("x" * 1000)), 200)
