"""Tests for :mod:`rtunnel.ssh.packet_transport` until the first keys are in use."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import (
    DISCONNECT_PROTOCOL_ERROR,
    DISCONNECT_PROTOCOL_VERSION_NOT_SUPPORTED,
)
from rtunnel.wire.algorithms import Algorithms
from rtunnel.wire.data_types import name_list, string, uint32
from rtunnel.wire.negotiation import KexInit
from rtunnel.wire.numbers import (
    MSG_DEBUG,
    MSG_DISCONNECT,
    MSG_EXT_INFO,
    MSG_IGNORE,
    MSG_KEX_ECDH_INIT,
    MSG_KEX_ECDH_REPLY,
    MSG_KEXINIT,
    MSG_NEWKEYS,
    MSG_SERVICE_REQUEST,
    MSG_UNIMPLEMENTED,
)
from rtunnel.wire.packet_stream import PacketSealer
from tests.ssh.transports import Pair, RawClient, make_server

#: A public value of curve25519.
VALUE = b"\x09" + bytes(31)


NO_MEANING = (MSG_IGNORE, MSG_UNIMPLEMENTED, MSG_DEBUG)


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
