"""Tests for :mod:`rtunnel.ssh.userauth` and :mod:`rtunnel.ssh.userauth_client`."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import DISCONNECT_NO_MORE_AUTH_METHODS_AVAILABLE
from rtunnel.ssh.limits import DEFAULT_LIMITS, TransportLimits
from rtunnel.ssh.userauth import LoginRules
from rtunnel.trust.identity import Identity
from rtunnel.wire.algorithms import Algorithms
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.data_types import boolean, name_list, string
from rtunnel.wire.keys import RSA, SK_ECDSA_P256, SK_ED25519, PrivateKey, PublicKey
from rtunnel.wire.numbers import (
    MSG_UNIMPLEMENTED,
    MSG_USERAUTH_FAILURE,
    MSG_USERAUTH_PK_OK,
    MSG_USERAUTH_REQUEST,
    MSG_USERAUTH_SUCCESS,
)
from tests.ssh.transports import (
    ADDRESS,
    USER_KEY,
    RawClient,
    RecordingEvents,
    RecordingService,
    identify,
    identity,
    make_server,
)
from tests.ssh.userauth_examples import KEY_TYPES, certificate
from tests.wire.examples import SecurityKey, private_key, rsa_key, rsa_sha1_signature

FAILURE = name_list([b"publickey"]) + boolean(False)


Identify = Callable[[bytes, bytes, str], Identity]


def anybody(algorithm: bytes, blob: bytes, source: str) -> Identity:
    """Let everybody in who holds the key."""
    return identity()


class UserAuthServerTests(SynchronousTestCase):
    """Logging in, with a client that does as it is told."""

    def setUp(self) -> None:
        """Keep the events."""
        self.events = RecordingEvents()

    def client(
        self,
        identify: Identify = identify,
        *,
        limits: TransportLimits = DEFAULT_LIMITS,
        algorithms: Algorithms | None = None,
    ) -> RawClient:
        """A client that may ask to log in."""
        rules = LoginRules(identify, lambda who: RecordingService(), self.events)
        server = make_server(
            Clock(),
            rules=rules,
            limits=limits,
            algorithms=algorithms or Algorithms(),
        )
        raw = RawClient(server).start_userauth()
        raw.received.clear()
        return raw

    def assert_accepted(self, raw: RawClient, request: bytes) -> None:
        """Assert that a request logs in."""
        raw.send(MSG_USERAUTH_REQUEST, request)
        self.assertEqual(raw.received, [(MSG_USERAUTH_SUCCESS, b"")])
        self.assertTrue(raw.server.authenticated)

    def assert_refused(self, raw: RawClient, request: bytes) -> None:
        """Assert that a request does not, and is told so like any other."""
        raw.received.clear()
        raw.send(MSG_USERAUTH_REQUEST, request)
        self.assertEqual(raw.received, [(MSG_USERAUTH_FAILURE, FAILURE)])
        self.assertFalse(raw.server.authenticated)
        self.assertIsNone(raw.server.identity)
        self.assertEqual(self.events.accepted, [])

    def test_every_kind_of_key_plain_and_certified(self) -> None:
        """Under every algorithm that it can do."""
        for key_type in KEY_TYPES:
            key = private_key(key_type)
            shown: list[PublicKey | Certificate] = [
                key.public,
                certificate(key.public),
            ]
            for what in shown:
                for algorithm in what.signature_algorithms:
                    raw = self.client(anybody)
                    request = raw.auth_request(key, blob=what.blob, algorithm=algorithm)
                    self.assert_accepted(raw, request)

    def test_security_keys(self) -> None:
        """When they have been touched, and only then."""
        for key_type in (SK_ED25519, SK_ECDSA_P256):
            key = SecurityKey(key_type)
            for flags in (0, 1):
                raw = self.client(anybody)

                class Holder:
                    public = key.public

                    @staticmethod
                    def sign(
                        data: bytes,
                        algorithm: bytes,
                        key: SecurityKey = key,
                        flags: int = flags,
                    ) -> bytes:
                        return key.sign(data, flags)

                request = raw.auth_request(Holder)  # type: ignore[arg-type]
                if flags:
                    self.assert_accepted(raw, request)
                    self.events.accepted.clear()
                else:
                    self.assert_refused(raw, request)

    def test_what_identify_is_asked(self) -> None:
        """The algorithm and blob that were sent, and the address; no login name."""
        asked: list[tuple[bytes, bytes, str]] = []

        def identify(algorithm: bytes, blob: bytes, source: str) -> Identity:
            asked.append((algorithm, blob, source))
            return identity()

        raw = self.client(identify)
        raw.send(MSG_USERAUTH_REQUEST, raw.auth_request(username=b"root"))
        self.assertEqual(asked, [(b"ssh-ed25519", USER_KEY.public.blob, ADDRESS)])

    def test_any_login_name_will_do(self) -> None:
        """It is no identity, be it empty or not even text."""
        for username in (b"", b"root", b"\xff\x00", b"x" * 1024):
            raw = self.client()
            self.assert_accepted(raw, raw.auth_request(username=username))

    def test_a_question_about_a_key_is_answered(self) -> None:
        """With the very algorithm and key that were asked about (RFC 4252, 7)."""
        raw = self.client()
        raw.send(MSG_USERAUTH_REQUEST, raw.auth_request(signed=False))
        self.assertEqual(
            raw.received,
            [
                (
                    MSG_USERAUTH_PK_OK,
                    string(b"ssh-ed25519") + string(USER_KEY.public.blob),
                )
            ],
        )
        self.assertFalse(raw.server.authenticated)
        raw.received.clear()
        self.assert_refused(raw, raw.auth_request(PrivateKey.generate(), signed=False))

    def test_every_refusal_looks_the_same(self) -> None:
        """Unknown, unproven or unreadable: the peer hears "no" and no more."""
        stranger = PrivateKey.generate()
        rsa = private_key(RSA)
        wrongs: list[Callable[[RawClient], bytes]] = [
            lambda raw: raw.auth_request(stranger),
            lambda raw: raw.auth_request(stranger, blob=USER_KEY.public.blob),
            lambda raw: raw.auth_request(session_id=bytes(32)),
            lambda raw: raw.auth_request(spoil=lambda signature: signature[:-1]),
            lambda raw: raw.auth_request(spoil=lambda signature: b""),
            lambda raw: raw.auth_request(service=b"ssh-userauth"),
            lambda raw: raw.auth_request(service=b""),
            lambda raw: raw.auth_request(blob=b"", signed=False),
            lambda raw: raw.auth_request(blob=b"rubbish", signed=False),
            lambda raw: raw.auth_request(algorithm=b"ssh-rsa", signed=False),
            lambda raw: raw.auth_request(algorithm=b"", signed=False),
            lambda raw: raw.auth_request(
                algorithm=b"ssh-ed25519-cert-v01@openssh.com", signed=False
            ),
            lambda raw: raw.auth_request(rsa, algorithm=b"rsa-sha2-512"),
            lambda raw: string(b"x") + string(b"ssh-connection") + string(b"none"),
            lambda raw: (
                string(b"x") + string(b"ssh-connection") + string(b"password") + b"\0"
            ),
        ]
        for wrong in wrongs:
            raw = self.client()
            self.assert_refused(raw, wrong(raw))

    def test_the_signature_covers_the_whole_request(self) -> None:
        """Session, user name, service, algorithm and key, each of them."""
        other = self.client()
        right = other.auth_request()
        for spoilt in (
            right.replace(string(b"alice"), string(b"mally"), 1),
            self.client().auth_request(),
        ):
            raw = self.client()
            self.assert_refused(raw, spoilt)

    def test_sha_1_signatures_are_refused(self) -> None:
        """Also when the request names a better algorithm."""
        key = rsa_key()
        public = private_key(RSA).public
        for algorithm in (b"ssh-rsa", b"rsa-sha2-256"):

            class Holder:
                @staticmethod
                def sign(data: bytes, algorithm: bytes) -> bytes:
                    return rsa_sha1_signature(key, data)

            raw = self.client(anybody)
            self.assert_refused(
                raw,
                raw.auth_request(
                    Holder,  # type: ignore[arg-type]
                    blob=public.blob,
                    algorithm=algorithm,
                ),
            )

    def test_the_signature_names_the_algorithm_of_the_request(self) -> None:
        """rsa-sha2-256 under a request for rsa-sha2-512 is no signature."""
        key = private_key(RSA)
        raw = self.client(anybody)
        self.assert_refused(
            raw,
            raw.auth_request(
                key,
                algorithm=b"rsa-sha2-512",
                spoil=lambda signature: signature.replace(b"512", b"256"),
            ),
        )

    def test_only_algorithms_on_the_list_are_taken(self) -> None:
        """A list that has been narrowed included; identify is not even asked."""

        def nobody(algorithm: bytes, blob: bytes, source: str) -> Identity:
            raise AssertionError("asked")

        raw = self.client(nobody, algorithms=Algorithms(user_keys=(b"rsa-sha2-512",)))
        self.assert_refused(raw, raw.auth_request())

    def test_six_attempts_and_no_more(self) -> None:
        """``none`` and refused questions are attempts like any other."""
        raw = self.client()
        none = string(b"x") + string(b"ssh-connection") + string(b"none")
        self.assert_refused(raw, none)
        for signed in (True, False, True, False, True):
            stranger = PrivateKey.generate()
            self.assert_refused(raw, raw.auth_request(stranger, signed=signed))
        raw.send(MSG_USERAUTH_REQUEST, raw.auth_request())
        self.assertEqual(
            raw.disconnect_reason(),
            (
                DISCONNECT_NO_MORE_AUTH_METHODS_AVAILABLE,
                "too many authentication attempts",
            ),
        )
        self.assertFalse(raw.server.authenticated)

    def test_none_alone_is_counted(self) -> None:
        """It costs us nothing, and still there is an end to it."""
        raw = self.client()
        none = string(b"x") + string(b"ssh-connection") + string(b"none")
        for _ in range(7):
            raw.send(MSG_USERAUTH_REQUEST, none)
        self.assertTrue(raw.wire.disconnecting)

    def test_a_question_and_its_signature_are_one_attempt(self) -> None:
        """So that a client with four wrong keys still gets in with the fifth."""
        raw = self.client()
        none = string(b"x") + string(b"ssh-connection") + string(b"none")
        self.assert_refused(raw, none)
        for _ in range(4):
            self.assert_refused(
                raw, raw.auth_request(PrivateKey.generate(), signed=False)
            )
        raw.send(MSG_USERAUTH_REQUEST, raw.auth_request(signed=False))
        raw.received.clear()
        self.assert_accepted(raw, raw.auth_request())

    def test_questions_that_nothing_follows_are_counted(self) -> None:
        """Answered with yes or not."""
        raw = self.client()
        for _ in range(7):
            raw.send(MSG_USERAUTH_REQUEST, raw.auth_request(signed=False))
        self.assertTrue(raw.wire.disconnecting)
        self.assertEqual(raw.numbers().count(MSG_USERAUTH_PK_OK), 6)

    def test_one_answer_covers_one_signature(self) -> None:
        """Wrong signatures after one question are attempts of their own."""
        raw = self.client()
        raw.send(MSG_USERAUTH_REQUEST, raw.auth_request(signed=False))
        for _ in range(7):
            raw.send(
                MSG_USERAUTH_REQUEST, raw.auth_request(spoil=lambda s: s[:-1] + b"x")
            )
        self.assertTrue(raw.wire.disconnecting)
        self.assertEqual(raw.numbers().count(MSG_USERAUTH_FAILURE), 6)

    def test_an_answer_is_for_one_key(self) -> None:
        """A signature by another key is an attempt of its own."""
        raw = self.client()
        for _ in range(3):
            raw.send(MSG_USERAUTH_REQUEST, raw.auth_request(signed=False))
            raw.send(MSG_USERAUTH_REQUEST, raw.auth_request(PrivateKey.generate()))
        raw.send(MSG_USERAUTH_REQUEST, raw.auth_request(signed=False))
        self.assertTrue(raw.wire.disconnecting)

    def test_events_tell_every_decision(self) -> None:
        """With the reason that the peer does not get."""
        raw = self.client()
        stranger = PrivateKey.generate()
        raw.send(MSG_USERAUTH_REQUEST, string(b"x") + string(b"y") + string(b"none"))
        raw.send(
            MSG_USERAUTH_REQUEST,
            raw.auth_request(stranger, username=b"ro\not", signed=False),
        )
        raw.send(MSG_USERAUTH_REQUEST, raw.auth_request(spoil=lambda s: s[:-1] + b"x"))
        raw.send(MSG_USERAUTH_REQUEST, raw.auth_request(signed=False))
        self.assertEqual(self.events.accepted, [])
        raw.send(MSG_USERAUTH_REQUEST, raw.auth_request())
        self.assertEqual(
            self.events.refused, [(ADDRESS, "alice", "the signature is wrong")]
        )
        self.assertEqual(self.events.accepted, [(identity(), ADDRESS)])

    def test_a_key_shown_in_vain_is_told_when_nobody_has_logged_in(self) -> None:
        """Stock clients show a plain key before its certificate, so not before."""
        raw = self.client()
        raw.send(
            MSG_USERAUTH_REQUEST,
            raw.auth_request(PrivateKey.generate(), username=b"ro\not", signed=False),
        )
        self.assertEqual(self.events.refused, [])
        raw.server.connectionLost()
        self.assertEqual(self.events.refused, [(ADDRESS, "ro\\not", "nobody's key")])

    def test_requests_in_one_segment_are_decided_in_order(self) -> None:
        """The first success is final: what follows it is never looked at."""
        who: list[bytes] = []
        second = PrivateKey.generate()

        def identify(algorithm: bytes, blob: bytes, source: str) -> Identity:
            who.append(blob)
            return identity(str(len(who)))

        raw = self.client(identify)
        raw.send_bytes(
            raw.packet(MSG_USERAUTH_REQUEST, raw.auth_request())
            + raw.packet(MSG_USERAUTH_REQUEST, raw.auth_request(second))
            + raw.packet(MSG_USERAUTH_REQUEST, raw.auth_request(second, signed=False))
        )
        self.assertEqual(raw.received, [(MSG_USERAUTH_SUCCESS, b"")])
        self.assertEqual(who, [USER_KEY.public.blob])
        self.assertEqual(raw.server.identity, identity("1"))
        self.assertEqual(len(self.events.accepted), 1)

    def test_the_identity_is_of_the_key_that_signed(self) -> None:
        """Not of one that was only asked about."""
        names = {USER_KEY.public.blob: "alice"}
        other = PrivateKey.generate()
        names[other.public.blob] = "admin"

        def identify(algorithm: bytes, blob: bytes, source: str) -> Identity:
            return identity(names[blob])

        raw = self.client(identify)
        raw.send(MSG_USERAUTH_REQUEST, raw.auth_request(other, signed=False))
        raw.received.clear()
        self.assert_accepted(raw, raw.auth_request())
        self.assertEqual(raw.server.identity, identity("alice"))

    def test_other_messages_of_authentication_are_not_known(self) -> None:
        """What a client has no business to send."""
        raw = self.client()
        for number in range(51, 80):
            raw.send(number)
        self.assertEqual(raw.numbers(), [MSG_UNIMPLEMENTED] * 29)

    def test_a_malformed_request_ends_the_connection(self) -> None:
        """Short, long, or with fields over their limits."""
        right = self.client().auth_request()
        for request in (
            b"",
            right[:-1],
            right + b"x",
            string(b"x" * 1025) + right,
            self.client().auth_request(algorithm=b"x" * 65, signed=False),
        ):
            raw = self.client()
            raw.send(MSG_USERAUTH_REQUEST, request)
            self.assertIsNotNone(raw.disconnect_reason())
            self.assertFalse(raw.server.authenticated)

    def test_an_error_in_identify_lets_nobody_in(self) -> None:
        """It ends the connection, and is logged as ours."""

        def broken(algorithm: bytes, blob: bytes, source: str) -> Identity:
            raise KeyError("oops")

        raw = self.client(broken)
        raw.send(MSG_USERAUTH_REQUEST, raw.auth_request())
        self.assertFalse(raw.server.authenticated)
        self.assertTrue(raw.wire.disconnecting)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    @settings(deadline=None, max_examples=200)
    @given(st.data())
    def test_nothing_spoilt_gets_in(self, data: st.DataObject) -> None:
        """A right request with any part of it replaced."""
        raw = self.client(anybody)
        request = raw.auth_request()
        start = data.draw(st.integers(0, len(request) - 1))
        end = data.draw(st.integers(start, len(request)))
        replacement = data.draw(st.binary(max_size=end - start + 2))
        spoilt = request[:start] + replacement + request[end:]
        raw.send(MSG_USERAUTH_REQUEST, spoilt)
        self.assertEqual(raw.server.authenticated, spoilt == request)
        self.assertEqual(self.flushLoggedErrors(), [])
