"""Options that several verbs take."""

from __future__ import annotations

import os
from pathlib import Path

import click
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.cli.options import (
    DIRECTORY,
    FILE,
    MAX_DURATION,
    cluster_name,
    dial_address,
    duration,
    proxy_name,
    user_name,
)
from rtunnel.config import Address


class DurationTests(SynchronousTestCase):
    """How long a certificate is valid."""

    def test_reads_numbers_with_units(self) -> None:
        """Several are added up."""
        for text, seconds in (
            ("90s", 90),
            ("30m", 1800),
            ("8h", 28800),
            ("7d", 604800),
            ("52w", 31449600),
            ("1d12h", 129600),
        ):
            self.assertEqual(duration(text), seconds)

    def test_refuses_everything_else(self) -> None:
        """A number without a unit could mean anything."""
        for text in ("", "8", "h", "8 h", "-8h", "1.5h", "8y", "8H", "٣h", "8h "):
            error = self.assertRaises(click.BadParameter, duration, text)
            self.assertIn("as in 8h", error.message)

    def test_is_at_least_a_second_and_at_most_ten_years(self) -> None:
        """520 weeks are the limit."""
        self.assertEqual(duration("520w"), MAX_DURATION)
        for text in ("0s", "0d0h", "520w1s", "999999999w"):
            error = self.assertRaises(click.BadParameter, duration, text)
            self.assertIn("not between", error.message)


class NameTests(SynchronousTestCase):
    """Names of clusters, people and proxies, and addresses."""

    def test_takes_what_is_well_formed(self) -> None:
        """And hands it on as it is."""
        self.assertEqual(cluster_name("b-1"), "b-1")
        self.assertEqual(user_name("alice@example.com"), "alice@example.com")
        self.assertEqual(proxy_name("proxy-2.example"), "proxy-2.example")
        self.assertEqual(dial_address("lb:22"), Address("lb", 22))

    def test_refuses_what_is_not(self) -> None:
        """A dot in a cluster, a percent sign in a user, a space in a proxy."""
        for check, text in (
            (cluster_name, "b.c"),
            (cluster_name, "B"),
            (user_name, "al%ice"),
            (user_name, ""),
            (user_name, "*"),
            (proxy_name, "proxy 2"),
            (proxy_name, "../x"),
            (dial_address, "lb:0"),
            (dial_address, ""),
        ):
            self.assertRaises(click.BadParameter, check, text)


class DirectoryTests(SynchronousTestCase):
    """State directories."""

    def test_one_of_somebody_else_is_no_wrong_usage(self) -> None:
        """The file in it that cannot be opened is named later, with advice."""
        self.patch(os, "access", lambda path, mode: False)
        self.assertEqual(DIRECTORY.convert(os.curdir, None, None), Path(os.curdir))

    def test_a_file_is_none(self) -> None:
        """That is."""
        path = self.mktemp()
        Path(path).touch()
        self.assertRaises(click.BadParameter, DIRECTORY.convert, path, None, None)


class EmptyPathTests(SynchronousTestCase):
    """What a variable of a script becomes that is not set."""

    def test_it_is_not_the_current_directory(self) -> None:
        """Neither as a directory nor as a file."""
        for kind in (DIRECTORY, FILE):
            error = self.assertRaises(click.BadParameter, kind.convert, "", None, None)
            self.assertIn("is empty", error.message)
