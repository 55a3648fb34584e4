"""Tests for :mod:`rtunnel.ssh.transport` and :mod:`rtunnel.ssh.packet_transport`."""

from __future__ import annotations

import os
from typing import Any, cast

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import (
    DISCONNECT_BY_APPLICATION,
    DISCONNECT_KEY_EXCHANGE_FAILED,
    DISCONNECT_MAC_ERROR,
    DISCONNECT_PROTOCOL_ERROR,
    DISCONNECT_PROTOCOL_VERSION_NOT_SUPPORTED,
    DISCONNECT_SERVICE_NOT_AVAILABLE,
    AuthenticationFailed,
    CertificateError,
    ConnectionFailed,
    HostRefused,
)
from rtunnel.ssh.host_key import HostKey
from rtunnel.ssh.limits import DEFAULT_LIMITS
from rtunnel.ssh.log_rate import LogRate
from rtunnel.ssh.transport import ServerTransport
from rtunnel.ssh.userauth import LoginRules
from rtunnel.ssh.userauth_client import Credentials
from rtunnel.trust.identity import Identity
from rtunnel.wire.algorithms import CIPHERS, DEFAULT_ALGORITHMS, Algorithms
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.data_types import name_list, string, text, uint32
from rtunnel.wire.keys import ECDSA_P256, ED25519, RSA, PrivateKey, PublicKey
from rtunnel.wire.negotiation import SERVER_SIG_ALGS, KexInit, encode_ext_info
from rtunnel.wire.numbers import (
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_OPEN,
    MSG_DEBUG,
    MSG_DISCONNECT,
    MSG_EXT_INFO,
    MSG_GLOBAL_REQUEST,
    MSG_IGNORE,
    MSG_KEX_ECDH_INIT,
    MSG_KEX_ECDH_REPLY,
    MSG_KEXINIT,
    MSG_NEWKEYS,
    MSG_SERVICE_ACCEPT,
    MSG_SERVICE_REQUEST,
    MSG_UNIMPLEMENTED,
    MSG_USERAUTH_FAILURE,
    MSG_USERAUTH_REQUEST,
    MSG_USERAUTH_SUCCESS,
)
from rtunnel.wire.packet_stream import PacketSealer
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

#: A public value of curve25519.
VALUE = b"\x09" + bytes(31)

CHACHA20 = Algorithms(ciphers=(b"chacha20-poly1305@openssh.com",))

NO_MEANING = (MSG_IGNORE, MSG_UNIMPLEMENTED, MSG_DEBUG)


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


class FirstExchangeTests(SynchronousTestCase):
    """What may come before the first NEWKEYS."""

    def assert_refused(
        self, raw: RawClient, reason: int = DISCONNECT_PROTOCOL_ERROR
    ) -> None:
        """Assert that the server said goodbye, hung up, and logged one line."""
        said = raw.disconnect_reason()
        assert said is not None, raw.received
        self.assertEqual(said[0], reason, said)
        self.assertTrue(raw.wire.disconnecting)

    def test_nothing_but_key_exchange_under_strict_kex(self) -> None:
        """Every other message ends the connection, harmless ones too."""
        for number in range(256):
            if number in (MSG_DISCONNECT, MSG_KEX_ECDH_INIT):
                continue
            raw = RawClient(make_server(Clock()))
            raw.send_version()
            raw.send(MSG_KEXINIT, raw.kexinit().payload[1:])
            raw.send(number, string(b"x") * 3)
            self.assert_refused(raw)

    def test_nothing_between_the_reply_and_newkeys(self) -> None:
        """The last moment at which something could be slipped in."""
        for number in (*NO_MEANING, MSG_EXT_INFO, MSG_SERVICE_REQUEST, 50, 94):
            raw = self.curve25519_only()
            raw.send(MSG_KEXINIT, raw.kexinit().payload[1:])
            raw.send(MSG_KEX_ECDH_INIT, string(VALUE))
            self.assertIn(MSG_NEWKEYS, raw.numbers())
            raw.server.dataReceived(raw.packet(number, string(b"x")))
            self.assertIn(f"message {number} in", raw.server.close_reason)

    def test_kexinit_comes_first_under_strict_kex(self) -> None:
        """What came before it is held against the peer once it turns out strict."""
        raw = RawClient(make_server(Clock()))
        raw.send_version()
        raw.send(MSG_IGNORE, string(b""))
        self.assertIsNone(raw.disconnect_reason())
        raw.send(MSG_KEXINIT, raw.kexinit().payload[1:])
        self.assert_refused(raw)

    def test_messages_without_meaning_are_allowed_when_not_strict(self) -> None:
        """Before and after KEXINIT; nothing else is (RFC 4253 section 7.1)."""
        raw = RawClient(make_server(Clock()), strict=False)
        raw.send_version()
        for number in NO_MEANING:
            raw.send(number, string(b""))
        ours = raw.kexinit()
        raw.send(MSG_KEXINIT, ours.payload[1:])
        for number in NO_MEANING:
            raw.send(number, string(b""))
        raw.exchange_keys(ours)
        self.assertIsNone(raw.disconnect_reason())
        for number in range(256):
            if number in (MSG_DISCONNECT, MSG_KEX_ECDH_INIT, *NO_MEANING):
                continue
            raw = RawClient(make_server(Clock()), strict=False)
            raw.send_version()
            raw.send(MSG_KEXINIT, raw.kexinit().payload[1:])
            raw.send(number, string(b"x") * 3)
            self.assert_refused(raw)

    def test_only_key_exchange_before_kexinit(self) -> None:
        """The same with nothing exchanged at all."""
        for number in range(256):
            if number in (MSG_DISCONNECT, MSG_KEXINIT, *NO_MEANING):
                continue
            raw = RawClient(make_server(Clock()))
            raw.send_version()
            raw.send(number, string(b"x") * 3)
            self.assert_refused(raw)

    def curve25519_only(self, *, strict: bool = True) -> RawClient:
        """A client whose server knows one key exchange method, version lines done."""
        ours = Algorithms(key_exchanges=(b"curve25519-sha256",))
        raw = RawClient(make_server(Clock(), algorithms=ours), strict=strict)
        raw.send_version()
        return raw

    def test_one_value_only(self) -> None:
        """A second KEX_ECDH_INIT would cost us another exchange."""
        raw = self.curve25519_only()
        raw.send(MSG_KEXINIT, raw.kexinit().payload[1:])
        raw.send(MSG_KEX_ECDH_INIT, string(VALUE))
        self.assertIn(MSG_KEX_ECDH_REPLY, raw.numbers())
        raw.server.dataReceived(raw.packet(MSG_KEX_ECDH_INIT, string(VALUE)))
        self.assertEqual(
            raw.server.close_reason, "message 30 out of turn in a key exchange"
        )

    def test_a_wrong_guess_is_passed_over(self) -> None:
        """Its packet, and no more; a right one is taken (RFC 4253 section 7)."""
        for first_choice in (b"mlkem768x25519-sha256", b"curve25519-sha256"):
            raw = self.curve25519_only(strict=False)
            raw.read()
            theirs = KexInit.parse(b"\x14" + raw.take(MSG_KEXINIT))
            payload = b"".join(
                [
                    b"\x14" + bytes(16),
                    name_list([first_choice, b"curve25519-sha256"]),
                    name_list(theirs.host_keys),
                    name_list(theirs.ciphers_client_to_server) * 2,
                    name_list(theirs.macs_client_to_server) * 2,
                    name_list([b"none"]) * 2,
                    name_list([]) * 2,
                    b"\x01" + uint32(0),
                ]
            )
            raw.send(MSG_KEXINIT, payload[1:])
            raw.send(MSG_KEX_ECDH_INIT, string(VALUE))
            guessed_right = first_choice == theirs.key_exchanges[0]
            self.assertEqual(MSG_KEX_ECDH_REPLY in raw.numbers(), guessed_right)
            if not guessed_right:
                raw.send(MSG_KEX_ECDH_INIT, string(VALUE))
                self.assertIn(MSG_KEX_ECDH_REPLY, raw.numbers())

    def test_newkeys_takes_no_data(self) -> None:
        """It is one byte long."""
        raw = RawClient(make_server(Clock()))

        class Talkative(PacketSealer):
            def seal(self, number: int, *rest: Any) -> int:
                payload = b"x" if number == MSG_NEWKEYS else rest[0]
                return super().seal(number, payload, *rest[1:])

        raw.sealer = Talkative(os.urandom)
        raw.connect()
        self.assert_refused(raw)

    def test_other_protocols_are_refused_at_once(self) -> None:
        """With the reason code for it."""
        for line in (
            b"GET / HTTP/1.1\r\n",
            b"SSH-1.5-old\r\n",
            b"SSH-2.0-" + b"x" * 300,
        ):
            raw = RawClient(make_server(Clock()))
            raw.send_bytes(line)
            self.assert_refused(raw, DISCONNECT_PROTOCOL_VERSION_NOT_SUPPORTED)

    def test_packets_are_limited_to_64_kib(self) -> None:
        """Certificates have to fit, more does not."""
        for size, refused in ((65536, False), (65544, True)):
            raw = RawClient(make_server(Clock()))
            raw.send_version()
            # The length field counts in the alignment to 8 bytes.
            raw.send_bytes(uint32(size - 4 if size == 65536 else size + 4))
            self.assertEqual(raw.disconnect_reason() is not None, refused)

    def test_the_client_takes_as_little_as_the_server(self) -> None:
        """The same table, seen from the other side, before and after KEXINIT."""
        for number in range(256):
            if number in (MSG_DISCONNECT, *NO_MEANING):
                continue
            for after_kexinit in (False, True):
                if number in (MSG_KEXINIT, MSG_KEX_ECDH_REPLY)[after_kexinit:][:1]:
                    continue
                pair = Pair()
                sealer, out = PacketSealer(os.urandom), [b"SSH-2.0-test\r\n"]
                if after_kexinit:
                    kexinit = RawClient(make_server(Clock()), strict=False).kexinit()
                    sealer.seal(MSG_KEXINIT, kexinit.payload[1:], b"", out)
                sealer.seal(number, string(b"x"), b"", out)
                pair.client_transport.dataReceived(b"".join(out))
                self.assertRegex(
                    pair.client_transport.close_reason,
                    "^message|^a KEXINIT while a key exchange",
                )


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


class RunningTests(SynchronousTestCase):
    """After the login."""

    def logged_in(self) -> tuple[RawClient, ServerTransport, RecordingService]:
        """A client, the server's end, and the service that runs there."""
        server = make_server(Clock())
        raw = RawClient(server).log_in()
        assert isinstance(server.service, RecordingService)
        return raw, server, server.service

    def test_messages_from_80_to_127_are_the_service_s(self) -> None:
        """Number and payload, as they came."""
        raw, _, service = self.logged_in()
        for number in range(80, 128):
            raw.send(number, b"payload")
        self.assertEqual(
            service.received, [(number, b"payload") for number in range(80, 128)]
        )

    def test_messages_we_do_not_know_are_named_to_the_peer(self) -> None:
        """By the sequence number that they had (RFC 4253 section 11.4)."""
        raw, server, service = self.logged_in()
        for number in (0, 6, 8, 19, 128, 192, 255):
            sequence = raw.sealer.sequence
            raw.send(number, b"x")
            self.assertEqual(raw.take(MSG_UNIMPLEMENTED), uint32(sequence))
        raw.sealer.sequence = server._opener.sequence = 0
        raw.send(200)
        self.assertEqual(raw.take(MSG_UNIMPLEMENTED), uint32(0))
        self.assertEqual(service.received, [])

    def test_a_flood_of_messages_leaves_others_their_turn(self) -> None:
        """256, then the reactor goes round before the next 256, and nothing is lost."""
        raw, server, service = self.logged_in()
        clock = cast(Clock, server.clock)
        payloads = [uint32(number) for number in range(600)]
        server.dataReceived(b"".join(raw.packet(80, each) for each in payloads))
        self.assertEqual(len(service.received), 256)
        self.assertEqual(raw.wire.producerState, "paused")
        # What TLS had read already comes all the same, and waits.
        server.dataReceived(raw.packet(80, b"last"))
        others: list[int] = []
        clock.callLater(0, lambda: others.append(len(service.received)))
        clock.advance(0)
        self.assertEqual(others, [512])
        self.assertEqual(raw.wire.producerState, "producing")
        self.assertEqual(
            [payload for _, payload in service.received], [*payloads, b"last"]
        )
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_messages_that_take_long_leave_others_their_turn(self) -> None:
        """10 ms of work, then the reactor goes round, and nothing is lost."""
        raw, server, service = self.logged_in()
        clock = cast(Clock, server.clock)
        take = service.packetReceived

        def work(number: int, payload: bytes) -> None:
            clock.rightNow += 0.003
            take(number, payload)

        server._deliver = work  # type: ignore[assignment]
        payloads = [uint32(number) for number in range(10)]
        server.dataReceived(b"".join(raw.packet(80, each) for each in payloads))
        self.assertEqual(len(service.received), 4)
        self.assertEqual(raw.wire.producerState, "paused")
        others: list[int] = []
        clock.callLater(0, lambda: others.append(len(service.received)))
        clock.advance(0)
        self.assertEqual(others, [8])
        self.assertEqual([payload for _, payload in service.received], payloads)
        self.assertEqual(raw.wire.producerState, "producing")

    def test_a_flood_ends_with_its_connection(self) -> None:
        """Whoever ends it, and the end of the TCP connection is still noticed."""
        for end in ("disconnect", "lose"):
            raw, server, service = self.logged_in()
            clock = cast(Clock, server.clock)
            server.dataReceived(b"".join(raw.packet(80) for _ in range(600)))
            if end == "disconnect":
                server.disconnect(11, "enough")
                clock.advance(0)
                self.assertEqual(raw.wire.producerState, "producing")
            else:
                server.connectionLost()
                self.assertEqual(clock.getDelayedCalls(), [])
            self.assertEqual(len(service.received), 256)

    def test_messages_we_do_not_know_are_counted(self) -> None:
        """256 between two key exchanges."""
        raw, server, _ = self.logged_in()
        for _ in range(256):
            raw.send(200)
        self.assertEqual(server.close_reason, "")
        raw.exchange_keys()
        for _ in range(256):
            raw.send(200)
        self.assertEqual(server.close_reason, "")
        raw.send(200)
        self.assertEqual(server.close_reason, "too many messages that we do not know")

    def test_logins_are_over(self) -> None:
        """Messages 50 to 79 are ignored after the first success (RFC 4252, 5.1)."""
        raw, server, service = self.logged_in()
        before = server.identity
        for number in range(50, 80):
            raw.send(number, raw.auth_request(PrivateKey.generate()))
        self.assertEqual(raw.received, [])
        self.assertEqual(service.received, [])
        self.assertIs(server.identity, before)
        self.assertEqual(server.close_reason, "")

    def test_there_is_no_other_service_to_ask_for(self) -> None:
        """Not even authentication again."""
        for name in (b"ssh-userauth", b"ssh-connection"):
            raw, server, service = self.logged_in()
            raw.send(MSG_SERVICE_REQUEST, string(name))
            reason = raw.disconnect_reason()
            assert reason is not None
            self.assertEqual(reason[0], DISCONNECT_SERVICE_NOT_AVAILABLE)
            self.assertIs(server.service, service)

    def test_packets_of_256_kib_of_data_are_taken(self) -> None:
        """As large as OpenSSH's, and no larger."""
        pair = Pair().log_in()
        data = bytes(2**18)
        for origin, target in (
            (pair.client_transport, pair.server.service),
            (pair.server_transport, pair.client.service),
        ):
            origin.sendPacket(MSG_CHANNEL_DATA, uint32(0) + uint32(len(data)), data)
            pair.pump()
            self.assertEqual(len(target.received[0][1]), len(data) + 8)
        pair.client_transport.sendPacket(MSG_CHANNEL_DATA, bytes(2**18 + 2048))
        pair.pump()
        self.assertIn("packet length", pair.server_transport.close_reason)

    def test_a_packet_that_is_not_authentic_ends_the_connection(self) -> None:
        """With nothing of it delivered."""
        pair = Pair().log_in()
        pair.client_transport.sendPacket(MSG_CHANNEL_DATA, b"payload")
        data = bytearray(pair.client.wire.take())
        data[-1] ^= 1
        pair.server_transport.dataReceived(bytes(data))
        self.assertEqual(
            pair.server_transport.close_reason, "a packet is not authentic"
        )
        self.assertEqual(pair.server.service.received, [])
        pair.pump()
        self.assertIn("not authentic", pair.client_transport.close_reason)
        self.assertTrue(DISCONNECT_MAC_ERROR)

    def test_an_error_of_ours_ends_the_connection_and_is_logged(self) -> None:
        """The peer hears no more than that."""
        raw, _, service = self.logged_in()

        def answer(number: int, payload: bytes) -> None:
            raise ZeroDivisionError("a secret")

        service.answer = answer
        raw.send(MSG_CHANNEL_DATA, b"x")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(
            raw.disconnect_reason(), (DISCONNECT_BY_APPLICATION, "internal error")
        )

    @settings(deadline=None, max_examples=150)
    @given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=60)), max_size=8))
    def test_nothing_raises(self, messages: list[tuple[int, bytes]]) -> None:
        """Whatever messages a peer sends."""
        server = make_server(Clock())
        raw = RawClient(server).log_in()
        for number, payload in messages:
            server.dataReceived(raw.packet(number, payload))
        self.assertNotEqual(server.close_reason, "internal error")
        self.assertEqual(self.flushLoggedErrors(), [])


class EndTests(SynchronousTestCase):
    """How connections end."""

    def test_disconnect_says_why_hangs_up_and_is_not_kept_waiting(self) -> None:
        """SSH_MSG_DISCONNECT, then TCP is closed, then after 2 seconds cut."""
        pair = Pair().log_in()
        server = pair.server_transport
        server.disconnect(DISCONNECT_BY_APPLICATION, "going away")
        self.assertTrue(pair.server.wire.disconnecting)
        self.assertIsNone(pair.server.wire.producer)
        self.assertEqual(server.close_reason, "going away")
        pair.clock.advance(1.9)
        self.assertFalse(pair.server.wire.disconnected)
        pair.clock.advance(0.1)
        self.assertTrue(pair.server.wire.disconnected)
        pair.pump()
        self.assertEqual(
            pair.client_transport.close_reason, "the peer disconnected: going away"
        )
        self.assertEqual(pair.clock.getDelayedCalls(), [])

    def test_nothing_is_sent_or_read_after_the_end(self) -> None:
        """And saying goodbye twice says it once."""
        pair = Pair().log_in()
        service = pair.server.service
        pair.client_transport.sendPacket(MSG_CHANNEL_DATA, b"late")
        pair.server_transport.disconnect(DISCONNECT_BY_APPLICATION, "first")
        size = len(pair.server.wire.value())
        pair.server_transport.sendPacket(MSG_CHANNEL_DATA, b"x")
        pair.server_transport.disconnect(DISCONNECT_BY_APPLICATION, "second")
        pair.server_transport.loseConnection()
        self.assertEqual(len(pair.server.wire.value()), size)
        self.assertEqual(pair.server_transport.close_reason, "first")
        pair.pump()
        self.assertEqual(service.received, [])

    def test_a_fault_is_one_log_line_without_a_traceback(self) -> None:
        """It names the peer and what was wrong."""
        with capturedLogs() as events:
            raw = RawClient(make_server(Clock())).connect()
            raw.send(MSG_NEWKEYS)
        logged = [e for e in events if e["log_level"] >= LogLevel.info]
        self.assertEqual(len(logged), 1)
        self.assertEqual(logged[0]["address"], ADDRESS)
        self.assertEqual(logged[0]["reason"], "message 21 outside of a key exchange")
        self.assertNotIn("log_failure", logged[0])

    def test_what_a_peer_says_is_escaped(self) -> None:
        """In the reason and in the log, and cut."""
        raw = RawClient(make_server(Clock())).connect()
        with capturedLogs() as events:
            raw.send(
                MSG_DISCONNECT, uint32(11) + string(b"bye\r\n\x1b[2J" + b"x" * 5000)
            )
        reason = raw.server.close_reason
        self.assertTrue(reason.isprintable())
        self.assertTrue(reason.startswith("the peer disconnected: bye\\r\\n\\x1b"))
        self.assertLess(len(reason), 400)
        self.assertIn(events[0]["reason"], reason)
        self.assertTrue(raw.wire.disconnecting)

    def test_strangers_cannot_fill_the_log(self) -> None:
        """100 lines at once, then 10 a second, and how many were left out."""
        clock = Clock()
        log_rate = LogRate(clock)
        with capturedLogs() as events:
            for _ in range(150):
                server = make_server(clock, log_rate=log_rate)
                RawClient(server).send_bytes(b"GET / HTTP/1.0\r\n")
            self.assertEqual(len(events), 100)
            clock.advance(1)
            server = make_server(clock, log_rate=log_rate)
            RawClient(server).send_bytes(b"GET / HTTP/1.0\r\n")
        self.assertEqual(events[100]["suppressed"], 50)
        self.assertEqual(len(events), 102)

    def test_the_service_is_stopped_once(self) -> None:
        """When TCP is gone, and every timer with it."""
        pair = Pair().log_in()
        services = [end.service for end in pair.ends]
        for end in pair.ends:
            end.lose()
            end.transport.connectionLost()
        for service in services:
            self.assertEqual(service.told, ["started", "stopped"])
        self.assertIn("connection was lost", pair.server_transport.close_reason)
        self.assertEqual(pair.clock.getDelayedCalls(), [])

    def test_a_state_in_words(self) -> None:
        """For logs and tests."""
        pair = Pair()
        server = pair.server_transport
        seen = [repr(server)]
        pair.log_in()
        seen.append(repr(server))
        server.disconnect(DISCONNECT_BY_APPLICATION, "bye")
        seen.append(repr(server))
        pair.pump()
        seen.append(repr(server))
        self.assertEqual(
            seen,
            [
                f"<ServerTransport {ADDRESS} {state}>"
                for state in ("not authenticated", "authenticated", "closing", "closed")
            ],
        )


class ReadyTests(SynchronousTestCase):
    """What the client's owner hears: ``ready``, once."""

    def test_it_fires_with_the_running_service(self) -> None:
        """Which has been started by then."""
        pair = Pair().log_in()
        self.assertEqual(pair.ready, [pair.client.service])
        self.assertEqual(pair.client.service.told, ["started"])
        for end in pair.ends:
            end.lose()
        self.assertEqual(len(pair.ready), 1)

    def test_it_fails_when_the_connection_is_lost(self) -> None:
        """At whatever point of the handshake."""
        for steps in range(5):
            pair = Pair()
            for step in range(steps):
                pair.move(pair.ends[step % 2])
            self.assertEqual(pair.ready, [])
            pair.client.lose()
            self.assertEqual(len(pair.ready), 1)
            self.assertIs(pair.ready[0].type, ConnectionFailed)

    def test_it_fails_when_the_server_says_goodbye(self) -> None:
        """With what the server said."""
        pair = Pair()
        pair.server_transport.disconnect(DISCONNECT_BY_APPLICATION, "too busy")
        pair.pump()
        self.assertEqual(str(pair.ready[0].value), "the peer disconnected: too busy")

    def test_it_fails_when_the_login_takes_too_long(self) -> None:
        """The same 20 seconds, from connect."""
        clock = Clock()
        client = make_client(clock)
        pair = Pair(client=client, clock=clock)
        clock.advance(20)
        self.assertTrue(pair.client.wire.disconnecting)
        pair.client.lose()
        self.assertIn("20 seconds", str(pair.ready[0].value))

    def test_it_fails_when_the_key_is_refused(self) -> None:
        """And says what the server takes."""
        clock = Clock()
        credentials = Credentials("x", PrivateKey.generate())
        pair = Pair(client=make_client(clock, credentials=credentials))
        pair.pump()
        self.assertIsInstance(pair.ready[0].value, AuthenticationFailed)
        self.assertIn("publickey", str(pair.ready[0].value))

    def test_cancelling_hangs_up(self) -> None:
        """And nothing else is heard."""
        pair = Pair(client=make_client(Clock()))
        pair.move(pair.client)
        pair.client_transport.ready.cancel()
        self.assertIs(pair.ready[0].type, CancelledError)
        self.assertTrue(pair.client.wire.disconnecting)
        pair.pump()
        self.assertEqual(len(pair.ready), 1)

    def test_the_server_s_banner_is_logged_escaped(self) -> None:
        """A few of them; more are passed over."""
        pair = Pair()
        # To where the client waits for the answer to its request.
        for end in (*pair.ends, *pair.ends, pair.client):
            pair.move(end)
        with capturedLogs() as events:
            for _ in range(5):
                pair.server_transport.sendPacket(53, text("hello\n\x1b[0m") + text(""))
            pair.pump()
        banners = [event["banner"] for event in events if "banner" in event]
        self.assertEqual(banners, ["hello\\n\\x1b[0m"] * 3)

    def test_a_server_cannot_let_us_in_twice(self) -> None:
        """After the first success its messages of authentication are ignored."""
        pair = Pair().log_in()
        service = pair.client.service
        for number in (MSG_USERAUTH_SUCCESS, MSG_USERAUTH_FAILURE, 60):
            pair.server_transport.sendPacket(number, b"")
        pair.pump()
        self.assertIs(pair.client_transport.service, service)
        self.assertEqual(pair.client_transport.close_reason, "")

    def test_a_server_that_takes_something_else_ends_it(self) -> None:
        """Another service accepted, or an unexpected message of authentication."""
        for number, payload in (
            (MSG_SERVICE_ACCEPT, string(b"ssh-connection")),
            (60, b""),
            (MSG_USERAUTH_SUCCESS, b"x"),
            (MSG_CHANNEL_OPEN, b""),
            (MSG_GLOBAL_REQUEST, b""),
        ):
            server = make_server(Clock())
            pair = Pair(server)
            server.service_message = (  # type: ignore[method-assign]
                lambda *message, server=server, number=number, payload=payload: (
                    server.sendPacket(number, payload)
                )
            )
            pair.pump()
            self.assertIs(pair.ready[0].type, ConnectionFailed)
            # It is we who have a fault to find, and not the server in what we answer.
            self.assertNotIn("the peer", pair.client_transport.close_reason, number)

    def test_success_is_a_message_of_no_content(self) -> None:
        """One that has some lets nobody in."""
        pair = Pair()
        # To where the client waits for the answer to its request.
        for end in (*pair.ends, *pair.ends, pair.client):
            pair.move(end)
        pair.server_transport.sendPacket(MSG_USERAUTH_SUCCESS, b"x")
        pair.move(pair.server)
        self.assertFalse(pair.client_transport.authenticated)
        self.assertIn("too many", pair.client_transport.close_reason)

    def test_the_server_s_extensions_are_bounded(self) -> None:
        """An EXT_INFO that is too much ends the connection."""
        server = make_server(Clock())
        pair = Pair(server)
        server.first_keys_in_use = lambda: server.sendPacket(  # type: ignore[method-assign]
            MSG_EXT_INFO, encode_ext_info([(SERVER_SIG_ALGS, bytes(20_000))])
        )
        pair.pump()
        self.assertIn("EXT_INFO", str(pair.ready[0].value))
