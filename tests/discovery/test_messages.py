"""The messages of the control channel."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.discovery import messages, trust_messages
from rtunnel.discovery.messages import (
    DiscoveryRequest,
    Drain,
    Heartbeat,
    Hello,
    Message,
    ProxyAdvert,
    decode,
    encode,
)
from rtunnel.errors import MessageError, UnknownMessage
from tests.discovery import examples
from tests.discovery.examples import advert, proxy_id

NAMES = [b"hello", b"heartbeat", b"discovery", b"drain", *trust_messages.READERS]

#: Any JSON at all.
any_json: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def payload(**fields: object) -> bytes:
    """A message's JSON."""
    return json.dumps(fields).encode()


class RoundTripTests(SynchronousTestCase):
    """What is encoded is decoded again."""

    @settings(deadline=None, max_examples=200)
    @given(examples.messages)
    def test_message_survives_the_wire(self, message: Message) -> None:
        """Every message that can be made comes back equal."""
        self.assertEqual(decode(*encode(message)), message)

    def test_fields_are_named_as_the_protocol_says(self) -> None:
        """The JSON is the one of docs/protocol.md, to the letter."""
        adverts = (advert(1, addresses=("p1.example.com:3023",), ttl=15.0),)
        name, data = encode(DiscoveryRequest(adverts, 5.0))
        self.assertEqual(name, b"discovery")
        self.assertEqual(
            json.loads(data),
            {
                "proxies": [
                    {
                        "id": proxy_id(1),
                        "addresses": ["p1.example.com:3023"],
                        "generation": 1,
                        "state": "active",
                        "ttl": 15.0,
                    }
                ],
                "resend": 5.0,
            },
        )

    def test_largest_discovery_request_fits(self) -> None:
        """64 proxies with an ordinary address each are one message."""
        adverts = [
            advert(n, addresses=(f"proxy-{n}.example.com:3023",))
            for n in range(messages.MAX_PROXIES)
        ]
        _, data = encode(DiscoveryRequest(tuple(adverts), 5.0))
        self.assertLess(len(data), messages.MAX_PAYLOAD)

    def test_fields_of_newer_peers_are_passed_over(self) -> None:
        """A message may say more than we understand."""
        self.assertEqual(
            decode(b"heartbeat", payload(sequence=3, mood="fine")), Heartbeat(3)
        )

    def test_proxy_ids_are_compared_in_lower_case(self) -> None:
        """A UUID is the same proxy in either case."""
        shouted = ProxyAdvert(proxy_id(0xABC).upper(), (), 0, "active", 1.0)
        self.assertEqual(shouted.id, proxy_id(0xABC))

    def test_values_cannot_be_changed_through_what_they_were_made_of(self) -> None:
        """The limits of a hello are its own."""
        limits = {"channels": 1}
        hello = Hello("1", proxy_id(1), limits=limits)
        limits["channels"] = 2
        self.assertEqual(hello.limits["channels"], 1)


class GarbageTests(SynchronousTestCase):
    """Whatever a peer sends, only our own errors come of it."""

    def check(self, name: bytes, data: bytes) -> None:
        """Decode, and allow nothing but the two errors."""
        with contextlib.suppress(MessageError, UnknownMessage):
            decode(name, data)

    @settings(deadline=None, max_examples=200)
    @given(st.sampled_from(NAMES) | st.binary(max_size=20), st.binary(max_size=200))
    def test_bytes(self, name: bytes, data: bytes) -> None:
        """Any bytes under any name."""
        self.check(name, data)

    @settings(deadline=None, max_examples=200)
    @given(st.sampled_from(NAMES), any_json)
    def test_json(self, name: bytes, value: object) -> None:
        """Any JSON under the names that we know."""
        self.check(name, json.dumps(value).encode())

    @settings(deadline=None, max_examples=200)
    @given(examples.messages, st.data())
    def test_one_wrong_field(self, message: Message, data: st.DataObject) -> None:
        """A good message in which one field is anything at all."""
        name, encoded = encode(message)
        fields = json.loads(encoded)
        fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(any_json)
        self.check(name, json.dumps(fields).encode())

    @settings(deadline=None, max_examples=100)
    @given(examples.adverts, st.data())
    def test_one_wrong_field_of_an_advert(
        self, good: ProxyAdvert, data: st.DataObject
    ) -> None:
        """The same for one proxy of a discovery request."""
        name, encoded = encode(DiscoveryRequest((good,), 1.0))
        fields = json.loads(encoded)
        inner = fields["proxies"][0]
        inner[data.draw(st.sampled_from(sorted(inner)))] = data.draw(any_json)
        self.check(name, json.dumps(fields).encode())

    def test_deep_nesting(self) -> None:
        """Brackets by the thousand are no JSON for us."""
        for data in (b"[" * 60_000, b'{"sequence":' * 5_000):
            with self.assertRaises(MessageError):
                decode(b"heartbeat", data)


class LimitsTests(SynchronousTestCase):
    """Each limit, at it and beyond it."""

    def refused(self, name: bytes, data: bytes) -> str:
        """The error that decoding ends with."""
        return str(self.assertRaises(MessageError, decode, name, data))

    def test_unknown_name_is_an_error_of_its_own(self) -> None:
        """It is answered with failure and does not end the tunnel."""
        error = self.assertRaises(UnknownMessage, decode, b"reboot\x07", b"{}")
        self.assertIn("reboot\\x07", str(error))

    def test_payload_has_64_kib_at_most(self) -> None:
        """The size is looked at before the JSON."""
        data = payload(sequence=1)
        data += b" " * (messages.MAX_PAYLOAD - len(data))
        self.assertEqual(decode(b"heartbeat", data), Heartbeat(1))
        self.assertIn("65537 bytes", self.refused(b"heartbeat", data + b" "))

    def test_message_that_would_be_too_long_is_not_sent(self) -> None:
        """Names of three bytes a character can exceed what characters do not."""
        addresses = tuple("\u20ac" * 255 for _ in range(16))
        adverts = [advert(n, addresses=addresses) for n in range(64)]
        with self.assertRaises(MessageError):
            encode(DiscoveryRequest(tuple(adverts), 1.0))

    def test_64_proxies(self) -> None:
        """One more is refused, before any of them is read."""
        adverts = tuple(advert(n) for n in range(64))
        DiscoveryRequest(adverts, 1.0)
        with self.assertRaises(MessageError):
            DiscoveryRequest((*adverts, advert(64)), 1.0)
        data = payload(proxies=[{}] * 65, resend=1)
        self.assertIn("65 proxies", self.refused(b"discovery", data))

    def test_16_addresses(self) -> None:
        """One more is refused."""
        advert(1, addresses=("a:1",) * 16)
        with self.assertRaises(MessageError):
            advert(1, addresses=("a:1",) * 17)

    def test_255_characters(self) -> None:
        """One more in any string is refused."""
        Drain("x" * 255, 1)
        with self.assertRaises(MessageError):
            Drain("x" * 256, 1)
        with self.assertRaises(MessageError):
            advert(1, addresses=("x" * 256,))
        with self.assertRaises(MessageError):
            Hello("x" * 256, proxy_id(1))

    def test_64_announced_names_and_limits(self) -> None:
        """One more of either is refused."""
        names = tuple(f"host-{n}" for n in range(64))
        Hello("1", proxy_id(1), names, dict.fromkeys(names, 1))
        with self.assertRaises(MessageError):
            Hello("1", proxy_id(1), (*names, "one-more"))
        with self.assertRaises(MessageError):
            Hello("1", proxy_id(1), (), dict.fromkeys((*names, "one-more"), 1))

    def test_strings_can_be_printed(self) -> None:
        """Control characters and lone surrogates never reach a log."""
        for text in ("a\nb", "\x1b[2J", "\ud800", "\x00"):
            with self.assertRaises(MessageError):
                Drain(text, 1)

    def test_ids_are_uuids(self) -> None:
        """Other spellings of a UUID would be other proxies."""
        good = proxy_id(7)
        for wrong in ("", "proxy-1", good + ".a", "{" + good + "}", good[:-1]):
            with self.assertRaises(MessageError):
                ProxyAdvert(wrong, (), 0, "active", 1.0)

    def test_numbers(self) -> None:
        """No NaN, nothing negative, nothing beyond a week, and true is no number."""
        makers: list[Callable[[Any], object]] = [
            lambda value: ProxyAdvert(proxy_id(1), (), 0, "active", value),
            lambda value: DiscoveryRequest((), value),
            lambda value: Drain("", value),
        ]
        for make in makers:
            make(7 * 86400)
            for wrong in (math.nan, math.inf, -1, 7 * 86400 + 1, True, "1", 10**400):
                with self.assertRaises(MessageError):
                    make(wrong)
        for wrong in (-1, True, 1.0, 2**53):
            with self.assertRaises(MessageError):
                Heartbeat(wrong)  # type: ignore[arg-type]
            with self.assertRaises(MessageError):
                ProxyAdvert(proxy_id(1), (), wrong, "active", 1.0)  # type: ignore[arg-type]

    def test_only_a_drain_may_last_no_time(self) -> None:
        """A proxy that is forgotten at once, or said again at once, makes no sense."""
        Drain("", 0)
        with self.assertRaises(MessageError):
            advert(1, ttl=0)
        with self.assertRaises(MessageError):
            DiscoveryRequest((), 0)

    def test_constants_that_are_not_json(self) -> None:
        """Python's reader knows NaN; RFC 8259 does not."""
        self.refused(b"drain", b'{"reason":"","seconds":NaN}')
        self.refused(b"drain", b'{"reason":"","seconds":Infinity}')

    def test_state_is_one_of_two(self) -> None:
        """A proxy is active or draining."""
        with self.assertRaises(MessageError):
            advert(1, state="asleep")

    def test_proxy_is_listed_once(self) -> None:
        """Two words about one proxy in one list contradict each other."""
        with self.assertRaises(MessageError):
            DiscoveryRequest((advert(1), advert(1, generation=2)), 1.0)

    def test_missing_field_is_named(self) -> None:
        """The error says what to look for."""
        self.assertIn("'sequence'", self.refused(b"heartbeat", b"{}"))
        self.assertIn("discovery", self.refused(b"discovery", b'{"proxies":[]}'))
