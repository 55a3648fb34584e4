"""Requests for the next certificate."""

from __future__ import annotations

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import CertificateError, MessageError
from rtunnel.trust.authority import CertificateAuthority
from rtunnel.trust.renewal_request import MAX_AGE, RenewalRequest
from rtunnel.trust.signing_request import decode_request, encode_request
from rtunnel.wire.keys import ED25519, RSA
from tests.wire.examples import private_key

NOW = 1_800_000_000.0
INSTANCE = "0b0e0ad2-5a4c-4d4e-9d5c-0f6a3c1c7d11"
KEY, FRESH, STRANGER = (private_key(ED25519, n) for n in ("key", "fresh", "stranger"))
CA = CertificateAuthority(private_key(ED25519, "CA"), now=lambda: NOW)
AGENT = CA.sign_agent(KEY.public, cluster="b", instance=INSTANCE, validity=60)
PROXY = CA.sign_host(
    KEY.public, proxy_id=INSTANCE, cluster="a", public_names=[], validity=60
)
REQUEST = RenewalRequest.make(AGENT, KEY, NOW)
WITH_FRESH = RenewalRequest.make(AGENT, KEY, NOW, FRESH)


class ProofTests(SynchronousTestCase):
    """What a request proves by itself."""

    def assert_refused(self, reason: str, request: RenewalRequest) -> None:
        """It counts for nothing."""
        with self.assertRaisesRegex(CertificateError, reason):
            request.check(NOW)

    def test_the_holder_of_the_key_may_ask(self) -> None:
        """For the same key, and for a fresh one; with RSA as well."""
        REQUEST.check(NOW)
        WITH_FRESH.check(NOW)
        self.assertEqual((REQUEST.key, WITH_FRESH.key), (KEY.public, FRESH.public))
        rsa = private_key(RSA, "old")
        certificate = CA.sign_agent(
            rsa.public, cluster="b", instance=INSTANCE, validity=60
        )
        RenewalRequest.make(certificate, rsa, NOW).check(NOW)

    def test_nobody_else_may(self) -> None:
        """Who has seen the certificate does not have the key."""
        self.assert_refused("key of the", RenewalRequest.make(AGENT, STRANGER, NOW))
        stolen = RenewalRequest.make(AGENT, STRANGER, NOW, STRANGER)
        self.assert_refused("key of the", stolen)

    def test_a_fresh_key_has_to_be_held_too(self) -> None:
        """One cannot have somebody else's key certified."""
        self.assert_refused("fresh", attrs.evolve(WITH_FRESH, proof=b""))
        self.assert_refused(
            "fresh", attrs.evolve(WITH_FRESH, proof=WITH_FRESH.signature)
        )

    def test_each_field_is_signed(self) -> None:
        """Another certificate, key or time than was signed is none."""
        self.assert_refused("key of the", attrs.evolve(REQUEST, certificate=PROXY))
        self.assert_refused("key of the", attrs.evolve(REQUEST, time=REQUEST.time + 1))
        self.assert_refused("key of the", attrs.evolve(REQUEST, key=FRESH.public))

    def test_an_old_request_is_none(self) -> None:
        """Nor one from the future; clocks may differ by some minutes."""
        for seconds in (-MAX_AGE, MAX_AGE):
            RenewalRequest.make(AGENT, KEY, NOW + seconds).check(NOW)
            early_or_late = RenewalRequest.make(AGENT, KEY, NOW + seconds * 1.01)
            self.assert_refused("ago|ahead", early_or_late)

    def test_the_certificate_tells_who_has_to_sign(self) -> None:
        """The agent CA for agents, the host CA for proxies."""
        self.assertEqual(REQUEST.role, "agent")
        self.assertEqual(RenewalRequest.make(PROXY, KEY, NOW).role, "proxy")


class WireTests(SynchronousTestCase):
    """As it travels."""

    def test_it_is_read_as_it_was_written(self) -> None:
        """Source and proof included."""
        for request in (REQUEST, attrs.evolve(WITH_FRESH, source="192.0.2.7")):
            self.assertEqual(decode_request(encode_request(request)), request)

    @settings(deadline=None, max_examples=150)
    @given(st.integers(0, 2000), st.integers(1, 255))
    def test_a_tampered_request_is_refused(self, index: int, flip: int) -> None:
        """Each byte of it counts, the source's aside, which nobody believes."""
        data = bytearray(encode_request(WITH_FRESH))
        start = len(encode_request(WITH_FRESH)) - len(WITH_FRESH.encode_body())
        index = start + index % (len(data) - start)
        data[index] ^= flip
        try:
            request = decode_request(bytes(data))
            assert isinstance(request, RenewalRequest)
            request.check(NOW)
        except (MessageError, CertificateError):
            return
        self.fail(f"byte {index} does not count")
