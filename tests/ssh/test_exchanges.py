"""Tests for :mod:`rtunnel.ssh.exchanges`: keys are renewed, and nobody notices."""

from __future__ import annotations

import attrs
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.ssh.host_key import HostKey
from rtunnel.ssh.limits import DEFAULT_LIMITS, TransportLimits
from rtunnel.wire.algorithms import DEFAULT_ALGORITHMS, Algorithms
from rtunnel.wire.data_types import string
from rtunnel.wire.keys import PrivateKey, PublicKey
from rtunnel.wire.numbers import (
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_DEBUG,
    MSG_DISCONNECT,
    MSG_EXT_INFO,
    MSG_IGNORE,
    MSG_KEX_ECDH_INIT,
    MSG_KEX_ECDH_REPLY,
    MSG_KEXINIT,
    MSG_NEWKEYS,
    MSG_SERVICE_ACCEPT,
    MSG_SERVICE_REQUEST,
    MSG_UNIMPLEMENTED,
)
from rtunnel.wire.packet_stream import PacketOpener, PacketSealer
from tests.ssh.exchanging import completed, logged_in, running
from tests.ssh.transports import Pair, RawClient, make_client, make_server


class RekeyTests(SynchronousTestCase):
    """A second key exchange and those after it."""

    def send_both_ways(self, pair: Pair, count: int = 3, size: int = 100) -> None:
        """Send some data from each end and see it arrive, in order."""
        for origin, target in (pair.ends, pair.ends[::-1]):
            target.service.received.clear()
            sent = [b"%d" % index + bytes(size) for index in range(count)]
            for data in sent:
                origin.transport.sendPacket(MSG_CHANNEL_EXTENDED_DATA, data)
            pair.pump()
            self.assertEqual(
                target.service.received,
                [(MSG_CHANNEL_EXTENDED_DATA, data) for data in sent],
            )

    def test_either_end_may_start(self) -> None:
        """New keys, the same session id, and everything goes on."""
        pair = logged_in()
        session_id = pair.server_transport.session_id
        for number, end in enumerate(pair.ends * 3):
            end.transport.exchanges.start()
            pair.pump()
            self.assertEqual(completed(pair), (number + 2, number + 2))
            self.send_both_ways(pair)
        for end in pair.ends:
            self.assertEqual(end.transport.session_id, session_id)
            self.assertEqual(len(session_id), 32)
            self.assertEqual(end.transport.close_reason, "")

    def test_both_may_start_at_once(self) -> None:
        """It is one exchange then, not two, a hundred times over."""
        pair = logged_in()
        for number in range(100):
            for end in pair.ends:
                end.transport.exchanges.start()
                end.transport.sendPacket(MSG_CHANNEL_EXTENDED_DATA, b"%d" % number)
            pair.pump()
            self.assertEqual(completed(pair), (number + 2, number + 2))
        expected = [
            (MSG_CHANNEL_EXTENDED_DATA, b"%d" % number) for number in range(100)
        ]
        for end in pair.ends:
            self.assertEqual(end.service.received, expected)

    def test_starting_twice_is_starting_once(self) -> None:
        """Until the exchange is over."""
        pair = logged_in()
        for _ in range(3):
            pair.client_transport.exchanges.start()
        pair.pump()
        self.assertEqual(completed(pair), (2, 2))

    def test_due_by_bytes(self) -> None:
        """In either direction."""
        for sender in (0, 1):
            pair = logged_in(
                TransportLimits(rekey_bytes=100_000, exchange_free_bytes=100_000)
            )
            for _ in range(20):
                pair.ends[sender].transport.sendPacket(
                    MSG_CHANNEL_EXTENDED_DATA, bytes(30_000)
                )
                pair.pump()
            count = completed(pair)[0]
            self.assertTrue(4 <= count <= 7, count)
            self.assertEqual(len(pair.ends[1 - sender].service.received), 20)

    def test_due_by_packets(self) -> None:
        """However small they are."""
        pair = logged_in(TransportLimits(rekey_packets=50, exchange_burst=10))
        for _ in range(200):
            pair.client_transport.sendPacket(MSG_CHANNEL_EXTENDED_DATA, b"x")
            pair.pump()
        self.assertTrue(4 <= completed(pair)[0] <= 6, completed(pair))
        self.assertEqual(len(pair.server.service.received), 200)

    def test_due_by_time(self) -> None:
        """After an hour, with the next thing that the peer says."""
        pair = logged_in()
        pair.clock.advance(3599)
        self.send_both_ways(pair)
        self.assertEqual(completed(pair), (1, 1))
        pair.clock.advance(2)
        self.send_both_ways(pair)
        self.assertEqual(completed(pair), (2, 2))
        self.send_both_ways(pair)
        self.assertEqual(completed(pair), (2, 2))

    def test_never_due_before_the_login(self) -> None:
        """There is nothing yet that would wear a key out."""
        clock = Clock()
        limits = attrs.evolve(DEFAULT_LIMITS, rekey_packets=1)
        raw = RawClient(make_server(clock, limits=limits)).start_userauth()
        for _ in range(5):
            raw.send(MSG_IGNORE, string(b""))
        self.assertNotIn(MSG_KEXINIT, raw.numbers())

    def test_what_is_sent_meanwhile_waits_its_turn(self) -> None:
        """Nothing but key exchange leaves between our KEXINIT and our NEWKEYS."""
        server = make_server(Clock())
        raw = RawClient(server).log_in()
        server.exchanges.start()
        raw.read()
        for index in range(5):
            server.sendPacket(MSG_CHANNEL_EXTENDED_DATA, b"%d" % index)
        raw.read()
        self.assertEqual(raw.numbers(), [MSG_KEXINIT])
        ours = raw.kexinit()
        raw.send(MSG_KEXINIT, ours.payload[1:])
        raw.exchange_keys(ours)
        self.assertEqual(
            raw.received,
            [(MSG_CHANNEL_EXTENDED_DATA, b"%d" % index) for index in range(5)],
        )

    def test_what_may_be_sent_meanwhile_is_sent(self) -> None:
        """Messages 1 to 4 (RFC 4253 section 7.1), a DISCONNECT above all."""
        server = make_server(Clock())
        raw = RawClient(server).log_in()
        server.exchanges.start()
        server.sendPacket(MSG_IGNORE, string(b""))
        server.disconnect(11, "bye")
        raw.read()
        self.assertEqual(raw.numbers(), [MSG_KEXINIT, MSG_IGNORE, MSG_DISCONNECT])

    def test_the_peer_may_send_data_until_its_own_kexinit(self) -> None:
        """It was on its way; afterwards it is a fault."""
        server = make_server(Clock())
        raw = RawClient(server).log_in()
        server.exchanges.start()
        raw.read()
        raw.send(MSG_CHANNEL_EXTENDED_DATA, b"on its way")
        self.assertEqual(
            running(server).received, [(MSG_CHANNEL_EXTENDED_DATA, b"on its way")]
        )
        raw.send(MSG_KEXINIT, raw.kexinit().payload[1:])
        raw.send(MSG_CHANNEL_EXTENDED_DATA, b"too late")
        self.assertEqual(server.close_reason, "message 95 in a key exchange")

    def test_what_the_peer_may_send_between_its_kexinit_and_newkeys(self) -> None:
        """Messages 1 to 4 and key exchange, nothing else (RFC 4253 section 7.1)."""
        for number in range(256):
            server = make_server(Clock())
            raw = RawClient(server).log_in()
            raw.send(MSG_KEXINIT, raw.kexinit().payload[1:])
            raw.send(number, string(b""))
            allowed = number in (
                MSG_DISCONNECT,
                MSG_IGNORE,
                MSG_UNIMPLEMENTED,
                MSG_DEBUG,
            )
            if number == MSG_DISCONNECT:
                self.assertIn("shorter than its fields", server.close_reason)
            else:
                self.assertEqual(server.close_reason == "", allowed, number)
            if number in (MSG_EXT_INFO, MSG_SERVICE_REQUEST, MSG_SERVICE_ACCEPT):
                self.assertFalse(allowed)

    def test_a_kexinit_in_an_exchange_is_a_fault(self) -> None:
        """There is one exchange at a time."""
        raw = RawClient(make_server(Clock())).log_in()
        for _ in range(2):
            raw.send(MSG_KEXINIT, raw.kexinit().payload[1:])
        self.assertIn("a KEXINIT while", raw.server.close_reason)

    def test_an_exchange_that_stalls_ends_the_connection(self) -> None:
        """After 30 seconds, at whatever message."""
        for steps in (1, 2, 3):
            pair = logged_in()
            pair.client_transport.exchanges.start()
            for step in range(steps):
                pair.move(pair.ends[(step + 1) % 2])
            waiting = [e for e in pair.ends if e.transport.exchanges.in_progress]
            self.assertTrue(waiting)
            pair.clock.advance(29.9)
            for end in waiting:
                self.assertEqual(end.transport.close_reason, "")
            pair.clock.advance(0.2)
            for end in waiting:
                self.assertEqual(
                    end.transport.close_reason,
                    "the key exchange took over 30 seconds",
                )

    def test_the_host_key_stays_what_it_was(self) -> None:
        """The client asks about it once, and takes no other later."""
        asked: list[bytes] = []

        def check_host(algorithm: bytes, blob: bytes) -> PublicKey:
            asked.append(blob)
            return PublicKey.from_blob(blob)

        clock = Clock()
        server = make_server(clock)
        client = make_client(clock, check_host=check_host)
        pair = Pair(server, client, clock).log_in()
        client.exchanges.start()
        pair.pump()
        self.assertEqual(completed(pair), (2, 2))
        server.exchanges._host_keys = (HostKey(PrivateKey.generate()),)
        client.exchanges.start()
        pair.pump()
        self.assertIn("another host key", client.close_reason)
        self.assertEqual(len(asked), 1)

    def test_a_server_keeps_the_host_keys_it_started_with(self) -> None:
        """Renewing them must not cut connections at their next key exchange."""
        clock = Clock()
        keys = [HostKey(PrivateKey.generate())]
        pair = Pair(make_server(clock, host_keys=keys), make_client(clock), clock)
        pair.log_in()
        keys[:] = [HostKey(PrivateKey.generate())]
        pair.client_transport.exchanges.start()
        pair.pump()
        self.assertEqual(completed(pair), (2, 2))


class BudgetTests(SynchronousTestCase):
    """How often the peer may start a key exchange."""

    def rekeys(self, raw: RawClient, most: int = 50) -> int:
        """Key exchanges in a row that the server takes."""
        for count in range(most):
            raw.send(MSG_KEXINIT, raw.kexinit().payload[1:])
            if raw.server.close_reason:
                self.assertEqual(raw.server.close_reason, "key exchanges too often")
                return count
            raw.exchange_keys(raw.last_kexinit)
        return most

    def test_a_few_at_once(self) -> None:
        """Four, however little they are needed."""
        raw = RawClient(make_server(Clock())).log_in()
        self.assertEqual(self.rekeys(raw), 4)

    def test_one_in_ten_seconds(self) -> None:
        """As long as nobody is in a greater hurry, there is no end to it."""
        clock = Clock()
        raw = RawClient(make_server(clock)).log_in()
        for _ in range(20):
            clock.advance(10)
            self.assertEqual(self.rekeys(raw, 1), 1)
        self.assertEqual(self.rekeys(raw), 3)

    def test_one_in_half_a_mebibyte(self) -> None:
        """A client with ``RekeyLimit 1M`` runs at full speed."""
        raw = RawClient(make_server(Clock())).log_in()
        for _ in range(30):
            for _ in range(17):
                raw.send(MSG_CHANNEL_EXTENDED_DATA, bytes(32 * 1024))
            self.assertEqual(self.rekeys(raw, 1), 1)

    def test_those_that_we_start_are_free(self) -> None:
        """Also when the peer starts at the same time."""
        server = make_server(Clock())
        raw = RawClient(server).log_in()
        for _ in range(20):
            server.exchanges.start()
            raw.read()
            raw.exchange_keys()
        self.assertEqual(server.close_reason, "")

    def test_strangers_pay_too(self) -> None:
        """Before the login it is the same."""
        raw = RawClient(make_server(Clock())).start_userauth()
        raw.received.clear()
        self.assertEqual(self.rekeys(raw), 4)


class ForeignClientTests(SynchronousTestCase):
    """Key exchange by the book, with a client that is not ours."""

    def test_values_are_refused_when_malformed(self) -> None:
        """Too long, too much, or nothing at all."""
        for payload in (b"", string(bytes(1217)), string(bytes(32)) + b"x"):
            raw = RawClient(make_server(Clock()))
            raw.send_version()
            raw.send(MSG_KEXINIT, raw.kexinit().payload[1:])
            raw.send(MSG_KEX_ECDH_INIT, payload)
            self.assertIsNotNone(raw.disconnect_reason())
            self.assertNotIn(MSG_KEX_ECDH_REPLY, raw.numbers())
            self.assertNotIn(MSG_NEWKEYS, raw.numbers())

    def test_sequence_numbers_go_on_when_not_strict(self) -> None:
        """Over several exchanges, and start again when strict."""
        for strict in (False, True):
            server = make_server(Clock())
            raw = RawClient(server, strict=strict).log_in()
            for _ in range(3):
                raw.send(MSG_IGNORE, string(b""))
                raw.exchange_keys()
            self.assertEqual(server.close_reason, "")
            self.assertEqual(server.exchanges.strict, strict)
            self.assertEqual(raw.sealer.sequence == 0, strict)


class SequenceNumberTests(SynchronousTestCase):
    """Packet numbers are 32 bits long and go on at 0 (RFC 4253 section 6.4)."""

    #: Protections, strict key exchange or not: ChaCha20 is never used without.
    PROTECTIONS = (
        (b"aes128-gcm@openssh.com", b"", False),
        (b"aes256-ctr", b"hmac-sha2-512-etm@openssh.com", False),
        (b"aes128-gcm@openssh.com", b"", True),
        (b"aes256-ctr", b"hmac-sha2-256-etm@openssh.com", True),
        (b"chacha20-poly1305@openssh.com", b"", True),
    )

    def test_counters_near_their_end_pass_the_wrap(self) -> None:
        """At both ends, and the keys can be renewed after it."""
        for cipher, mac, strict in self.PROTECTIONS:
            macs = (mac,) if mac else DEFAULT_ALGORITHMS.macs
            algorithms = Algorithms(ciphers=(cipher,), macs=macs)
            clock = Clock()
            pair = Pair(
                make_server(clock, algorithms=algorithms),
                make_client(clock, algorithms=algorithms),
                clock,
            ).log_in()
            counters: list[PacketSealer | PacketOpener] = []
            for end in pair.ends:
                # As with a peer that does not know it: numbers go on over NEWKEYS.
                end.transport.exchanges.strict = strict
                counters += [end.transport._sealer, end.transport._opener]
            for counter in counters:
                # Under strict KEX they begin at 0 with each key, so after that.
                counter.sequence = 2**32 - 100
            for start in (0, 200):
                for origin, target in (pair.ends, pair.ends[::-1]):
                    sent = [b"%d" % (start + number) for number in range(200)]
                    for data in sent:
                        origin.transport.sendPacket(MSG_CHANNEL_EXTENDED_DATA, data)
                    pair.pump()
                    self.assertEqual(
                        [payload for _, payload in target.service.received], sent
                    )
                    target.service.received.clear()
                self.assertEqual(
                    [end.transport.close_reason for end in pair.ends], ["", ""], cipher
                )
                # 100 before the wrap; under strict KEX 200 since NEWKEYS.
                passed = {counter.sequence for counter in counters}
                self.assertLess(max(passed), 320, (cipher, strict))
                pair.client_transport.exchanges.start()
                pair.pump()
            self.assertEqual(completed(pair), (3, 3))
            for counter in counters:
                self.assertEqual(counter.sequence == 0, strict)
