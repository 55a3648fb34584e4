"""Names at the door, and strangers' text made safe to print."""

from __future__ import annotations

import contextlib

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import InvalidName
from rtunnel.naming import (
    MAX_HOST_LENGTH,
    MAX_PRINTED,
    Target,
    check_cluster,
    check_user,
    parse_target,
    printable,
)

modest = settings(deadline=None, max_examples=200)


class ClusterTests(SynchronousTestCase):
    """``[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?``, no dots."""

    def test_cluster_names_are_accepted(self) -> None:
        """Up to 63 characters."""
        for name in ("a", "0", "a-b", "shop-17", "xn--bcher-kva", "a" * 63):
            self.assertEqual(check_cluster(name), name)

    def test_other_names_are_refused(self) -> None:
        """Dots, capitals, edges, lengths, and digits of other scripts."""
        for name in (
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "a_b",
            "a b",
            "a\n",
            "\u0661",
            "a" * 64,
            "%h",
        ):
            with self.assertRaises(InvalidName):
                check_cluster(name)


class UserTests(SynchronousTestCase):
    """People's names, as key ids, principals and comments give them."""

    def test_user_names_are_accepted(self) -> None:
        """Up to 128 characters."""
        for name in ("alice", "Alice", "alice@example.com", "_x", "a+b-c.d", "a" * 128):
            self.assertEqual(check_user(name), name)

    def test_what_ssh_or_a_shell_would_expand_is_refused(self) -> None:
        """And what would break a line of a log or a list."""
        for name in (
            "",
            "%h",
            "a%b",
            "$(id)",
            "`id`",
            "a;b",
            "a b",
            "a,b",
            "a/b",
            "-a",
            ".a",
            "@a",
            "*",
            "a\n",
            "a\0",
            "\u00e9",
            "a" * 129,
        ):
            with self.assertRaises(InvalidName):
                check_user(name)


class TargetTests(SynchronousTestCase):
    """``host.cluster``: the last label is the cluster."""

    def test_the_last_label_is_the_cluster(self) -> None:
        """The rest is the host, as that cluster's agent resolves it."""
        for name, host, cluster in (
            ("web1.b", "web1", "b"),
            ("b", "", "b"),
            ("10.0.0.5.b", "10.0.0.5", "b"),
            ("db.internal.example.b", "db.internal.example", "b"),
            ("::1.b", "::1", "b"),
            ("fe80::1.b", "fe80::1", "b"),
            ("my_host.b", "my_host", "b"),
        ):
            self.assertEqual(parse_target(name, 22), Target(host, cluster, 22))

    def test_a_trailing_dot_is_the_root_of_dns(self) -> None:
        """One is allowed, two are not."""
        self.assertEqual(parse_target("web1.b.", 22), Target("web1", "b", 22))
        with self.assertRaises(InvalidName):
            parse_target("web1.b..", 22)

    def test_the_case_of_a_cluster_does_not_matter(self) -> None:
        """DNS names have none; the host's is kept for the agent."""
        self.assertEqual(parse_target("Web1.B", 22), Target("Web1", "b", 22))

    def test_what_cannot_be_a_target_is_refused(self) -> None:
        """With a sentence for the client."""
        for name in (
            "",
            ".",
            "..",
            ".b",
            "web1..b",
            "-o.b",
            "web1-.b",
            "web1.-b",
            "web1.b_c",
            "we b.b",
            "%h.b",
            "a;b.b",
            "web1.b\n",
            "web1\0.b",
            "w\u00e9b.b",
            "[::1].b",
        ):
            with self.assertRaises(InvalidName) as caught:
                parse_target(name, 22)
            self.assertTrue(str(caught.exception).isprintable())

    def test_a_name_over_255_characters_is_refused(self) -> None:
        """The limit is itself allowed."""
        name = "h" * (MAX_HOST_LENGTH - 2) + ".b"
        self.assertEqual(parse_target(name, 22).cluster, "b")
        with self.assertRaisesRegex(InvalidName, "256 characters"):
            parse_target("h" + name, 22)

    def test_ports_are_1_to_65535(self) -> None:
        """A client can ask for any 32 bits."""
        for port in (1, 22, 65535):
            self.assertEqual(parse_target("b", port).port, port)
        for port in (0, -1, 65536, 2**32 - 1):
            with self.assertRaisesRegex(InvalidName, "not a TCP port"):
                parse_target("b", port)

    def test_a_target_is_shown_as_it_was_asked_for(self) -> None:
        """Host and cluster, or the cluster alone."""
        self.assertEqual(str(parse_target("web1.b", 22)), "web1.b:22")
        self.assertEqual(str(parse_target("b.", 2222)), "b:2222")

    @given(st.text("abAB01.-_:%\n", max_size=30), st.integers(1, 65535))
    @example("a.b", 22)
    @modest
    def test_a_target_read_back_is_the_same(self, name: str, port: int) -> None:
        """Whatever is accepted is accepted again, as it is shown."""
        with contextlib.suppress(InvalidName):
            target = parse_target(name, port)
            shown, _, shown_port = str(target).rpartition(":")
            self.assertEqual(parse_target(shown, int(shown_port)), target)
            check_cluster(target.cluster)


class PrintableTests(SynchronousTestCase):
    """One line of a log, whatever a peer sends."""

    def test_plain_text_stays_as_it_is(self) -> None:
        """Letters of any script are text."""
        self.assertEqual(printable("alice @ web1"), "alice @ web1")
        self.assertEqual(printable("B\u00fccher".encode()), "B\u00fccher")

    def test_control_characters_are_escaped(self) -> None:
        """New lines, terminal sequences, text that runs backwards, surrogates."""
        self.assertEqual(printable("a\r\nb"), r"a\r\nb")
        self.assertEqual(printable("\x1b[2J\0"), r"\x1b[2J\x00")
        self.assertEqual(printable("\u202egpj"), r"\u202egpj")
        self.assertEqual(printable("\ud800"), r"\ud800")

    def test_bytes_that_are_not_utf_8_are_shown_as_numbers(self) -> None:
        """Nothing is lost, nothing raises."""
        self.assertEqual(printable(b"a\xffb"), r"a\xffb")

    def test_long_text_is_cut(self) -> None:
        """At 256 characters, or as the caller says, and shown as cut."""
        self.assertEqual(printable("a" * MAX_PRINTED), "a" * MAX_PRINTED)
        self.assertEqual(printable("a" * 257), "a" * 256 + "...")
        self.assertEqual(printable(b"abcdef", limit=3), "abc...")

    @given(st.one_of(st.binary(max_size=2000), st.text(max_size=600)))
    @modest
    def test_the_result_is_one_printable_line_of_bounded_length(
        self, data: str | bytes
    ) -> None:
        """Each character kept becomes ten at most."""
        result = printable(data)
        self.assertTrue(result.isprintable())
        self.assertLessEqual(len(result), 10 * MAX_PRINTED + 3)
