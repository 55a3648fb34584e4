"""The authorized_keys file: who is let in, and which lines are not used and why."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import AuthenticationRefused
from rtunnel.trust.authorized_keys import AuthorizedKey, AuthorizedKeys
from rtunnel.wire.keys import ECDSA_P256, ED25519, RSA, SK_ED25519
from tests.trust.test_revocation import listed_user, user
from tests.wire.examples import (
    KEY_TYPES,
    NOW,
    SecurityKey,
    private_key,
    require_program,
    ssh_keygen,
)

KEY = private_key(ED25519).public
LINE = KEY.to_openssh("alice")
SOURCE = "192.0.2.1"


class ParsingTests(SynchronousTestCase):
    """One line, one person; or one problem."""

    def entry(self, text: str) -> AuthorizedKey:
        """The only line of a file, which has to be usable."""
        parsed = AuthorizedKeys.parse(text)
        self.assertEqual(parsed.problems, ())
        (entry,) = parsed.keys
        return entry

    def problem(self, text: str) -> str:
        """The only problem of a file without any usable line."""
        parsed = AuthorizedKeys.parse(text)
        self.assertEqual(parsed.keys, ())
        (problem,) = parsed.problems
        self.assertTrue(problem.isprintable(), problem)
        return problem

    def test_the_comment_is_the_name(self) -> None:
        """For every kind of key."""
        keys = [private_key(key_type).public for key_type in KEY_TYPES]
        for key in (*keys, SecurityKey(SK_ED25519).public):
            entry = self.entry(key.to_openssh("alice@example.com") + "\n")
            self.assertEqual((entry.key, entry.name), (key, "alice@example.com"))
            self.assertIsNone(entry.sources)
            self.assertIsNone(entry.expires)

    def test_blank_lines_and_comments_are_passed_over(self) -> None:
        """And lines are numbered as an editor shows them."""
        entry = self.entry(f"\n# {LINE}\n  \t\n\t#x\r\n  {LINE}\r\n")
        self.assertEqual(entry.line, 5)

    def test_an_empty_file_knows_nobody(self) -> None:
        """And has no problem."""
        self.assertEqual(AuthorizedKeys.parse(""), AuthorizedKeys())

    def test_a_key_without_a_name_is_not_used(self) -> None:
        """There is nothing that a rule could speak of."""
        self.assertIn("no comment", self.problem(KEY.to_openssh()))

    def test_a_comment_that_is_no_name_is_not_used(self) -> None:
        """Names have no spaces, and nothing that ssh expands."""
        for comment in ("Alice Example", "%h", "\x1b[2J", "-alice"):
            self.assertIn("not a user name", self.problem(KEY.to_openssh(comment)))

    def test_the_problem_names_the_line(self) -> None:
        """Other lines are used nevertheless."""
        parsed = AuthorizedKeys.parse(f"nonsense\n{LINE}\nssh-dss AAAA bob\n")
        self.assertEqual([entry.line for entry in parsed.keys], [2])
        first, second = parsed.problems
        self.assertTrue(first.startswith("line 1: "), first)
        self.assertTrue(second.startswith("line 3: "), second)
        self.assertIn("ssh-dss", second)

    def test_what_is_no_key_is_not_used(self) -> None:
        """Cut lines, wrong base64, a certificate, text behind options."""
        for line in (
            "ssh-ed25519",
            "ssh-ed25519 AAAA",
            LINE.replace("ssh-ed25519 ", "ssh-rsa "),
            "ssh-ed25519-cert-v01@openssh.com AAAA alice",
            "no-pty",
            f'from="192.0.2.1 {LINE}',
            f'"{LINE}',
            "no-pty nonsense",
        ):
            self.problem(line)

    def test_harmless_options_are_accepted(self) -> None:
        """They speak of what rtunnel grants to nobody; case does not matter."""
        for options in (
            "no-pty",
            "no-X11-forwarding,no-agent-forwarding,no-user-rc",
            "NO-PTY,pty,X11-forwarding,agent-forwarding,user-rc",
            "restrict,port-forwarding",
            "no-port-forwarding,port-forwarding",
        ):
            self.assertEqual(self.entry(f"{options} {LINE}").name, "alice")

    def test_a_line_that_forbids_forwarding_is_not_used(self) -> None:
        """Forwarding is all that rtunnel does; the last word on it counts."""
        for options in (
            "restrict",
            "restrict,pty",
            "no-port-forwarding",
            "port-forwarding,restrict",
        ):
            self.assertIn("forbid port forwarding", self.problem(f"{options} {LINE}"))

    def test_options_that_cannot_be_honoured_make_a_line_unusable(self) -> None:
        """Known, unknown, and known ones with or without a value against the rule."""
        for options in (
            'command="/bin/true"',
            "cert-authority",
            'principals="alice"',
            'permitopen="host:22"',
            'permitlisten="8080"',
            'environment="A=b"',
            'tunnel="0"',
            "verify-required",
            "no-touch-required",
            "no-such-option",
            "from",
            "expiry-time",
            'no-pty="x"',
            'restrict="x"',
        ):
            line = f"no-agent-forwarding,{options} {LINE}"
            self.assertIn("cannot be honoured", self.problem(line))

    def test_common_options_come_with_advice(self) -> None:
        """The problem says what to do instead."""
        self.assertIn("[[allow]]", self.problem(f'permitopen="host:22" {LINE}'))
        self.assertIn("user CA file", self.problem(f"cert-authority {LINE}"))

    def test_an_option_given_twice_makes_a_line_unusable(self) -> None:
        """Which of the two is meant, nobody knows."""
        line = f'from="192.0.2.1",FROM="*" {LINE}'
        self.assertIn("given twice", self.problem(line))

    def test_malformed_options_make_a_line_unusable(self) -> None:
        """Commas and quotes have to be in their places."""
        for options in (
            ",no-pty",
            "no-pty,",
            "no-pty,,pty",
            "from=192.0.2.1",
            'from="192.0.2.1"x',
            'from="192.0.2.1"from="*"',
            'from=""192.0.2.1"',
            "no_pty",
            "no-pty=",
        ):
            self.problem(f"{options} {LINE}")

    def test_quoted_values_may_hold_spaces_commas_and_quotes(self) -> None:
        """They end at the first quote without a backslash."""
        for value in ("a b", "a,no-pty", r"a \" b", "a\\\\b", "a#b"):
            problem = self.problem(f'command="{value}",no-pty {LINE}')
            self.assertIn("the option command cannot be honoured", problem)

    def test_from_is_read_and_has_to_be_well_formed(self) -> None:
        """A list that cannot be honoured makes the line unusable."""
        entry = self.entry(f'from="192.0.2.0/24,!192.0.2.9" {LINE}')
        self.assertIsNotNone(entry.sources)
        for value in ("", "*.example.com", "192.0.2.1/24", "192.0.2.1, ::1"):
            self.problem(f'from="{value}" {LINE}')

    def test_expiry_time_with_z_is_utc(self) -> None:
        """To the day, the minute or the second."""
        for value, expires in (
            ("20270115Z", 1_799_971_200),
            ("202701150800Z", 1_800_000_000),
            ("20270115080001Z", 1_800_000_001),
        ):
            entry = self.entry(f'expiry-time="{value}" {LINE}')
            self.assertEqual(entry.expires, expires)

    def test_expiry_time_without_z_is_local_time(self) -> None:
        """As for sshd: in the zone of the machine."""
        zone = os.environ.get("TZ")
        self.addCleanup(self.set_zone, zone)
        self.set_zone("XXX-02:00")
        entry = self.entry(f'expiry-time="202701151000" {LINE}')
        self.assertEqual(entry.expires, 1_800_000_000)

    def set_zone(self, zone: str | None) -> None:
        """Put this process into a time zone; None for that of the machine."""
        if zone is None:
            os.environ.pop("TZ", None)
        else:
            os.environ["TZ"] = zone
        time.tzset()

    def test_an_expiry_time_that_is_none_makes_a_line_unusable(self) -> None:
        """Forever is not what was meant."""
        for value in (
            "",
            "tomorrow",
            "2027",
            "20271301Z",
            "20270230",
            "2027011525Z",
            "202701152500Z",
            "20270115080060000",
            "20270115z",
            "00000101Z",
            "+2w",
        ):
            self.assertIn("expiry-time", self.problem(f'expiry-time="{value}" {LINE}'))

    @given(
        st.lists(
            st.sampled_from(
                (
                    *("from", "=", '"', "\\", ",", " ", "restrict", "*", "no-pty"),
                    *("#", LINE, "ssh-ed25519", "alice", "\n", "\t", "\0"),
                    *("expiry-time", "20300101"),
                )
            ),
            max_size=12,
        ).map("".join)
    )
    @settings(deadline=None, max_examples=200)
    def test_any_text_gives_keys_or_problems(self, text: str) -> None:
        """Each line that is not blank or a comment gives just one of the two."""
        parsed = AuthorizedKeys.parse(text)
        lines = [line.strip() for line in text.split("\n")]
        wanted = [line for line in lines if line and not line.startswith("#")]
        self.assertEqual(len(parsed.keys) + len(parsed.problems), len(wanted))


class LookupTests(SynchronousTestCase):
    """Whom a file lets in, from where, until when."""

    def refusal(self, text: str, source: str = SOURCE, now: float = NOW) -> str:
        """The reason for which the key is refused."""
        parsed = AuthorizedKeys.parse(text)
        error = self.assertRaises(
            AuthenticationRefused, parsed.lookup, KEY, source, now
        )
        return str(error)

    def found(self, text: str, source: str = SOURCE, now: float = NOW) -> int:
        """The number of the line that lets the key in."""
        return AuthorizedKeys.parse(text).lookup(KEY, source, now).line

    def test_a_listed_key_is_let_in(self) -> None:
        """Among others."""
        others = [private_key(t).public.to_openssh("bob") for t in (RSA, ECDSA_P256)]
        self.assertEqual(self.found("\n".join([*others, LINE])), 3)

    def test_a_key_not_listed_is_refused(self) -> None:
        """By fingerprint; a line that is not used does not list it."""
        reason = f"key {KEY.fingerprint}: not in authorized_keys"
        self.assertEqual(self.refusal(""), reason)
        self.assertEqual(self.refusal(private_key(RSA).public.to_openssh("a")), reason)
        self.assertEqual(self.refusal(f'command="x" {LINE}'), reason)

    def test_from_binds_a_key_to_addresses(self) -> None:
        """IPv4 inside IPv6 is IPv4, and what is no address is nowhere."""
        line = f'from="192.0.2.0/24,2001:db8::/32,!192.0.2.9" {LINE}'
        for source in ("192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1"):
            self.assertEqual(self.found(line, source), 1)
        for source in ("192.0.3.1", "192.0.2.9", "::ffff:192.0.2.9", "::1", "", "x"):
            self.assertIn(
                "line 1 of authorized_keys does not allow", self.refusal(line, source)
            )

    def test_an_expired_line_is_refused(self) -> None:
        """From the second that it names."""
        line = f'expiry-time="202701150800Z" {LINE}'
        self.assertEqual(self.found(line, now=NOW - 0.5), 1)
        self.assertIn("line 1 of authorized_keys has expired", self.refusal(line))

    def test_the_first_line_that_lets_a_key_in_counts(self) -> None:
        """One line's limits do not close another's."""
        text = (
            f'from="10.0.0.0/8" {KEY.to_openssh("a")}\n'
            f'expiry-time="20200101Z" {KEY.to_openssh("b")}\n'
            f"{KEY.to_openssh('c')}\n{KEY.to_openssh('d')}\n"
        )
        self.assertEqual(self.found(text), 3)
        self.assertEqual(self.found(text, "10.0.0.1"), 1)

    def test_the_reason_is_that_of_the_first_line(self) -> None:
        """Of those with the key."""
        text = f'from="10.0.0.1" {LINE}\nexpiry-time="20200101Z" {LINE}\n'
        self.assertIn("line 1 of authorized_keys does not allow", self.refusal(text))


class ReasonAgainstTests(SynchronousTestCase):
    """People who were let in, and a file that has changed since."""

    def reason(self, *lines: str, **fields: Any) -> str | None:
        """What a file says against alice, who came with a key from SOURCE."""
        alice = attrs.evolve(listed_user("alice", KEY), source=SOURCE, **fields)
        return AuthorizedKeys.parse("\n".join(lines)).reason_against(alice, NOW)

    def test_line_that_lets_them_in_says_nothing(self) -> None:
        """Wherever it is now."""
        self.assertIsNone(self.reason("# people", "", LINE))

    def test_line_that_is_gone_or_lets_others_in_does(self) -> None:
        """Saying which line, and what it says now."""
        self.assertIn("not in authorized_keys", self.reason() or "")
        self.assertIn("line 1", self.reason(f'from="192.0.2.9" {LINE}') or "")
        self.assertIn("line 1", self.reason(f'expiry-time="20010101Z" {LINE}') or "")
        renamed = self.reason("#", KEY.to_openssh("bob"))
        self.assertIn("line 2 of authorized_keys says bob now", renamed or "")

    def test_end_that_was_known_is_no_change(self) -> None:
        """Who is over by then is another matter."""
        ended = self.reason(f'expiry-time="20010101Z" {LINE}', valid_before=NOW)
        self.assertIsNone(ended)

    def test_who_has_a_certificate_does_not_stand_on_the_file(self) -> None:
        """Though it were of the same key."""
        self.assertIsNone(AuthorizedKeys().reason_against(user(), NOW))


class SshKeygenTests(SynchronousTestCase):
    """Files as people make them."""

    def test_public_key_files_of_ssh_keygen_can_be_put_together(self) -> None:
        """``cat *.pub >> authorized_keys`` is all that it takes."""
        require_program("ssh-keygen")
        directory = Path(self.mktemp())
        directory.mkdir()
        text = ""
        for name, arguments in (
            ("alice", ("ed25519",)),
            ("bob@example.com", ("ecdsa",)),
            ("carol", ("rsa", "-b", "2048")),
        ):
            path = directory / name
            code, output = ssh_keygen(
                "-q", "-t", *arguments, "-N", "", "-C", name, "-f", path
            )
            self.assertEqual(code, 0, output)
            text += (directory / f"{name}.pub").read_text("ascii")
        parsed = AuthorizedKeys.parse(text)
        self.assertEqual(parsed.problems, ())
        self.assertEqual(
            [entry.name for entry in parsed.keys], ["alice", "bob@example.com", "carol"]
        )
