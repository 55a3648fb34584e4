"""Tests for :mod:`rtunnel.ssh.host_key_update`."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import ProtocolError
from rtunnel.ssh.connection import Connection
from rtunnel.ssh.host_key import HostKey
from rtunnel.ssh.host_key_update import HOST_KEYS, PROVE_HOST_KEYS, HostKeyUpdate
from rtunnel.ssh.userauth import LoginRules
from rtunnel.testing import RecordingHandler
from rtunnel.wire.data_types import Reader, string
from rtunnel.wire.keys import ED25519, RSA, RSA_SHA256, RSA_SHA512, PublicKey
from rtunnel.wire.numbers import (
    MSG_GLOBAL_REQUEST,
    MSG_REQUEST_FAILURE,
    MSG_REQUEST_SUCCESS,
)
from tests.ssh.transports import RawClient, identify, make_server
from tests.wire.examples import private_key

KEYS = [
    HostKey(private_key(ED25519, "host")),
    HostKey(private_key(ED25519, "next host")),
    HostKey(private_key(RSA, "host")),
]
BLOBS = [key.private.public.blob for key in KEYS]
SESSION = bytes(32)


def strings(data: bytes) -> list[bytes]:
    """All of a run of strings."""
    reader = Reader(data)
    found = []
    while reader.remaining:
        found.append(reader.string())
    return found


class HostKeyUpdateTests(SynchronousTestCase):
    """:class:`HostKeyUpdate`."""

    def test_one_key_is_not_worth_a_word(self) -> None:
        """The client has just seen it, alone or in a certificate."""
        self.assertFalse(HostKeyUpdate(KEYS[:1], ED25519, SESSION).is_needed)
        self.assertFalse(HostKeyUpdate(KEYS[:1] * 2, ED25519, SESSION).is_needed)
        self.assertTrue(HostKeyUpdate(KEYS[:2], ED25519, SESSION).is_needed)

    def test_every_key_is_announced_and_proven(self) -> None:
        """For this session, each by its own signature, in the order asked for."""
        update = HostKeyUpdate(KEYS, ED25519, SESSION)
        self.assertEqual(strings(update.announcement()), BLOBS)
        answer = update.prove(b"".join(map(string, reversed(BLOBS))))
        assert answer is not None
        for blob, signature in zip(reversed(BLOBS), strings(answer), strict=True):
            key = PublicKey.from_blob(blob)
            data = string(PROVE_HOST_KEYS) + string(SESSION) + string(blob)
            self.assertTrue(
                key.verify(signature, data, key.signature_algorithms[0]), key
            )

    def test_rsa_signs_as_in_the_key_exchange(self) -> None:
        """As OpenSSH wants it, and never with SHA-1."""
        for algorithm, expected in (
            (RSA_SHA256, RSA_SHA256),
            (RSA_SHA512, RSA_SHA512),
            (b"rsa-sha2-256-cert-v01@openssh.com", RSA_SHA256),
            (ED25519, RSA_SHA512),
        ):
            answer = HostKeyUpdate(KEYS, algorithm, SESSION).prove(string(BLOBS[2]))
            assert answer is not None
            (signature,) = strings(answer)
            self.assertEqual(Reader(signature).string(), expected)

    def test_a_second_time_is_refused(self) -> None:
        """And so are no keys, others' keys, and more than there are."""
        update = HostKeyUpdate(KEYS, ED25519, SESSION)
        stranger = private_key(ED25519, "stranger").public.blob
        for asked in ([], [stranger], [BLOBS[0], stranger], BLOBS + BLOBS[:1]):
            self.assertIsNone(update.prove(b"".join(map(string, asked))))
        self.assertIsNotNone(update.prove(string(BLOBS[0])))
        self.assertIsNone(update.prove(string(BLOBS[1])))

    @settings(deadline=None, max_examples=150)
    @given(st.binary(max_size=200))
    def test_any_bytes_at_all(self, data: bytes) -> None:
        """Refused, or an error of the peer's."""
        try:
            answer = HostKeyUpdate(KEYS[:2], ED25519, SESSION).prove(data)
        except ProtocolError:
            return
        self.assertIsNone(answer)


class OnTheWireTests(SynchronousTestCase):
    """Right after a login."""

    def log_in(self, keys: Sequence[HostKey]) -> RawClient:
        """A client, and what it is told."""
        self.handler = RecordingHandler()
        rules = LoginRules(identify, lambda who: Connection(self.handler))
        client = RawClient(make_server(Clock(), host_keys=keys, rules=rules))
        client.start_userauth()
        client.received.clear()
        client.send(50, client.auth_request())
        return client

    def test_the_client_is_told_and_asks(self) -> None:
        """No reply is wanted for the one, and given to the other."""
        client = self.log_in(KEYS[:2])
        reader = Reader(client.take(MSG_GLOBAL_REQUEST))
        self.assertEqual((reader.string(), reader.boolean()), (HOST_KEYS, False))
        self.assertEqual(strings(reader.rest()), BLOBS[:2])
        asking = string(PROVE_HOST_KEYS) + b"\x01" + string(BLOBS[1])
        client.send(MSG_GLOBAL_REQUEST, asking)
        (signature,) = strings(client.take(MSG_REQUEST_SUCCESS))
        data = string(PROVE_HOST_KEYS) + string(client.session_id) + string(BLOBS[1])
        self.assertTrue(
            KEYS[1].private.public.verify(signature, data, ED25519), signature
        )
        client.send(MSG_GLOBAL_REQUEST, asking)
        client.take(MSG_REQUEST_FAILURE)

    def test_with_one_key_nothing_is_said_nor_proven(self) -> None:
        """It is the handler that refuses."""
        client = self.log_in(KEYS[:1])
        self.assertNotIn(MSG_GLOBAL_REQUEST, client.numbers())
        asking = string(PROVE_HOST_KEYS) + b"\x01" + string(BLOBS[0])
        client.send(MSG_GLOBAL_REQUEST, asking)
        client.take(MSG_REQUEST_FAILURE)

    def test_a_malformed_question_ends_the_connection(self) -> None:
        """As any other message that is."""
        client = self.log_in(KEYS[:2])
        client.send(MSG_GLOBAL_REQUEST, string(PROVE_HOST_KEYS) + b"\x01\x00")
        self.assertIsNotNone(client.disconnect_reason())
