"""Records of proxies and tunnels as JSON."""

from __future__ import annotations

import json

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import RegistryError
from rtunnel.registry.holder import Holder
from rtunnel.registry.interface import MAX_VALUE
from rtunnel.registry.records import (
    MAX_ADDRESSES,
    MAX_TEXT,
    TUNNELS_PER_PAGE,
    ProxyRecord,
    TunnelRecord,
    tunnels_from_json,
    tunnels_to_json,
)

TEXTS = st.text(st.characters(exclude_categories=("C", "Z")), max_size=MAX_TEXT)
COUNTS = st.integers(min_value=0, max_value=2**53)
MOMENTS = st.floats(min_value=0, max_value=1e12)
ADDRESSES = st.lists(TEXTS, max_size=MAX_ADDRESSES).map(tuple)
PROXIES = st.builds(
    ProxyRecord,
    id=TEXTS,
    name=TEXTS,
    addresses=ADDRESSES,
    peer_addresses=ADDRESSES,
    generation=COUNTS,
    state=st.sampled_from(["active", "draining"]),
    started=MOMENTS,
    signs=st.lists(st.sampled_from(["agent", "proxy"]), max_size=2).map(tuple),
    holder=st.none() | st.builds(Holder, TEXTS, COUNTS, TEXTS, TEXTS),
)
TUNNELS = st.builds(
    TunnelRecord,
    cluster=TEXTS,
    agent=TEXTS,
    proxy=TEXTS,
    since=MOMENTS,
    rtt_seconds=st.none() | MOMENTS,
    channels=COUNTS,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
PROXY = ProxyRecord("id-1", "one", ("a:1",), ("b:2",), 3, "active", 4.0)


def proxy_json(**fields: object) -> str:
    """A good proxy record with some fields replaced."""
    return json.dumps(json.loads(PROXY.to_json()) | fields)


class RecordTests(SynchronousTestCase):
    """Both ways, and what is refused."""

    @settings(deadline=None, max_examples=100)
    @given(PROXIES)
    def test_proxy_records_survive_the_registry(self, record: ProxyRecord) -> None:
        """Whatever is in them."""
        self.assertEqual(ProxyRecord.from_json(record.to_json()), record)

    @settings(deadline=None, max_examples=100)
    @given(st.lists(TUNNELS, max_size=5))
    def test_tunnel_records_survive_the_registry(
        self, records: list[TunnelRecord]
    ) -> None:
        """A page of them at once."""
        self.assertEqual(tunnels_from_json(tunnels_to_json(records)), tuple(records))

    def test_fields_of_a_later_version_are_passed_over(self) -> None:
        """Two versions share a registry during an upgrade."""
        self.assertEqual(ProxyRecord.from_json(proxy_json(colour="blue")), PROXY)

    @settings(deadline=None, max_examples=200)
    @given(st.text() | JSON.map(json.dumps))
    def test_nonsense_is_a_registry_error(self, value: str) -> None:
        """And never any other exception."""
        for read in (ProxyRecord.from_json, tunnels_from_json):
            try:
                read(value)
            except RegistryError as error:
                self.assertIn("the registry holds a", str(error))

    @settings(deadline=None, max_examples=200)
    @given(st.sampled_from(sorted(json.loads(PROXY.to_json()))), JSON)
    def test_a_wrong_field_is_refused_or_read_as_it_is(
        self, name: str, value: object
    ) -> None:
        """No value is bent into another type."""
        try:
            record = ProxyRecord.from_json(proxy_json(**{name: value}))
        except RegistryError as error:
            self.assertIn("the registry holds a", str(error))
        else:
            read = json.loads(record.to_json())[name]
            if name != "holder":
                self.assertEqual(read, value)

    def test_what_a_terminal_would_act_on_is_refused(self) -> None:
        """People see these records in the status."""
        tunnel = TunnelRecord("b", "agent", "proxy", 1.0)
        for bad in ("\x1b[2J", "one\ntwo", "\u202e", "\x7f"):
            with self.assertRaises(RegistryError):
                ProxyRecord.from_json(proxy_json(name=bad))
            page = tunnels_to_json([attrs.evolve(tunnel, cluster=bad)])
            with self.assertRaises(RegistryError):
                tunnels_from_json(page)

    def test_a_proxy_of_an_earlier_version_signs_nothing(self) -> None:
        """Its record lacks the field."""
        fields = json.loads(PROXY.to_json())
        del fields["signs"]
        self.assertEqual(ProxyRecord.from_json(json.dumps(fields)).signs, ())

    def test_an_error_names_the_field(self) -> None:
        """And shows what was found there."""
        for fields, expected in (
            ({"id": None}, "whose id is not a text"),
            ({"id": "x" * (MAX_TEXT + 1)}, "whose id is not a text of at most 255"),
            ({"generation": True}, "whose generation is not a whole number"),
            ({"generation": -1}, "whose generation is not a whole number"),
            ({"started": float("inf")}, "whose started is not a number"),
            ({"started": 10**400}, "whose started is not a number"),
            ({"state": "asleep"}, "whose state is not active or draining: 'asleep'"),
            ({"addresses": "a:1"}, "whose addresses is not a list"),
            ({"addresses": ["a"] * (MAX_ADDRESSES + 1)}, "at most 16 texts"),
            ({"holder": {"pid": 1}}, "a holder record whose place is not a text"),
        ):
            with self.assertRaises(RegistryError) as caught:
                ProxyRecord.from_json(proxy_json(**fields))
            self.assertIn(expected, str(caught.exception))

    def test_nesting_without_end_is_refused(self) -> None:
        """The reader of JSON would run out of stack."""
        with self.assertRaises(RegistryError):
            ProxyRecord.from_json("[" * 100_000)

    def test_a_full_page_of_tunnels_fits_into_an_entry(self) -> None:
        """With names of the usual length."""
        record = TunnelRecord("c" * 63, "a" * 36, "p" * 36, 1e9 + 0.123456, 0.123456, 9)
        page = tunnels_to_json([record] * TUNNELS_PER_PAGE)
        self.assertLess(len(page), MAX_VALUE / 2)
