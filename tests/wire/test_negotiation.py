"""Tests for :mod:`rtunnel.wire.negotiation`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import DISCONNECT_KEY_EXCHANGE_FAILED, ProtocolError
from rtunnel.naming import MAX_PRINTED
from rtunnel.wire.algorithms import (
    CIPHERS,
    DEFAULT_ALGORITHMS,
    HOST_KEY_ALGORITHMS,
    Algorithms,
)
from rtunnel.wire.data_types import boolean, name_list, string, uint32
from rtunnel.wire.negotiation import (
    EXT_INFO_CLIENT,
    EXT_INFO_SERVER,
    MAX_EXT_INFO_LENGTH,
    MAX_EXTENSIONS,
    MAX_KEXINIT_LENGTH,
    STRICT_CLIENT,
    STRICT_SERVER,
    KexInit,
    Negotiated,
    build_kexinit,
    check_strict,
    encode_ext_info,
    is_strict,
    negotiate,
    parse_ext_info,
)

GCM = b"aes128-gcm@openssh.com"
CTR = b"aes256-ctr"
ETM = b"hmac-sha2-256-etm@openssh.com"

CTRS = (CTR,)
EVERYTHING = Algorithms(ciphers=tuple(CIPHERS))


def offer(
    *,
    client: bool,
    algorithms: Algorithms = DEFAULT_ALGORITHMS,
    host_keys: tuple[bytes, ...] = HOST_KEY_ALGORITHMS,
    first: bool = True,
) -> KexInit:
    """One side's KEXINIT as we build it."""
    return build_kexinit(
        algorithms, host_keys, bytes(16), is_client=client, first=first
    )


class KexInitTests(SynchronousTestCase):
    """:class:`KexInit` and :func:`build_kexinit`."""

    def test_the_payload_is_rfc_4253_section_7_1(self) -> None:
        """Cookie, ten lists, a flag, a reserved number."""
        algorithms = Algorithms(
            key_exchanges=(b"curve25519-sha256",), ciphers=(GCM,), macs=(ETM,)
        )
        built = build_kexinit(
            algorithms,
            [b"ssh-ed25519"],
            b"c" * 16,
            is_client=True,
            first=False,
        )
        lists = [b"curve25519-sha256", b"ssh-ed25519", GCM, GCM, ETM, ETM]
        lists += [b"none", b"none", b"", b""]
        self.assertEqual(
            built.payload,
            b"\x14" + b"c" * 16 + b"".join(map(string, lists)) + b"\0" + uint32(0),
        )

    def test_only_the_first_carries_markers(self) -> None:
        """Each side its own (RFC 8308 section 2.1, strict KEX)."""
        self.assertEqual(
            offer(client=True).key_exchanges[-2:], (EXT_INFO_CLIENT, STRICT_CLIENT)
        )
        self.assertEqual(
            offer(client=False).key_exchanges[-2:], (EXT_INFO_SERVER, STRICT_SERVER)
        )
        for client in (True, False):
            self.assertEqual(
                offer(client=client, first=False).key_exchanges,
                DEFAULT_ALGORITHMS.key_exchanges,
            )

    def test_no_compression_is_offered(self) -> None:
        """None at all, either way."""
        built = offer(client=False)
        self.assertEqual(built.compressions_client_to_server, (b"none",))
        self.assertEqual(built.compressions_server_to_client, (b"none",))

    def test_each_is_its_own_payload_though_all_offer_the_same(self) -> None:
        """The cookie is in it, and the whole of it is hashed."""
        one, two = (
            KexInit.parse(
                build_kexinit(
                    EVERYTHING, HOST_KEY_ALGORITHMS, cookie, is_client=True, first=True
                ).payload
            )
            for cookie in (b"1" * 16, b"2" * 16)
        )
        self.assertIn(b"1" * 16, one.payload)
        self.assertIn(b"2" * 16, two.payload)
        self.assertEqual(attrs.evolve(one, payload=two.payload), two)

    def test_a_kexinit_has_a_limit(self) -> None:
        """16 KiB."""
        names = [b"x" * MAX_KEXINIT_LENGTH]
        payload = (
            b"\x14" + bytes(16) + name_list(names) + name_list([]) * 9 + boolean(False)
        )
        with self.assertRaisesRegex(ProtocolError, "limit"):
            KexInit.parse(payload + uint32(0))

    @settings(deadline=None, max_examples=200)
    @given(st.binary(max_size=200), st.integers(0, 400))
    def test_garbage_raises_nothing_but_protocol_errors(
        self, data: bytes, cut: int
    ) -> None:
        """Bytes of any kind, or a real one cut short or spoilt."""
        real = offer(client=True).payload
        for payload in (data, b"\x14" + data, real[:cut] + data, real[:cut]):
            with contextlib.suppress(ProtocolError):
                KexInit.parse(payload)


class NegotiateTests(SynchronousTestCase):
    """:func:`negotiate`."""

    def test_the_client_s_order_decides(self) -> None:
        """RFC 4253 section 7.1: the first of its names that the server has too."""
        client = attrs.evolve(
            offer(client=True),
            key_exchanges=(b"sntrup761x25519-sha512", b"curve25519-sha256"),
            host_keys=(b"ssh-dss", b"rsa-sha2-256", b"ssh-ed25519"),
            ciphers_client_to_server=(b"3des-cbc", CTR, GCM),
            ciphers_server_to_client=(GCM, CTR),
            macs_client_to_server=(b"hmac-md5", ETM),
        )
        agreed = negotiate(client, offer(client=False))
        self.assertEqual(agreed.key_exchange.name, b"curve25519-sha256")
        self.assertEqual(agreed.host_key, b"rsa-sha2-256")
        self.assertEqual(agreed.cipher_client_to_server.name, CTR)
        self.assertEqual(agreed.cipher_server_to_client.name, GCM)
        assert agreed.mac_client_to_server is not None
        self.assertEqual(agreed.mac_client_to_server.name, ETM)

    def test_no_mac_is_needed_beside_an_aead_cipher(self) -> None:
        """Also when the MAC lists have nothing in common (OpenSSH PROTOCOL 1.6)."""
        client = attrs.evolve(
            offer(client=True),
            macs_client_to_server=(b"hmac-md5",),
            macs_server_to_client=(),
        )
        agreed = negotiate(client, offer(client=False))
        self.assertIsNone(agreed.mac_client_to_server)
        self.assertIsNone(agreed.mac_server_to_client)

    def test_chacha20_needs_strict_kex(self) -> None:
        """In either direction; the others do not."""
        server = offer(client=False, algorithms=EVERYTHING)
        for name in CIPHERS:
            client = offer(client=True, algorithms=Algorithms(ciphers=(name,)))
            check: Callable[[Negotiated], None] = check_strict
            if name == b"chacha20-poly1305@openssh.com":
                check = self.check_refused
            check(
                negotiate(attrs.evolve(client, ciphers_client_to_server=CTRS), server)
            )
            check(
                negotiate(attrs.evolve(client, ciphers_server_to_client=CTRS), server)
            )

    def check_refused(self, agreed: Negotiated) -> None:
        """Without strict KEX what was agreed on is refused."""
        with self.assertRaisesRegex(ProtocolError, "needs strict KEX") as raised:
            check_strict(agreed)
        self.assertEqual(raised.exception.reason_code, DISCONNECT_KEY_EXCHANGE_FAILED)

    def test_nothing_in_common_is_said_with_its_name(self) -> None:
        """One sentence, and the reason code for it."""
        client = offer(client=True)
        ctr_only = attrs.evolve(client, ciphers_client_to_server=(CTR,))
        for spoilt, what in (
            (attrs.evolve(client, key_exchanges=(b"x",)), "key exchange method"),
            (attrs.evolve(client, host_keys=(b"ssh-dss",)), "host key algorithm"),
            (
                attrs.evolve(client, ciphers_client_to_server=(b"3des-cbc",)),
                "cipher client to server",
            ),
            (
                attrs.evolve(client, ciphers_server_to_client=()),
                "cipher server to client",
            ),
            (
                attrs.evolve(ctr_only, macs_client_to_server=(b"hmac-sha1",)),
                "MAC client to server",
            ),
            (
                attrs.evolve(client, compressions_client_to_server=(b"zlib",)),
                "compression method",
            ),
        ):
            with self.assertRaises(ProtocolError) as caught:
                negotiate(spoilt, offer(client=False))
            said = str(caught.exception)
            self.assertTrue(said.startswith(f"no {what} in common: "), said)
            self.assertEqual(
                caught.exception.reason_code, DISCONNECT_KEY_EXCHANGE_FAILED
            )

    def test_what_either_side_has_is_said(self) -> None:
        """As OpenSSH says it; escaped and cut, for they are a stranger's."""
        server = attrs.evolve(offer(client=False), host_keys=(b"ssh-rsa", b"ssh-dss"))
        for names, shown in (
            ((b"ssh-ed25519", b"x"), "ssh-ed25519, x"),
            ((), "none"),
            ((b"\x1b[2J\n",), "\\x1b[2J\\n"),
            ((b"a" * 3000,), "a" * MAX_PRINTED + "..."),
        ):
            with self.assertRaises(ProtocolError) as caught:
                negotiate(attrs.evolve(offer(client=True), host_keys=names), server)
            self.assertEqual(
                str(caught.exception),
                "no host key algorithm in common: the server has ssh-rsa, ssh-dss; "
                f"the client has {shown}",
            )

    def test_markers_are_never_chosen(self) -> None:
        """Even if both sides should name the same one (RFC 8308 section 2.2)."""
        client = attrs.evolve(
            offer(client=True), key_exchanges=(EXT_INFO_SERVER, STRICT_SERVER)
        )
        with self.assertRaises(ProtocolError):
            negotiate(client, offer(client=False))

    def test_a_guess_is_wrong_unless_both_first_choices_agree(self) -> None:
        """Of key exchange methods and of host key algorithms."""
        server = offer(client=False)
        client = offer(client=True)
        self.assertFalse(negotiate(client, server).guess_wrong)
        for other in (
            attrs.evolve(client, key_exchanges=client.key_exchanges[1:]),
            attrs.evolve(client, host_keys=client.host_keys[1:]),
        ):
            self.assertTrue(negotiate(other, server).guess_wrong)

    @settings(deadline=None, max_examples=100)
    @given(
        st.lists(st.sampled_from([*DEFAULT_ALGORITHMS.key_exchanges, b"x", b""])),
        st.lists(st.sampled_from([*DEFAULT_ALGORITHMS.ciphers, b"x", b""])),
        st.lists(st.sampled_from([*DEFAULT_ALGORITHMS.macs, b"x"])),
    )
    def test_what_is_chosen_was_offered_by_both(
        self, kexes: list[bytes], ciphers: list[bytes], macs: list[bytes]
    ) -> None:
        """Or nothing is, and that is a protocol error."""
        client = attrs.evolve(
            offer(client=True),
            key_exchanges=tuple(kexes),
            ciphers_server_to_client=tuple(ciphers),
            macs_server_to_client=tuple(macs),
        )
        try:
            agreed = negotiate(client, offer(client=False))
        except ProtocolError:
            return
        self.assertIn(agreed.key_exchange.name, kexes)
        cipher, mac = agreed.cipher_server_to_client, agreed.mac_server_to_client
        self.assertIn(cipher.name, ciphers)
        self.assertEqual(cipher.needs_mac, mac is not None)
        if mac is not None:
            self.assertIn(mac.name, macs)


class StrictTests(SynchronousTestCase):
    """:func:`is_strict`."""

    def test_both_have_to_say_so(self) -> None:
        """Each with its own marker."""
        client, server = offer(client=True), offer(client=False)
        self.assertTrue(is_strict(client, server))
        self.assertFalse(is_strict(offer(client=True, first=False), server))
        self.assertFalse(is_strict(client, offer(client=False, first=False)))
        self.assertFalse(is_strict(server, client))


class ExtInfoTests(SynchronousTestCase):
    """:func:`encode_ext_info` and :func:`parse_ext_info`."""

    def test_round_trip(self) -> None:
        """Names and values are any bytes."""
        extensions = [(b"server-sig-algs", b"ssh-ed25519,rsa-sha2-512"), (b"x", b"")]
        self.assertEqual(parse_ext_info(encode_ext_info(extensions)), dict(extensions))

    def test_the_number_of_extensions_is_limited(self) -> None:
        """16, whatever they hold."""
        some = [(b"%d" % index, b"") for index in range(MAX_EXTENSIONS + 1)]
        parse_ext_info(encode_ext_info(some[1:]))
        with self.assertRaisesRegex(ProtocolError, "limit"):
            parse_ext_info(encode_ext_info(some))

    def test_the_size_is_limited(self) -> None:
        """16 KiB in all."""
        with self.assertRaisesRegex(ProtocolError, "limit"):
            parse_ext_info(encode_ext_info([(b"x", bytes(MAX_EXT_INFO_LENGTH))]))

    @settings(deadline=None, max_examples=200)
    @given(st.binary(max_size=100))
    def test_garbage_raises_nothing_but_protocol_errors(self, data: bytes) -> None:
        """Counts and lengths that are not so included."""
        for payload in (data, uint32(3) + data):
            with contextlib.suppress(ProtocolError):
                parse_ext_info(payload)
