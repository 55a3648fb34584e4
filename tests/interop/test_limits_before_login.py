"""Every limit on peers that have not logged in, passed on a real proxy.

Each is dealt with inside a second, keeps nobody waiting for 50 ms of the proxy's time,
costs less than 1 MiB for each connection, and leaves no traceback in the log; see
:mod:`tests.interop.limit_testing`. The numbers in the names are those of the list of
limits that the layer was built by:

=====  ============================================================================
P1     extensions of EXT_INFO: 16, and 16 KiB, only right after the first NEWKEYS
P2     no compression
P3     time from accept to login: :mod:`tests.interop.test_limits_of_time`
P4     which message may come when
P5     bytes queued for a peer that does not read; messages that nobody knows
P6     key exchanges: one at a time, and how often
P7     what a byte costs that is not yet a packet
P8     authentication attempts
P9     blobs of keys and certificates
P10    the version line
P11    padding, empty packets, several packets in one segment
P12    whatever is malformed: one kind of error, one line in the log
A1     requests to log in: one after the other, each for itself
A2     the first login is final
A3     source addresses and principals: :mod:`tests.interop.test_known_defects`
A4     signatures: no SHA-1, RSA of 2048 to 8192 bits, the algorithm that was named
A5     services that there are not
A6     security keys: somebody has touched them
A7     banners of servers: :mod:`tests.interop.test_log_injection`
=====  ============================================================================
"""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import cast

import attrs
from cryptography.hazmat.primitives.asymmetric import rsa

from rtunnel.wire.data_types import boolean, mpint, name_list, string, uint32
from rtunnel.wire.keys import RSA, SK_ECDSA_P256, SK_ED25519, PrivateKey
from rtunnel.wire.negotiation import KexInit, encode_ext_info
from rtunnel.wire.numbers import (
    MSG_CHANNEL_OPEN,
    MSG_DEBUG,
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
    MSG_USERAUTH_PK_OK,
    MSG_USERAUTH_REQUEST,
    MSG_USERAUTH_SUCCESS,
)
from tests.interop.limit_testing import (
    Act,
    LimitTestCase,
    closes,
    goes_on,
    then,
)
from tests.interop.processes import CpuTime, wait_until
from tests.interop.socket_client import SocketClient
from tests.wire.examples import (
    SecurityKey,
    private_key,
    rsa_key,
    rsa_sha1_signature,
)

_CONNECTION = b"ssh-connection"


def sends(number: int, payload: bytes = b"") -> Act:
    """Send one message."""
    return lambda client: client.send(number, payload)


def says(data: bytes) -> Act:
    """Send these bytes as they are."""
    return lambda client: client.send_bytes(data)


def none_request() -> bytes:
    """A request by the method ``none``."""
    return string(b"alice") + string(_CONNECTION) + string(b"none")


def refused(client: SocketClient) -> None:
    """An outcome: the login is refused, with nothing said about why."""
    failure = client.take(MSG_USERAUTH_FAILURE)
    assert failure == name_list([b"publickey"]) + boolean(False), failure


def serves(client: SocketClient) -> None:
    """An outcome: the connection, without a login, works as before."""
    client.send(MSG_USERAUTH_REQUEST, none_request())
    refused(client)


class ExtensionTests(LimitTestCase):
    """P1: EXT_INFO."""

    def test_p1_extensions(self) -> None:
        """16; the connection ends at the 17th."""
        payload = encode_ext_info([(b"x%d" % n, b"") for n in range(17)])
        self.pass_limit(
            sends(MSG_EXT_INFO, payload),
            closes("17 extensions; 16 is the limit"),
            self.exchange,
        )

    def test_p1_bytes_of_extensions(self) -> None:
        """16 KiB, whatever is in them."""
        payload = encode_ext_info([(b"x", bytes(60_000))])
        self.pass_limit(
            sends(MSG_EXT_INFO, payload),
            closes("16384 is the limit"),
            self.exchange,
        )

    def test_p1_a_count_without_extensions(self) -> None:
        """What it says is not believed."""
        self.pass_limit(
            sends(MSG_EXT_INFO, uint32(2**32 - 1)),
            closes("extensions; 16 is the limit"),
            self.exchange,
        )

    def test_p1_extensions_at_any_other_time(self) -> None:
        """Passed over unread before the login; after it, and as often as one likes."""
        payload = uint32(2**31) + bytes(60_000)

        def act(client: SocketClient) -> None:
            for _ in range(8):
                client.send(MSG_EXT_INFO, payload)

        self.pass_limit(act, serves, self.ask_to_log_in)
        self.pass_limit(act, goes_on)

    def test_p1_extensions_before_newkeys(self) -> None:
        """They end the connection, whether strict KEX was agreed or not."""
        for strict in (True, False):
            self.pass_limit(
                sends(MSG_EXT_INFO, encode_ext_info([])),
                closes("message 7 in a key exchange"),
                partial(self.offer, strict=strict),
            )


class CompressionTests(LimitTestCase):
    """P2: there is none."""

    def test_p2_compression(self) -> None:
        """Who insists on any gets no connection."""
        for name in (b"zlib", b"zlib@openssh.com"):

            def act(client: SocketClient, name: bytes = name) -> None:
                client.send_version()
                payload = client.kexinit().payload
                offer = payload.replace(string(b"none"), string(name))
                assert offer != payload
                client.send(MSG_KEXINIT, offer[1:])

            self.pass_limit(act, closes("no compression"), self.arrive, count=4)


class OrderTests(LimitTestCase):
    """P4: which message may come when."""

    def test_p4_nothing_but_key_exchange_before_newkeys(self) -> None:
        """No service, login, channel, nor anything else; before and after KEXINIT."""
        cases = [
            (sends(number, none_request()), closes(f"message {number} in a key exch"))
            for number in (
                *(MSG_SERVICE_REQUEST, MSG_SERVICE_ACCEPT, MSG_USERAUTH_REQUEST),
                *(MSG_USERAUTH_SUCCESS, MSG_GLOBAL_REQUEST, MSG_CHANNEL_OPEN, 192),
            )
        ]
        self.pass_each(cases, lambda: self.begin(strict=False))
        self.pass_each(cases, lambda: self.offer(strict=False))

    def test_p4_messages_without_meaning_under_strict_kex(self) -> None:
        """They end the connection."""
        numbers = (MSG_IGNORE, MSG_DEBUG, MSG_UNIMPLEMENTED) * 3
        self.pass_each(
            [(sends(each, string(b"")), closes("which is strict")) for each in numbers],
            self.offer,
        )

    def test_p4_nothing_of_the_connection_before_the_login(self) -> None:
        """Every message from 80 to 127."""
        payload = string(b"session") + bytes(12)
        cases = [
            (sends(number, payload), closes("before authentication"))
            for number in range(80, 128)
        ]
        self.pass_each(cases[::8], self.exchange)
        self.pass_each(cases[::3], self.ask_to_log_in)

    def test_p4_no_login_before_its_service(self) -> None:
        """It has to be asked for."""
        self.pass_limit(
            sends(MSG_USERAUTH_REQUEST, none_request()),
            closes("message 50 before its service"),
            self.exchange,
        )

    def test_p4_bytes_before_the_login(self) -> None:
        """1 MiB, also of what means nothing."""

        def act(client: SocketClient) -> None:
            for _ in range(33):
                client.send(MSG_IGNORE, string(bytes(32_000)))

        self.pass_limit(
            act, closes("too many bytes before authentication"), self.exchange
        )


class OutputTests(LimitTestCase):
    """P5: what waits for a peer that does not read."""

    def test_p5_answers_that_are_not_read(self) -> None:
        """512 KiB on top of what the kernel takes; then the connection is cut."""
        question = string(b"keepalive@openssh.com") + boolean(True)

        def at() -> SocketClient:
            return self.log_in(receive_buffer=4096)

        def act(client: SocketClient) -> None:
            client.socket.settimeout(0.2)
            waiting = b""
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                waiting = waiting or b"".join(
                    client.packet(MSG_GLOBAL_REQUEST, question) for _ in range(2000)
                )
                try:
                    waiting = waiting[client.socket.send(waiting) :]
                except TimeoutError:
                    # It may have other things to do, or read no more; it is not cut.
                    continue
                except OSError:
                    return
            raise AssertionError("still there")

        self.pass_limit(act, closes(""), at, count=1)
        self.assertIn("the peer does not read what we send", self.log())

    def test_p5_messages_that_nobody_knows(self) -> None:
        """256 between two key exchanges; each is answered until then."""

        def act(client: SocketClient) -> None:
            client.send_bytes(b"".join(client.packet(192) for _ in range(257)))

        def outcome(client: SocketClient) -> None:
            closes("too many messages that we do not know")(client)
            answers = [p for n, p in client.received if n == MSG_UNIMPLEMENTED]
            assert len(answers) == 256, len(answers)
            numbers = [struct.unpack(">I", answer)[0] for answer in answers]
            assert all(b - a == 1 for a, b in pairwise(numbers)), numbers

        self.pass_limit(act, outcome)

    def test_p5_global_requests_that_nobody_serves(self) -> None:
        """Answered in order, as many as are read."""

        def act(client: SocketClient) -> None:
            for _ in range(200):
                client.send(
                    MSG_GLOBAL_REQUEST,
                    string(b"tcpip-forward") + boolean(True) + bytes(8),
                )

        self.pass_limit(act, goes_on)


class KeyExchangeTests(LimitTestCase):
    """P6: key exchanges."""

    def test_p6_one_at_a_time(self) -> None:
        """A second KEXINIT ends the connection, at the first exchange or a later."""

        def act(client: SocketClient) -> None:
            for _ in range(2):
                client.send(MSG_KEXINIT, client.kexinit().payload[1:])

        for stage in (self.begin, self.exchange, self.log_in):
            self.pass_limit(
                act, closes("a KEXINIT while a key exchange is under way"), stage
            )

    def test_p6_only_in_answer_to_kexinit(self) -> None:
        """Neither a public value nor NEWKEYS comes by itself."""
        cases = [
            (sends(number, string(bytes(32))), closes("outside of a key exchange"))
            for number in (MSG_KEX_ECDH_INIT, MSG_KEX_ECDH_REPLY, MSG_NEWKEYS, 22, 49)
        ]
        for at in (self.exchange, self.log_in):
            self.pass_each(cases, at)

    def test_p6_public_values(self) -> None:
        """One, of the right length, and not one that makes the secret zero."""

        values = (bytes(32), bytes(31), bytes(33), b"", bytes(60_000))
        self.pass_each(
            [(sends(MSG_KEX_ECDH_INIT, string(each)), closes("")) for each in values],
            self.offer,
        )

    def test_p6_how_often(self) -> None:
        """4 at once without data in between; the next ends the connection."""

        def act(client: SocketClient) -> None:
            for _ in range(4):
                client.exchange_keys()
            client.send(MSG_KEXINIT, client.kexinit().payload[1:])

        for at in (self.exchange, self.log_in):
            self.pass_limit(act, closes("key exchanges too often"), at)

    def test_p6_bytes_of_kexinit(self) -> None:
        """16 KiB."""

        def act(client: SocketClient) -> None:
            client.send_version()
            payload = client.kexinit().payload
            names = name_list([b"x" * 20_000])
            offer = payload[:17] + names + payload[17:]
            client.send(MSG_KEXINIT, offer[1:])

        self.pass_limit(act, closes("16384 is the limit"), self.arrive)

    def test_p6_names_in_kexinit(self) -> None:
        """Ten thousand that nobody knows cost no more than their bytes."""

        def act(client: SocketClient) -> None:
            client.send_version()
            ours = client.kexinit()
            names = name_list([b""] * 7000)
            payload = ours.payload.replace(name_list(ours.key_exchanges), names)
            KexInit.parse(payload)
            client.send(MSG_KEXINIT, payload[1:])

        self.pass_limit(act, closes("no key exchange"), self.arrive)


class ByteTests(LimitTestCase):
    """P7: bytes that are not yet a packet."""

    def trickle(self, client: SocketClient, packet: bytes, step: int) -> None:
        """Send a packet in pieces, each a segment of its own; the last is missing.

        The second half must not cost more than the first: what is appended costs what
        it is long, however much there is.
        """
        cpu = CpuTime(self.proxy.process.pid)
        half = len(packet) // 2
        spent = []
        for start, end in ((0, half), (half, len(packet) - step)):
            before = cpu.seconds()
            for offset in range(start, end, step):
                client.send_bytes(packet[offset : offset + step])
            time.sleep(0.05)
            spent.append(cpu.seconds() - before)
        cpu.close()
        self.halves.append((spent[0], spent[1]))

    def assert_linear(self) -> None:
        """Of all the attempts, so that nobody else's work counts."""
        first = min(first for first, _ in self.halves)
        second = min(second for _, second in self.halves)
        self.assertLess(second, 3 * first + 0.02)

    def test_p7_a_packet_in_pieces_before_the_login(self) -> None:
        """64 KiB."""
        self.halves: list[tuple[float, float]] = []

        def act(client: SocketClient) -> None:
            self.trickle(client, client.packet(MSG_IGNORE, string(bytes(65_000))), 64)

        self.pass_limit(act, lambda client: None, self.exchange, count=4)
        self.assert_linear()

    def test_p7_a_packet_in_pieces_after_the_login(self) -> None:
        """256 KiB."""
        self.halves = []

        def act(client: SocketClient) -> None:
            packet = client.packet(MSG_IGNORE, string(bytes(256 * 1024)))
            self.trickle(client, packet, 256)

        self.pass_limit(act, lambda client: None, count=4)
        self.assert_linear()

    def test_p7_length_of_a_packet(self) -> None:
        """64 KiB before the login, 257 KiB after it; the rest is not waited for."""

        def act(length: int) -> Act:
            return lambda client: client.send_bytes(struct.pack(">I", length))

        ends = closes("packet length")
        before = (65_544, 2**20, 2**32 - 1, 0, 1, 15)
        self.pass_each([(act(each), ends) for each in before], self.begin)
        after = (270_000, 2**20, 2**32 - 16, 0, 8, 15)
        self.pass_each([(act(each), ends) for each in after])


class AttemptTests(LimitTestCase):
    """P8: attempts to log in."""

    def test_p8_attempts_by_no_method(self) -> None:
        """6; ``none`` counts."""

        def act(client: SocketClient) -> None:
            request = client.packet(MSG_USERAUTH_REQUEST, none_request())
            rest = [
                client.packet(MSG_USERAUTH_REQUEST, none_request()) for _ in range(6)
            ]
            client.send_bytes(request + b"".join(rest))

        self.pass_limit(
            act, closes("too many authentication attempts"), self.ask_to_log_in
        )

    def test_p8_questions_about_keys(self) -> None:
        """6; a question that no signature follows counts."""

        def act(client: SocketClient) -> None:
            for _ in range(7):
                request = client.auth_request(signed=False)
                client.send(MSG_USERAUTH_REQUEST, request)

        def outcome(client: SocketClient) -> None:
            closes("too many authentication attempts")(client)
            assert client.numbers().count(MSG_USERAUTH_PK_OK) == 6, client.numbers()

        self.pass_limit(act, outcome, self.ask_to_log_in)

    def test_p8_methods_that_there_are_not(self) -> None:
        """Each is an attempt, refused in the same words."""

        def act(client: SocketClient) -> None:
            for method in (b"password", b"hostbased", b"keyboard-interactive", b"x"):
                client.send(
                    MSG_USERAUTH_REQUEST,
                    string(b"alice")
                    + string(_CONNECTION)
                    + string(method)
                    + boolean(False)
                    + string(b"secret")
                    + string(b""),
                )

        self.pass_limit(act, then(*[refused] * 4), self.ask_to_log_in)


class BlobTests(LimitTestCase):
    """P9: blobs of keys and certificates."""

    def ask(self, *shown: tuple[bytes, bytes], count: int = 4) -> None:
        """Ask about keys, all of which are refused in the same words."""

        def act(client: SocketClient) -> None:
            for algorithm, blob in shown:
                request = client.auth_request(
                    blob=blob, algorithm=algorithm, signed=False
                )
                client.send(MSG_USERAUTH_REQUEST, request)

        outcome = then(*[refused] * len(shown))
        self.pass_limit(act, outcome, self.ask_to_log_in, count)

    def test_p9_formats_of_keys(self) -> None:
        """The one of the algorithm that was named; nothing is guessed."""
        pem = self.key.to_openssh()
        self.ask(
            (b"ssh-ed25519", pem),
            (b"ssh-ed25519", b"ssh-ed25519 AAAA"),
            (b"ssh-ed25519", b""),
            (b"ssh-rsa", b"(11:private-key(3:rsa(1:n1:x)(1:e1:x)))"),
            (b"ssh-dss", string(b"ssh-dss") + mpint(5) * 4),
            (b"ssh-ed25519", string(b"ssh-ed25519") + string(bytes(31))),
        )

    def test_p9_sizes_of_rsa_keys(self) -> None:
        """2048 to 8192 bits, whatever else is said of them."""

        def blob(bits: int, exponent: int = 65537) -> bytes:
            return string(RSA) + mpint(exponent) + mpint(2**bits - 1)

        name = b"rsa-sha2-512"
        self.ask(
            *((name, blob(bits)) for bits in (17, 1024, 2047, 8193)),
            (name, blob(16_384)),
            (name, blob(2048, exponent=2**16)),
        )

    def test_p9_bytes_of_keys_and_certificates(self) -> None:
        """64 KiB of certificate, 4 KiB of key; more than a message may have ends it."""
        self.ask(
            (b"ssh-ed25519", string(b"ssh-ed25519") + string(bytes(5000))),
            (
                b"ssh-ed25519-cert-v01@openssh.com",
                string(b"ssh-ed25519-cert-v01@openssh.com") + bytes(50_000),
            ),
        )

    def test_p9_every_byte_of_a_certificate(self) -> None:
        """Cut short anywhere, it is refused like any other."""
        blob = self.certificate.blob
        algorithm = self.certificate.signature_algorithms[0]
        steps = [blob[:size] for size in range(0, len(blob), len(blob) // 30)]
        for start in range(0, len(steps), 6):
            self.ask(*((algorithm, cut) for cut in steps[start : start + 6]), count=1)


class VersionTests(LimitTestCase):
    """P10: the version line."""

    def test_p10_bytes_of_a_version_line(self) -> None:
        """255, its end included, whether the end is there or not."""
        self.pass_each(
            [
                (says(line), closes("a version line of over 255 bytes"))
                for line in (
                    b"SSH-2.0-" + b"x" * 246 + b"\r\n",
                    b"SSH-2.0-" + b"x" * 60_000,
                )
            ]
            * 4,
            self.arrive,
        )

    def test_p10_other_protocols(self) -> None:
        """Seen at the first bytes; later lines are not searched for a version."""
        others = (
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\x02\x00",
            b"hello\r\nSSH-2.0-x\r\n",
            b"\r\n" * 100,
            bytes(100),
        )
        versions = (b"SSH-1.5-x\r\n", b"SSH-1.99-x\r\n", b"SSH-2.1-x\r\n")
        self.pass_each(
            [
                *((says(each), closes("this is not SSH")) for each in others),
                *((says(each), closes("no version of SSH")) for each in versions),
            ],
            self.arrive,
        )

    def test_p10_characters_of_a_version_line(self) -> None:
        """Printable ASCII, so that it can be logged."""
        self.pass_limit(
            says(b"SSH-2.0-\x1b[31m\x00\xff\r\n"),
            closes("not printable ASCII"),
            self.arrive,
        )

    def test_p10_what_follows_in_the_same_segment(self) -> None:
        """Packets, however many bytes they are; balancers join segments."""

        def act(client: SocketClient) -> None:
            offer = client.kexinit()
            packet = client.packet(MSG_KEXINIT, offer.payload[1:])
            client.send_bytes(client.version + b"\r\n" + packet)
            client.exchange_keys(offer)
            client.send(MSG_SERVICE_REQUEST, string(b"ssh-userauth"))

        self.pass_limit(act, serves, self.arrive)


class PacketTests(LimitTestCase):
    """P11: what a packet has to be."""

    def test_p11_padding(self) -> None:
        """At least 4 bytes, and less than the packet."""

        self.pass_each(
            [
                (
                    says(struct.pack(">IB", 28, padding) + bytes(27)),
                    closes("impossible padding or no message"),
                )
                for padding in (0, 1, 2, 3, 27, 28, 29, 255)
            ],
            self.begin,
        )

    def test_p11_packets_without_a_message(self) -> None:
        """None."""

        self.pass_limit(
            says(struct.pack(">IB", 12, 11) + bytes(11)),
            closes("impossible padding or no message"),
            self.begin,
        )

    def test_p11_packets_in_one_segment(self) -> None:
        """All are acted upon, also those behind the last read."""

        def act(client: SocketClient) -> None:
            client.send_bytes(
                b"".join(
                    client.packet(
                        MSG_GLOBAL_REQUEST, string(b"no such") + boolean(True)
                    )
                    for _ in range(500)
                )
            )

        def outcome(client: SocketClient) -> None:
            for _ in range(500):
                client.take(82)
            goes_on(client)

        self.pass_limit(act, outcome)

    def test_p11_packets_that_are_not_authentic(self) -> None:
        """One bit in one of them ends the connection."""

        def act(client: SocketClient) -> None:
            packet = bytearray(client.packet(MSG_IGNORE, string(b"x" * 100)))
            packet[50] ^= 1
            client.send_bytes(bytes(packet))

        for at in (self.exchange, self.ask_to_log_in, self.log_in):
            self.pass_limit(act, closes("not authentic"), at, count=4)


class MalformedTests(LimitTestCase):
    """P12: what is malformed."""

    def test_p12_malformed_messages_before_the_login(self) -> None:
        """Every number, cut short or too long: an end in order, or none."""
        chance = random.Random(12)

        def act(client: SocketClient) -> None:
            for _ in range(10):
                number = chance.choice([1, 5, 7, 20, 30, 50, 60, 61, 79])
                client.send(number, chance.randbytes(chance.randrange(64)))

        def outcome(client: SocketClient) -> None:
            client.send(MSG_IGNORE, b"")
            client.send_bytes(bytes(2**17))
            client.wait_closed()

        for _ in range(5):
            self.pass_limit(act, outcome, self.ask_to_log_in)

    def test_p12_malformed_messages_after_the_login(self) -> None:
        """The same, and one line in the log for each connection."""
        chance = random.Random(13)

        def act(client: SocketClient) -> None:
            for _ in range(20):
                number = chance.choice([1, 2, 3, 4, 5, 7, 20, 50, *range(80, 101)])
                client.send(number, chance.randbytes(chance.randrange(64)))

        def outcome(client: SocketClient) -> None:
            client.send_bytes(bytes(2**17))
            client.wait_closed()

        for _ in range(5):
            self.pass_limit(act, outcome)
        lines = [line for line in self.log().splitlines() if "disconnect" in line]
        self.assertLessEqual(len(lines), 5 * 3 * 8)


class RequestTests(LimitTestCase):
    """A1, A2, A5: requests to log in, and what follows the first that succeeds."""

    def accepted(self, count: int) -> list[str]:
        """Who has logged in, according to the audit log, those before left out."""

        def logins() -> list[str]:
            return [
                str(event["user"])
                for event in self.proxy.audit()
                if event["event"] == "login_accepted" and event.get("user")
            ]

        wait_until(lambda: len(logins()) >= self.before + count, 5, "audit")
        return logins()[self.before :]

    def setUp(self) -> None:
        """A second person, by plain key."""
        super().setUp()
        self.bob = PrivateKey.generate()
        authorized = self.proxy.state / "authorized_keys"
        text = authorized.read_text()
        self.addCleanup(authorized.write_text, text)
        authorized.write_text(text + self.bob.public.to_openssh("bob") + "\n")
        wait_until(self._bob_is_known, 10, "authorized_keys")
        self.before = sum(
            1
            for event in self.proxy.audit()
            if event["event"] == "login_accepted" and event.get("user")
        )

    def _bob_is_known(self) -> bool:
        client = self.arrive(key=self.bob, certificate=None)
        client.start_userauth()
        client.send(MSG_USERAUTH_REQUEST, client.auth_request(signed=False))
        try:
            client.take(MSG_USERAUTH_PK_OK, 0.3)
        except AssertionError:
            return False
        finally:
            client.close()
        return True

    def test_a1_requests_in_one_segment(self) -> None:
        """The first that succeeds says who it is; what was sent with it does not."""

        def act(client: SocketClient) -> None:
            requests = (
                client.auth_request(PrivateKey.generate()),
                client.auth_request(),
                client.auth_request(self.bob),
            )
            client.send_bytes(
                b"".join(
                    client.packet(MSG_USERAUTH_REQUEST, request) for request in requests
                )
            )

        def outcome(client: SocketClient) -> None:
            refused(client)
            client.take(MSG_USERAUTH_SUCCESS)
            goes_on(client)

        self.pass_limit(act, outcome, self.ask_to_log_in)
        self.assertEqual(set(self.accepted(8)), {"alice"})

    def test_a1_the_key_that_was_asked_about_is_not_the_key_that_signs(self) -> None:
        """Who it is says the signature."""

        def act(client: SocketClient) -> None:
            for key, signed in ((self.bob, False), (None, False), (self.bob, True)):
                request = client.auth_request(key, signed=signed)
                client.send(MSG_USERAUTH_REQUEST, request)

        def outcome(client: SocketClient) -> None:
            client.take(MSG_USERAUTH_SUCCESS)
            goes_on(client)

        self.pass_limit(act, outcome, self.ask_to_log_in)
        self.assertEqual(set(self.accepted(8)), {"bob"})

    def test_a1_a_signature_by_another_key(self) -> None:
        """Is no signature, whoever has been asked about before."""

        def act(client: SocketClient) -> None:
            client.send(MSG_USERAUTH_REQUEST, client.auth_request(signed=False))
            request = client.auth_request(
                self.bob,
                blob=self.certificate.blob,
                algorithm=self.certificate.signature_algorithms[0],
            )
            client.send(MSG_USERAUTH_REQUEST, request)

        self.pass_limit(act, refused, self.ask_to_log_in)

    def test_a2_the_first_login_is_final(self) -> None:
        """Requests after it are ignored, and say nothing."""

        def act(client: SocketClient) -> None:
            for _ in range(100):
                client.send(MSG_USERAUTH_REQUEST, client.auth_request(self.bob))

        def outcome(client: SocketClient) -> None:
            goes_on(client)
            assert MSG_USERAUTH_SUCCESS not in client.numbers()
            assert MSG_USERAUTH_FAILURE not in client.numbers()

        self.pass_limit(act, outcome)
        self.assertEqual(set(self.accepted(8)), {"alice"})

    def test_a2_no_service_after_the_login(self) -> None:
        """Asking for one ends the connection."""
        names = (b"ssh-userauth", b"ssh-connection", b"", b"x") * 2
        self.pass_each(
            [
                (sends(MSG_SERVICE_REQUEST, string(each)), closes("not available now"))
                for each in names
            ]
        )

    def test_a5_services_that_there_are_not(self) -> None:
        """Asked for outright, or in a request to log in."""
        names = (b"ssh-connection", b"x", b"", b"\x1b[31m") * 2
        self.pass_each(
            [
                (sends(MSG_SERVICE_REQUEST, string(each)), closes("not available now"))
                for each in names
            ],
            self.exchange,
        )
        self.pass_limit(
            sends(MSG_SERVICE_REQUEST, string(b"x" * 1000)),
            closes("64 is the limit"),
            self.exchange,
        )

        def act(client: SocketClient) -> None:
            request = client.auth_request(service=b"ssh-other")
            client.send(MSG_USERAUTH_REQUEST, request)

        self.pass_limit(act, refused, self.ask_to_log_in)


class SignatureTests(LimitTestCase):
    """A4, A6: what proves that somebody holds a key."""

    def authorize(self, *lines: str) -> None:
        """Let these plain keys in."""
        authorized = self.proxy.state / "authorized_keys"
        text = authorized.read_text()
        self.addCleanup(authorized.write_text, text)
        authorized.write_text(text + "".join(line + "\n" for line in lines))

    def prove(
        self, *proofs: tuple[bytes, bytes, Callable[[bytes], bytes], Act]
    ) -> None:
        """Log in with signatures that the test makes.

        :param proofs: of each the blob, the algorithm, what signs, and the outcome.
        """

        def act(blob: bytes, algorithm: bytes, sign: Callable[[bytes], bytes]) -> Act:
            def log_in(client: SocketClient) -> None:
                key = cast(PrivateKey, _Signer(blob, sign))
                request = client.auth_request(key, blob=blob, algorithm=algorithm)
                client.send(MSG_USERAUTH_REQUEST, request)

            return log_in

        self.pass_each(
            [
                (act(blob, algorithm, sign), outcome)
                for blob, algorithm, sign, outcome in proofs
            ],
            self.ask_to_log_in,
        )

    def wait_known(self, blob: bytes, algorithm: bytes) -> None:
        """Wait until a key is one that would do."""

        def is_known() -> bool:
            client = self.ask_to_log_in()
            request = client.auth_request(blob=blob, algorithm=algorithm, signed=False)
            client.send(MSG_USERAUTH_REQUEST, request)
            client.wait_for(
                lambda: True if set(client.numbers()) & {51, 60} else None, "an answer"
            )
            return MSG_USERAUTH_PK_OK in client.numbers()

        wait_until(is_known, 10, "authorized_keys")

    def test_a4_sha_1_and_names_of_signatures(self) -> None:
        """A signature is by the algorithm that the request names, never by SHA-1."""
        key = private_key(RSA)
        self.authorize(key.public.to_openssh("carol"))
        blob = key.public.blob
        self.wait_known(blob, b"rsa-sha2-512")
        sha1 = rsa_key()

        def by_sha1(data: bytes) -> bytes:
            return rsa_sha1_signature(sha1, data)

        sha256 = partial(key.sign, algorithm=b"rsa-sha2-256")
        sha512 = partial(key.sign, algorithm=b"rsa-sha2-512")
        self.prove(
            (blob, b"ssh-rsa", sha512, refused),
            (blob, b"ssh-rsa", by_sha1, refused),
            (blob, b"rsa-sha2-512", by_sha1, refused),
            (blob, b"rsa-sha2-512", sha256, refused),
            (blob, b"rsa-sha2-512", sha512, is_let_in),
        )

    def test_a4_size_of_rsa_keys(self) -> None:
        """One of 1024 bits is refused even when somebody has authorized it."""
        small = rsa.generate_private_key(65537, 1024)
        numbers = small.public_key().public_numbers()
        blob = string(RSA) + mpint(numbers.e) + mpint(numbers.n)
        signature = string(b"rsa-sha2-512") + string(bytes(128))
        self.prove((blob, b"rsa-sha2-512", lambda data: signature, refused))

    def test_a4_bytes_of_a_signature(self) -> None:
        """2048; more ends the connection."""
        blob = self.key.public.blob
        long = string(b"ssh-ed25519") + string(bytes(4000))
        self.prove(
            (blob, b"ssh-ed25519", lambda data: long, closes("2048 is the limit"))
        )

    def test_a6_presence_of_a_person(self) -> None:
        """A security key that nobody touched opens nothing."""
        for key_type in (SK_ED25519, SK_ECDSA_P256):
            key = SecurityKey(key_type)
            self.authorize(key.public.to_openssh("carol"))
            self.wait_known(key.public.blob, key_type)
            self.prove(
                *(
                    (key.public.blob, key_type, partial(key.sign, flags=flags), outcome)
                    for flags, outcome in ((0, refused), (4, refused), (1, is_let_in))
                )
            )


def is_let_in(client: SocketClient) -> None:
    """An outcome: logged in. It shows that the test would notice."""
    client.take(MSG_USERAUTH_SUCCESS)
    goes_on(client)


@attrs.frozen
class _Public:
    blob: bytes


class _Signer:
    """Stands for a private key."""

    def __init__(self, blob: bytes, sign: Callable[[bytes], bytes]) -> None:
        self.public = _Public(blob)
        self._sign = sign

    def sign(self, data: bytes, algorithm: bytes) -> bytes:
        """Whatever the test says."""
        return self._sign(data)
