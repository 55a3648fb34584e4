"""The request that opens a transport channel between two proxies."""

from __future__ import annotations

import contextlib

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.discovery.peer_request import PeerRequest
from rtunnel.errors import MessageError
from rtunnel.naming import Target
from rtunnel.trust.login_proof import LoginProof
from rtunnel.wire.data_types import string, uint32
from tests.discovery.examples import garbage

PROOF = LoginProof(b"root", b"s" * 32, b"ssh-ed25519", b"key", b"signature")
GOOD = PeerRequest(Target("web1", "b", 22), "192.0.2.7", "c-1", PROOF)

proofs = st.builds(
    LoginProof,
    username=st.binary(max_size=40),
    session_id=st.binary(min_size=32, max_size=64),
    algorithm=st.binary(min_size=1, max_size=64),
    blob=st.binary(min_size=1, max_size=200),
    signature=st.binary(min_size=1, max_size=200),
)
requests = st.builds(
    PeerRequest,
    target=st.builds(
        Target,
        host=st.sampled_from(["", "web1", "10.0.0.5", "fd00::5", "a.b.lan", "_x"]),
        cluster=st.sampled_from(["b", "a-1", "x" * 63]),
        port=st.integers(1, 65535),
    ),
    source=st.text(max_size=60).filter(lambda text: not text or text.isprintable()),
    connection_id=st.text("abcXYZ019._-", min_size=1, max_size=64),
    proof=proofs,
)


class PeerRequestTests(SynchronousTestCase):
    """What a proxy asks another proxy to reach."""

    @settings(deadline=None, max_examples=200)
    @given(requests)
    def test_request_survives_the_wire(self, request: PeerRequest) -> None:
        """It comes back equal."""
        self.assertEqual(PeerRequest.decode(request.encode()), request)

    @settings(deadline=None, max_examples=200)
    @given(garbage(requests))
    def test_garbage_is_a_message_error(self, data: bytes) -> None:
        """Any bytes at all, and requests that were damaged, raise nothing else."""
        with contextlib.suppress(MessageError):
            PeerRequest.decode(data)

    def test_layout_is_the_one_of_the_protocol(self) -> None:
        """The target, where from, which connection, and the login."""
        self.assertEqual(
            GOOD.encode(),
            string(b"b")
            + string(b"web1")
            + uint32(22)
            + string(b"192.0.2.7")
            + string(b"c-1")
            + string(b"root")
            + string(b"s" * 32)
            + string(b"ssh-ed25519")
            + string(b"key")
            + string(b"signature"),
        )

    def test_bytes_after_the_last_field_are_refused(self) -> None:
        """A request ends where its fields end."""
        with self.assertRaises(MessageError):
            PeerRequest.decode(GOOD.encode() + b"\x00")

    def test_a_request_cut_anywhere_is_refused(self) -> None:
        """No field has a default."""
        encoded = GOOD.encode()
        for end in range(len(encoded)):
            with self.assertRaises(MessageError):
                PeerRequest.decode(encoded[:end])

    def test_targets_that_no_client_can_ask_for_are_refused(self) -> None:
        """Nor can one that would be read as another."""
        for host, cluster, port in (
            ("a b", "b", 22),
            ("-x", "b", 22),
            ("a..b", "b", 22),
            ("", "", 22),
            ("web1", "", 22),
            ("web1", "B", 22),
            ("web1", "x.b", 22),
            ("", "x.b", 22),
            ("web1", "b.", 22),
            ("web1", "b", 0),
            ("web1", "b", 65536),
            ("x" * 254, "b", 22),
        ):
            encoded = GOOD.encode().replace(
                string(b"b") + string(b"web1") + uint32(22),
                string(cluster.encode()) + string(host.encode()) + uint32(port),
                1,
            )
            with self.assertRaises(MessageError):
                PeerRequest.decode(encoded)

    def test_source_has_255_bytes_at_most_and_can_be_printed(self) -> None:
        """It goes to the log; a client on a UNIX socket has none."""
        attrs.evolve(GOOD, source="")
        attrs.evolve(GOOD, source="x" * 255)
        for wrong in ("x" * 256, "\u20ac" * 86, "a\x1b", "a\n"):
            with self.assertRaises(MessageError):
                attrs.evolve(GOOD, source=wrong)

    def test_connection_id_has_64_characters_of_a_small_set(self) -> None:
        """It is searched for in logs."""
        attrs.evolve(GOOD, connection_id="x" * 64)
        for wrong in ("", "x" * 65, "a b", "\u00e9"):
            with self.assertRaises(MessageError):
                attrs.evolve(GOOD, connection_id=wrong)

    def test_every_part_of_the_login_has_its_limits(self) -> None:
        """In bytes, least and most."""
        for field, least, most in (
            ("username", 0, 1024),
            ("session_id", 32, 64),
            ("algorithm", 1, 64),
            ("blob", 1, 64 * 1024),
            ("signature", 1, 2048),
        ):
            for length in (least, most):
                proof = attrs.evolve(PROOF, **{field: b"x" * length})
                request = attrs.evolve(GOOD, proof=proof)
                self.assertEqual(PeerRequest.decode(request.encode()), request)
            for length in {max(0, least - 1), most + 1} - {least}:
                proof = attrs.evolve(PROOF, **{field: b"x" * length})
                with self.assertRaises(MessageError):
                    attrs.evolve(GOOD, proof=proof)
                encoded = GOOD.encode().replace(
                    string(getattr(PROOF, field)), string(b"x" * length), 1
                )
                with self.assertRaises(MessageError):
                    PeerRequest.decode(encoded)
