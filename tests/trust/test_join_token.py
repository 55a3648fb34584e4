"""Tokens, their records, and the line to paste."""

from __future__ import annotations

import contextlib
import json

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import InvalidName, JoinLineError, RegistryError
from rtunnel.trust.join_token import (
    MAX_ADDRESSES,
    MAX_LIFETIME,
    MAX_LINE,
    MAX_USES,
    TOKENS,
    JoinLine,
    TokenRecord,
    hash_of,
    new_token,
)

TOKEN = new_token(lambda count: bytes(range(count)))
RECORD = TokenRecord(
    hash_of(TOKEN), "agent", "b", 1, 1e9, 1e9 + 3600, "shop 7", ("p2.example.com",)
)
LINE = JoinLine(
    "agent",
    "b",
    ("lb.example.com:3023", "tls:lb.example.com:443", "[2001:db8::1]:3023"),
    ("SHA256:" + "a+/" * 14 + "Z",),
    TOKEN,
)

CLUSTERS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
LINES = st.builds(
    JoinLine,
    st.sampled_from(["agent", "proxy"]),
    CLUSTERS,
    st.lists(
        st.from_regex(r"(tls:)?[a-z][a-z0-9.-]{0,30}:[0-9]{1,5}", fullmatch=True),
        min_size=1,
        max_size=4,
    ).map(tuple),
    st.lists(
        st.from_regex(r"SHA256:[A-Za-z0-9+/]{43}", fullmatch=True),
        min_size=1,
        max_size=3,
    ).map(tuple),
    st.binary(min_size=24, max_size=24).map(lambda b: new_token(lambda _: b)),
)


class TokenTests(SynchronousTestCase):
    """The secret itself."""

    def test_a_token_is_made_of_the_given_chance_alone(self) -> None:
        """And of 192 bits of it."""
        self.assertEqual(TOKEN, "rtj-AAECAwQFBgcICQoLDA0ODxAREhMUFRYX")

    def test_no_two_tokens_are_the_same(self) -> None:
        """Nor is one the hash of it, or in it."""
        tokens = {new_token() for _ in range(100)}
        self.assertEqual(len(tokens), 100)
        self.assertNotIn(TOKEN, RECORD.to_json() + RECORD.key)


class RecordTests(SynchronousTestCase):
    """What the registry keeps."""

    def test_a_record_survives_the_registry(self) -> None:
        """Its hash is in the key."""
        self.assertEqual(TokenRecord.from_json(RECORD.key, RECORD.to_json()), RECORD)
        self.assertEqual(RECORD.key, TOKENS + hash_of(TOKEN))
        self.assertTrue(hash_of(TOKEN).startswith(RECORD.id))

    def test_fields_of_a_later_version_are_passed_over(self) -> None:
        """Proxies of two versions share a registry during an upgrade."""
        text = json.dumps(json.loads(RECORD.to_json()) | {"colour": "blue"})
        self.assertEqual(TokenRecord.from_json(RECORD.key, text), RECORD)

    def test_uses_are_counted_down(self) -> None:
        """The last one leaves nothing."""
        twice = attrs.evolve(RECORD, uses=2)
        self.assertEqual(twice.used_once(), RECORD)
        self.assertIsNone(RECORD.used_once())

    def test_it_is_good_until_it_expires(self) -> None:
        """Not a moment longer."""
        self.assertTrue(RECORD.is_good(RECORD.expires - 0.001))
        self.assertFalse(RECORD.is_good(RECORD.expires))

    def test_what_is_malformed_is_refused(self) -> None:
        """Field by field."""
        good = json.loads(RECORD.to_json())
        for wrong in (
            {"kind": "user"},
            {"cluster": "B"},
            {"cluster": None},
            {"uses": 0},
            {"uses": True},
            {"uses": MAX_USES + 1},
            {"created": "now"},
            {"expires": float("nan")},
            {"expires": 10**400},
            {"expires": 1e9 + MAX_LIFETIME + 1},
            {"label": "a\nb"},
            {"label": "x" * 65},
            {"names": "p2"},
            {"names": ["p 2"]},
            {"names": ["p"] * 17},
        ):
            with self.assertRaises(InvalidName, msg=str(wrong)):
                TokenRecord.make(RECORD.hash, good | wrong)
        for value in ("", "[]", "{}", "[" * 10**5):
            with self.assertRaises(RegistryError):
                TokenRecord.from_json(RECORD.key, value)
        with self.assertRaises(RegistryError):
            TokenRecord.from_json(TOKENS + "x", RECORD.to_json())

    @settings(deadline=None, max_examples=100)
    @given(
        st.dictionaries(
            st.sampled_from(["kind", "cluster", "uses", "created", "expires", "names"]),
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        )
    )
    def test_any_json_is_a_record_or_an_error(self, fields: dict[str, object]) -> None:
        """Nothing else is raised."""
        with contextlib.suppress(InvalidName):
            TokenRecord.make(RECORD.hash, json.loads(RECORD.to_json()) | fields)


class LineTests(SynchronousTestCase):
    """What people paste."""

    def test_a_line_is_read_as_it_was_printed(self) -> None:
        """With white space around it, or none."""
        self.assertEqual(JoinLine.parse(f" {LINE}\r\n"), LINE)
        self.assertEqual(
            str(LINE),
            "rtunnel-join=1,kind=agent,cluster=b,at=lb.example.com:3023,"
            "at=tls:lb.example.com:443,at=[2001:db8::1]:3023,"
            f"host-ca={LINE.host_cas[0]},token={TOKEN}",
        )

    @settings(deadline=None, max_examples=100)
    @given(LINES)
    def test_every_line_is_read_as_it_was_printed(self, line: JoinLine) -> None:
        """Whatever is in it."""
        self.assertEqual(JoinLine.parse(str(line)), line)

    @settings(deadline=None, max_examples=200)
    @given(LINES, st.data())
    def test_a_line_that_was_cut_off_is_noticed(
        self, line: JoinLine, data: st.DataObject
    ) -> None:
        """Wherever that is."""
        text = str(line)
        length = data.draw(st.integers(0, len(text) - 1))
        with self.assertRaises(JoinLineError) as caught:
            JoinLine.parse(text[:length])
        self.assertNotIn(line.token[4:], str(caught.exception))

    @settings(deadline=None, max_examples=200)
    @given(st.text() | st.text().map(lambda t: str(LINE) + "," + t))
    def test_any_text_is_a_line_or_an_error(self, text: str) -> None:
        """Nothing else is raised."""
        with contextlib.suppress(JoinLineError):
            JoinLine.parse(text)

    def test_an_error_says_what_is_wrong(self) -> None:
        """In one sentence that never shows the token."""
        text = str(LINE)
        for wrong, said in (
            ("ssh-ed25519 AAAA", "white space"),
            ("ssh-ed25519", "`rtunnel token add` prints"),
            (text.replace("join=1", "join=2"), "another version"),
            (text.replace("kind=agent", "kind=user"), "neither agent nor proxy"),
            (text.replace("cluster=b", "cluster=B"), "names no cluster"),
            (text.replace("cluster=b,", ""), "has no cluster"),
            (text.replace("cluster=b", "cluster=b,cluster=c"), "more than one cluster"),
            (text.replace("host-ca=SHA256", "host-ca=MD5"), "a fingerprint"),
            (text.replace(f"host-ca={LINE.host_cas[0]},", ""), "fingerprints"),
            (text.replace("at=[2001", "at=2001;"), "an address"),
            (text.replace("at=", "to="), "1 to 16 addresses"),
            (text.replace("kind=agent", "at=x,kind=agent"), "paste it unchanged"),
            (text + ",colour=blue", "paste it unchanged"),
            (text[:-1], "no whole token"),
            (text.replace("at=", "at=x," + "at=x," * MAX_ADDRESSES, 1), "addresses"),
            ("x" * (MAX_LINE + 1), "at most"),
        ):
            with self.assertRaises(JoinLineError, msg=wrong) as caught:
                JoinLine.parse(wrong)
            self.assertIn(said, str(caught.exception), wrong)
            self.assertNotIn(TOKEN[4:], str(caught.exception))

    def test_the_token_is_not_shown(self) -> None:
        """A line may be logged by mistake."""
        self.assertNotIn(TOKEN, repr(LINE))
