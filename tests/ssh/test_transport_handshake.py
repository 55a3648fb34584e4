"""Tests for :mod:`rtunnel.ssh.transport` from the version line to the login."""

from __future__ import annotations

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import (
    DISCONNECT_KEY_EXCHANGE_FAILED,
    DISCONNECT_PROTOCOL_ERROR,
    DISCONNECT_SERVICE_NOT_AVAILABLE,
    CertificateError,
    ConnectionFailed,
    HostRefused,
)
from rtunnel.ssh.host_key import HostKey
from rtunnel.ssh.limits import DEFAULT_LIMITS
from rtunnel.ssh.userauth import LoginRules
from rtunnel.trust.identity import Identity
from rtunnel.wire.algorithms import CIPHERS, DEFAULT_ALGORITHMS, Algorithms
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.data_types import string, uint32
from rtunnel.wire.keys import ECDSA_P256, ED25519, RSA, PrivateKey, PublicKey
from rtunnel.wire.negotiation import encode_ext_info
from rtunnel.wire.numbers import (
    MSG_CHANNEL_DATA,
    MSG_EXT_INFO,
    MSG_IGNORE,
    MSG_KEXINIT,
    MSG_SERVICE_ACCEPT,
    MSG_SERVICE_REQUEST,
    MSG_USERAUTH_FAILURE,
    MSG_USERAUTH_REQUEST,
)
from tests.ssh.transports import (
    ADDRESS,
    HOST_KEY,
    Pair,
    RawClient,
    RecordingService,
    certified,
    identity,
    make_client,
    make_server,
)
from tests.wire.examples import private_key

CHACHA20 = Algorithms(ciphers=(b"chacha20-poly1305@openssh.com",))


class HandshakeTests(SynchronousTestCase):
    """From the first byte to the login."""

    def test_every_cipher_mac_and_key_exchange(self) -> None:
        """Each is negotiated and carries messages both ways."""
        defaults = DEFAULT_ALGORITHMS
        everything = Algorithms(ciphers=tuple(CIPHERS))
        for changes in (
            *({"ciphers": (name,)} for name in CIPHERS),
            *({"ciphers": (b"aes128-ctr",), "macs": (name,)} for name in defaults.macs),
            *({"key_exchanges": (name,)} for name in defaults.key_exchanges),
        ):
            clock = Clock()
            narrowed = Algorithms(**changes)
            pair = Pair(
                make_server(clock, algorithms=everything),
                make_client(clock, algorithms=narrowed),
            ).log_in()
            pair.client_transport.sendPacket(MSG_CHANNEL_DATA, b"up", b"ward")
            pair.server_transport.sendPacket(MSG_CHANNEL_DATA, b"down")
            pair.pump()
            self.assertEqual(pair.server.service.received, [(94, b"upward")])
            self.assertEqual(pair.client.service.received, [(94, b"down")])

    def test_bytes_may_come_one_by_one_or_all_at_once(self) -> None:
        """Version line and KEXINIT in one segment included."""
        for count in (1, 7, None):
            pair = Pair()
            pair.pump(count)
            self.assertEqual(pair.ready, [pair.client_transport.service])

    def test_the_version_line_says_what_but_not_which(self) -> None:
        """No version of anything is given away."""
        server = make_server(Clock())
        raw = RawClient(server)
        self.assertTrue(raw.wire.value().startswith(b"SSH-2.0-rtunnel\r\n"))

    def test_one_write_for_one_read(self) -> None:
        """What a segment causes to be sent leaves together."""
        pair = Pair()
        writes: list[int] = []
        write_sequence = pair.server.wire.writeSequence

        def counted(pieces: list[bytes]) -> None:
            writes.append(len(pieces))
            write_sequence(pieces)

        pair.server.wire.writeSequence = counted  # type: ignore[method-assign]
        pair.move(pair.client)
        pair.move(pair.server)
        writes.clear()
        # The reply, NEWKEYS and EXT_INFO.
        pair.move(pair.client)
        self.assertEqual(len(writes), 1)

    def test_the_server_names_the_user_keys_it_takes(self) -> None:
        """Not the host keys that it has (RFC 8308 section 3.1)."""
        pair = Pair().log_in()
        self.assertEqual(
            pair.client_transport.server_sig_algs, DEFAULT_ALGORITHMS.user_keys
        )
        narrowed = Algorithms(user_keys=(b"ssh-ed25519",))
        pair = Pair(make_server(Clock(), algorithms=narrowed)).log_in()
        self.assertEqual(pair.client_transport.server_sig_algs, (b"ssh-ed25519",))

    def test_chacha20_is_refused_to_a_peer_that_is_not_strict(self) -> None:
        """Nothing can be cut out of a connection unnoticed, whichever end we are."""
        for strict in (True, False):
            server = make_server(Clock(), algorithms=CHACHA20)
            raw = RawClient(server, strict=strict)
            raw.algorithms = CHACHA20
            raw.send_version()
            raw.send(MSG_KEXINIT, raw.kexinit().payload[1:])
            if strict:
                self.assertIsNone(raw.disconnect_reason())
            else:
                self.assertEqual(
                    raw.disconnect_reason(),
                    (
                        DISCONNECT_KEY_EXCHANGE_FAILED,
                        "chacha20-poly1305@openssh.com needs strict KEX, which you do "
                        "not do",
                    ),
                )

    def test_who_does_not_ask_gets_no_ext_info(self) -> None:
        """RFC 8308 section 2.2."""
        for strict in (True, False):
            raw = RawClient(make_server(Clock()), strict=strict).connect()
            self.assertEqual(MSG_EXT_INFO in raw.numbers(), strict)

    def test_the_identity_is_known_before_the_service_runs(self) -> None:
        """And never changes after."""
        made: list[Identity] = []

        def make_service(who: Identity) -> RecordingService:
            made.append(who)
            return RecordingService()

        rules = LoginRules(lambda *request: identity("bob"), make_service)
        pair = Pair(make_server(Clock(), rules=rules))
        self.assertIsNone(pair.server_transport.identity)
        pair.log_in()
        self.assertEqual(pair.server_transport.identity, identity("bob"))
        self.assertEqual(made, [identity("bob")])
        self.assertIsNone(pair.client_transport.identity)

    def test_the_peer_has_an_address(self) -> None:
        """An IPv4 one is never written as IPv6."""
        for given_, expected in (
            (ADDRESS, ADDRESS),
            ("::ffff:192.0.2.9", "192.0.2.9"),
            ("2001:db8::1", "2001:db8::1"),
        ):
            server = make_server(Clock())
            RawClient(server, address=given_)
            self.assertEqual(server.peer_address, expected)

    def test_last_received_is_the_newest_byte(self) -> None:
        """Any byte counts as life."""
        pair = Pair().log_in()
        pair.clock.advance(5)
        self.assertEqual(pair.server_transport.last_received, 0)
        pair.client_transport.sendPacket(MSG_IGNORE, string(b""))
        pair.pump()
        self.assertEqual(pair.server_transport.last_received, 5)

    def test_conch_asks_whether_packets_are_protected(self) -> None:
        """After the first key exchange they are."""
        server = make_server(Clock())
        raw = RawClient(server)
        self.assertFalse(server.isEncrypted("both") or server.isVerified("both"))
        raw.connect()
        self.assertTrue(server.isEncrypted("both") and server.isVerified("both"))


class HostKeyTests(SynchronousTestCase):
    """What the server proves itself with, and what the client makes of it."""

    def check(
        self, host_keys: list[HostKey], algorithms: Algorithms = DEFAULT_ALGORITHMS
    ) -> tuple[bytes, Certificate | None]:
        """The algorithm that is negotiated, and the certificate the client has."""
        checked: list[bytes] = []

        def check_host(algorithm: bytes, blob: bytes) -> Certificate | PublicKey:
            checked.append(algorithm)
            if algorithm.endswith(b"-cert-v01@openssh.com"):
                return Certificate.from_blob(blob)
            return PublicKey.from_blob(blob)

        clock = Clock()
        pair = Pair(
            make_server(clock, host_keys=host_keys),
            make_client(clock, algorithms=algorithms, check_host=check_host),
        ).log_in()
        self.assertEqual(len(checked), 1)
        return checked[0], pair.client_transport.host_certificate

    def test_every_kind_of_key_plain_and_certified(self) -> None:
        """Under every algorithm that it can do, the certificate first."""
        for key_type in (ED25519, ECDSA_P256, RSA):
            key = private_key(key_type)
            host_key = certified(key)
            for name in host_key.algorithms:
                only = Algorithms(host_keys=(name,))
                algorithm, certificate = self.check([host_key], only)
                self.assertEqual(algorithm, name)
                self.assertEqual(certificate is not None, b"-cert-" in name)
            signatures = key.public.signature_algorithms
            self.assertEqual(HostKey(key).algorithms, signatures)
            self.assertEqual(host_key.algorithms[len(signatures) :], signatures)

    def test_a_certificate_is_chosen_before_a_plain_key(self) -> None:
        """Even one of a better kind."""
        algorithm, certificate = self.check(
            [HostKey(private_key(ED25519)), certified(private_key(RSA))]
        )
        self.assertEqual(algorithm, b"rsa-sha2-512-cert-v01@openssh.com")
        assert certificate is not None
        self.assertEqual(certificate.principals, ("example.com",))

    def test_a_host_key_refused_hears_nothing_of_us(self) -> None:
        """The client hangs up before it says who it is, and says why to its owner."""
        for error in (HostRefused("claimed"), CertificateError("expired")):
            asked: list[bytes] = []

            def check_host(
                algorithm: bytes, blob: bytes, error: Exception = error
            ) -> PublicKey:
                raise error

            def identify(
                algorithm: bytes, blob: bytes, source: str, asked: list[bytes] = asked
            ) -> Identity:
                asked.append(blob)
                return identity()

            clock = Clock()
            rules = LoginRules(identify, lambda who: RecordingService())
            pair = Pair(
                make_server(clock, rules=rules),
                make_client(clock, check_host=check_host),
            )
            pair.pump()
            failure = pair.ready[0]
            self.assertIsInstance(failure.value, HostRefused)
            self.assertEqual(str(failure.value), str(error))
            if isinstance(error, HostRefused):
                self.assertIs(failure.value, error)
            self.assertEqual(asked, [])
            self.assertIsNone(pair.server_transport.service)
            self.assertEqual(
                pair.server_transport.close_reason,
                "the peer disconnected: host key not accepted",
            )

    def test_a_signature_by_another_key_is_refused(self) -> None:
        """Before the host check is even asked."""

        @attrs.frozen
        class Impostor(HostKey):
            def sign(self, data: bytes, algorithm: bytes) -> bytes:
                return PrivateKey.generate().sign(data)

        def check_host(algorithm: bytes, blob: bytes) -> PublicKey:
            raise AssertionError("asked")

        clock = Clock()
        pair = Pair(
            make_server(clock, host_keys=[Impostor(HOST_KEY)]),
            make_client(clock, check_host=check_host),
        )
        pair.pump()
        self.assertIsInstance(pair.ready[0].value, ConnectionFailed)
        self.assertIn("signature", str(pair.ready[0].value))

    def test_a_certificate_has_to_speak_of_the_key(self) -> None:
        """A server cannot be set up with somebody else's certificate."""
        with self.assertRaises(ValueError):
            HostKey(PrivateKey.generate(), certified(HOST_KEY).certificate)


class BeforeLoginTests(SynchronousTestCase):
    """What may come between the first NEWKEYS and a login."""

    def test_the_service_is_authentication_and_no_other(self) -> None:
        """Nor the same one twice."""
        raw = RawClient(make_server(Clock())).connect()
        raw.send(MSG_SERVICE_REQUEST, string(b"ssh-userauth"))
        self.assertEqual(raw.take(MSG_SERVICE_ACCEPT), string(b"ssh-userauth"))
        raw.send(MSG_SERVICE_REQUEST, string(b"ssh-userauth"))
        reason = raw.disconnect_reason()
        assert reason is not None
        self.assertEqual(reason[0], DISCONNECT_SERVICE_NOT_AVAILABLE)
        for name in (b"ssh-connection", b"", b"\x1b[2J"):
            raw = RawClient(make_server(Clock())).connect()
            raw.send(MSG_SERVICE_REQUEST, string(name))
            reason = raw.disconnect_reason()
            assert reason is not None
            self.assertEqual(reason[0], DISCONNECT_SERVICE_NOT_AVAILABLE)
            self.assertTrue(reason[1].isprintable())

    def test_nothing_of_the_connection_protocol(self) -> None:
        """No channel, no request, nothing at all."""
        for number in range(80, 256):
            raw = RawClient(make_server(Clock())).start_userauth()
            raw.send(number, string(b"x"))
            reason = raw.disconnect_reason()
            assert reason is not None
            self.assertEqual(reason[0], DISCONNECT_PROTOCOL_ERROR)

    def test_no_authentication_before_its_service(self) -> None:
        """A login has to be asked for in order."""
        raw = RawClient(make_server(Clock())).connect()
        raw.send(MSG_USERAUTH_REQUEST, raw.auth_request())
        self.assertIsNotNone(raw.disconnect_reason())
        self.assertFalse(raw.server.authenticated)

    def test_no_key_exchange_message_outside_of_one(self) -> None:
        """21 to 49, in whatever state."""
        for number in range(21, 50):
            raw = RawClient(make_server(Clock())).connect()
            raw.send(number, b"")
            self.assertIsNotNone(raw.disconnect_reason())

    def test_bytes_are_limited(self) -> None:
        """1 MiB before a login, whatever they hold; after it, no more."""
        limits = attrs.evolve(DEFAULT_LIMITS, unauthenticated_bytes=50_000)
        for log_in in (False, True):
            server = make_server(Clock(), limits=limits)
            raw = RawClient(server).start_userauth()
            if log_in:
                raw.send(MSG_USERAUTH_REQUEST, raw.auth_request())
            for _ in range(50):
                if server.close_reason:
                    break
                raw.send(MSG_IGNORE, string(bytes(1000)))
            self.assertEqual(
                server.close_reason,
                "" if log_in else "too many bytes before authentication",
            )

    def test_an_ext_info_right_after_newkeys_is_read(self) -> None:
        """So a malformed one is a fault (RFC 8308 section 2.4)."""
        raw = RawClient(make_server(Clock())).connect()
        raw.send(MSG_EXT_INFO, uint32(99))
        self.assertIsNotNone(raw.disconnect_reason())
        raw = RawClient(make_server(Clock())).connect()
        raw.send(MSG_EXT_INFO, encode_ext_info([(b"x", b"y")]))
        raw.send(MSG_SERVICE_REQUEST, string(b"ssh-userauth"))
        self.assertIn(MSG_SERVICE_ACCEPT, raw.numbers())

    def test_an_ext_info_at_any_other_time_is_passed_over_unread(self) -> None:
        """However large, it costs nothing."""
        raw = RawClient(make_server(Clock())).connect()
        raw.send(MSG_IGNORE, string(b""))
        raw.send(MSG_EXT_INFO, uint32(2**32 - 1) + bytes(30_000))
        raw.send(MSG_SERVICE_REQUEST, string(b"ssh-userauth"))
        self.assertIn(MSG_SERVICE_ACCEPT, raw.numbers())

    def test_login_grace_holds_at_every_stage(self) -> None:
        """20 seconds from accept, and 2 more until TCP is cut."""

        def silent(raw: RawClient) -> None:
            pass

        def half_a_line(raw: RawClient) -> None:
            raw.send_bytes(b"SSH-2.0")

        def half_an_exchange(raw: RawClient) -> None:
            raw.send_version()
            raw.send(MSG_KEXINIT, raw.kexinit().payload[1:])

        def connected(raw: RawClient) -> None:
            raw.connect()

        def refused(raw: RawClient) -> None:
            raw.start_userauth()
            request = raw.auth_request(PrivateKey.generate())
            raw.send(MSG_USERAUTH_REQUEST, request)
            self.assertIn(MSG_USERAUTH_FAILURE, raw.numbers())

        for stage in (silent, half_a_line, half_an_exchange, connected, refused):
            clock = Clock()
            server = make_server(clock)
            raw = RawClient(server)
            clock.advance(10)
            stage(raw)
            clock.advance(9.9)
            self.assertFalse(raw.wire.disconnecting, stage)
            clock.advance(0.2)
            self.assertEqual(server.close_reason, "not authenticated within 20 seconds")
            self.assertTrue(raw.wire.disconnecting)
            self.assertFalse(raw.wire.disconnected)
            clock.advance(2)
            self.assertTrue(raw.wire.disconnected)
            server.connectionLost()
            self.assertEqual(clock.getDelayedCalls(), [])

    def test_a_login_ends_the_grace(self) -> None:
        """For both ends."""
        pair = Pair().log_in()
        pair.clock.advance(100)
        self.assertEqual(pair.server_transport.close_reason, "")
        self.assertEqual(pair.client_transport.close_reason, "")

    @settings(deadline=None, max_examples=150)
    @given(
        st.integers(0, 3),
        st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=60)), max_size=8),
    )
    def test_nothing_gets_in_and_nothing_raises(
        self, stage: int, messages: list[tuple[int, bytes]]
    ) -> None:
        """Whatever messages a stranger sends, it is a fault of the stranger's."""
        server = make_server(Clock())
        raw = RawClient(server)
        if stage == 1:
            raw.send_version()
        elif stage == 2:
            raw.connect()
        elif stage == 3:
            raw.start_userauth()
        for number, payload in messages:
            data = raw.packet(number, payload) if stage else payload
            server.dataReceived(data)
        self.assertFalse(server.authenticated)
        self.assertNotEqual(server.close_reason, "internal error")
        self.assertEqual(self.flushLoggedErrors(), [])
