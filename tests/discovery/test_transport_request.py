"""The request that opens a transport channel."""

from __future__ import annotations

import contextlib

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.discovery.transport_request import TransportRequest
from rtunnel.errors import MessageError
from rtunnel.wire.data_types import string, uint32
from tests.discovery.examples import garbage

GOOD = TransportRequest("web1", 22, "alice", "192.0.2.7", "c-1")

printable = st.text(min_size=1, max_size=60).filter(str.isprintable)
requests = st.builds(
    TransportRequest,
    host=st.sampled_from(["", "web1", "10.0.0.5", "fd00::5", "a.b.lan", "_x"]),
    port=st.integers(1, 65535),
    user=printable,
    source=st.just("") | printable,
    connection_id=st.text("abcXYZ019._-", min_size=1, max_size=64),
)


class TransportRequestTests(SynchronousTestCase):
    """What a proxy asks an agent to dial."""

    @settings(deadline=None, max_examples=200)
    @given(requests)
    def test_request_survives_the_wire(self, request: TransportRequest) -> None:
        """It comes back equal."""
        self.assertEqual(TransportRequest.decode(request.encode()), request)

    @settings(deadline=None, max_examples=200)
    @given(garbage(requests))
    def test_garbage_is_a_message_error(self, data: bytes) -> None:
        """Any bytes at all, and requests that were damaged, raise nothing else."""
        with contextlib.suppress(MessageError):
            TransportRequest.decode(data)

    def test_layout_is_the_one_of_the_protocol(self) -> None:
        """Host, port, user, source, connection id."""
        self.assertEqual(
            GOOD.encode(),
            string(b"web1")
            + uint32(22)
            + string(b"alice")
            + string(b"192.0.2.7")
            + string(b"c-1"),
        )

    def test_bytes_after_the_last_field_are_refused(self) -> None:
        """A request ends where its fields end."""
        with self.assertRaises(MessageError):
            TransportRequest.decode(GOOD.encode() + b"\x00")

    def test_hosts_that_no_client_can_ask_for_are_refused(self) -> None:
        """What no client can ask a proxy for, no proxy can ask an agent for."""
        for host in ("a b", "a/b", "-x", "a..b", "a\nb", "%eth0", "x" * 254):
            with self.assertRaises(MessageError):
                attrs.evolve(GOOD, host=host)

    def test_ports(self) -> None:
        """1 to 65535."""
        for port in (0, 65536, 2**32 - 1):
            with self.assertRaises(MessageError):
                TransportRequest.decode(
                    GOOD.encode().replace(uint32(22), uint32(port), 1)
                )

    def test_strings_have_255_bytes_at_most_and_can_be_printed(self) -> None:
        """Names go to the log."""
        attrs.evolve(GOOD, user="x" * 255)
        for wrong in ("x" * 256, "\u20ac" * 86, "a\x1b", ""):
            with self.assertRaises(MessageError):
                attrs.evolve(GOOD, user=wrong)
        with self.assertRaises(MessageError):
            attrs.evolve(GOOD, source="x" * 256)

    def test_connection_id_has_64_characters_of_a_small_set(self) -> None:
        """It is searched for in logs."""
        attrs.evolve(GOOD, connection_id="x" * 64)
        for wrong in ("", "x" * 65, "a b", "\u00e9"):
            with self.assertRaises(MessageError):
                attrs.evolve(GOOD, connection_id=wrong)
