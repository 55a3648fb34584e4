"""Every check that a certificate has to pass, with the reason when it does not."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import CertificateError
from rtunnel.wire.certificate import FOREVER, Certificate, CertificateKind
from rtunnel.wire.data_types import string
from rtunnel.wire.keys import (
    ED25519,
    RSA,
    RSA_SHA256,
    RSA_SHA512,
    SK_ED25519,
)
from tests.wire.examples import (
    NOW,
    RawCertificate,
    SecurityKey,
    option,
    private_key,
    rsa_key,
    rsa_sha1_signature,
)

CA = private_key(ED25519, "ca")


class CertificateCheckTests(SynchronousTestCase):
    """One reason each; all else about the certificate is good."""

    def check(
        self,
        raw: RawCertificate,
        *,
        kind: CertificateKind = CertificateKind.USER,
        now: float = NOW,
        source: str | None = "192.0.2.1",
        principal: str | None = None,
    ) -> None:
        """Check a certificate in the role of a user's."""
        Certificate.from_blob(raw.blob()).check(
            kind=kind, trusted={CA.public}, now=now, source=source, principal=principal
        )

    def assert_refused(
        self,
        reason: str,
        raw: RawCertificate,
        *,
        kind: CertificateKind = CertificateKind.USER,
        now: float = NOW,
        source: str | None = "192.0.2.1",
        principal: str | None = None,
    ) -> None:
        """The certificate is refused, and for this reason."""
        with self.assertRaises(CertificateError) as caught:
            self.check(raw, kind=kind, now=now, source=source, principal=principal)
        self.assertIn(reason, str(caught.exception))

    def test_a_good_certificate_is_accepted(self) -> None:
        """In its role, with and without a principal asked for."""
        self.check(RawCertificate())
        self.check(RawCertificate(), principal="ops")
        self.check(RawCertificate(kind=2), kind=CertificateKind.HOST)

    def test_one_that_was_accepted_before_is_checked_again(self) -> None:
        """Only that its CA has signed it holds for good."""
        raw = RawCertificate()
        self.check(raw)
        self.assert_refused("expired", raw, now=FOREVER - 1)
        self.assert_refused(
            "host certificate is needed", raw, kind=CertificateKind.HOST
        )
        with self.assertRaisesRegex(CertificateError, "no trusted CA"):
            Certificate.from_blob(raw.blob()).check(
                kind=CertificateKind.USER, trusted=set(), now=NOW, source="192.0.2.1"
            )
        self.check(raw)

    def test_one_that_was_refused_before_is_refused_again(self) -> None:
        """A wrong signature is not taken for one that was looked at."""
        good = RawCertificate().blob()
        bad = good[:-1] + bytes((good[-1] ^ 1,))
        for _ in range(2):
            with self.assertRaisesRegex(CertificateError, "signature is wrong"):
                Certificate.from_blob(bad).check(
                    kind=CertificateKind.USER,
                    trusted={CA.public},
                    now=NOW,
                    source="192.0.2.1",
                )

    def test_one_kind_is_not_accepted_as_the_other(self) -> None:
        """Neither way round."""
        self.assert_refused("a host certificate where a user", RawCertificate(kind=2))
        self.assert_refused(
            "a user certificate where a host",
            RawCertificate(),
            kind=CertificateKind.HOST,
        )

    def test_only_trusted_cas_count(self) -> None:
        """A good signature by another CA is not enough; nor is no CA at all."""
        other = private_key(ED25519, "other")
        raw = RawCertificate(ca_blob=other.public.blob, sign=other.sign)
        self.assert_refused(f"{other.public.fingerprint}, which is no trusted CA", raw)
        certificate = Certificate.from_blob(raw.blob())
        certificate.check(
            kind=CertificateKind.USER, trusted=[CA.public, other.public], now=NOW
        )
        with self.assertRaisesRegex(CertificateError, "no trusted CA"):
            certificate.check(kind=CertificateKind.USER, trusted=[], now=NOW)

    def test_a_ca_that_did_not_sign_it_does_not_count(self) -> None:
        """The name of a trusted CA with another's signature, or with none."""
        other = private_key(ED25519, "other")
        self.assert_refused("signature is wrong", RawCertificate(sign=other.sign))
        self.assert_refused("not accepted", RawCertificate(sign=lambda data: b""))
        self.assert_refused(
            "signature is wrong", RawCertificate(sign=lambda data: CA.sign(data + b"x"))
        )

    def test_an_rsa_ca_signs_with_sha_2(self) -> None:
        """Both sizes; a good SHA-1 signature of the same CA is refused."""
        ca = private_key(RSA)
        for algorithm in (RSA_SHA512, RSA_SHA256):
            raw = RawCertificate(
                ca_blob=ca.public.blob,
                sign=lambda data, a=algorithm: ca.sign(data, a),  # type: ignore[misc]
            )
            Certificate.from_blob(raw.blob()).check(
                kind=CertificateKind.USER, trusted=[ca.public], now=NOW
            )
        raw = RawCertificate(
            ca_blob=ca.public.blob,
            sign=lambda data: rsa_sha1_signature(rsa_key(), data),
        )
        with self.assertRaisesRegex(CertificateError, "signed with 'ssh-rsa'"):
            Certificate.from_blob(raw.blob()).check(
                kind=CertificateKind.USER, trusted=[ca.public], now=NOW
            )

    def test_a_security_key_as_ca_has_to_be_touched(self) -> None:
        """The flags count for certificates as for logins."""
        ca = SecurityKey(SK_ED25519)
        for flags in (1, 0):
            raw = RawCertificate(
                ca_blob=ca.public.blob,
                sign=lambda data, f=flags: ca.sign(data, f),  # type: ignore[misc]
            )
            certificate = Certificate.from_blob(raw.blob())
            if flags:
                certificate.check(
                    kind=CertificateKind.USER, trusted=[ca.public], now=NOW
                )
            else:
                with self.assertRaisesRegex(CertificateError, "signature is wrong"):
                    certificate.check(
                        kind=CertificateKind.USER, trusted=[ca.public], now=NOW
                    )

    def test_validity_ends_at_its_last_second(self) -> None:
        """``valid_before`` is the first second that is too late, without skew."""
        raw = RawCertificate(valid_before=NOW)
        self.check(raw, now=NOW - 0.001)
        self.assert_refused("expired at 2027-01-15T08:00:00+00:00", raw, now=NOW)

    def test_validity_begins_up_to_60_seconds_early(self) -> None:
        """The CA's clock may be ahead of ours by so much."""
        raw = RawCertificate(valid_after=NOW)
        self.check(raw, now=NOW - 60)
        self.assert_refused("not valid before 2027-01-15T08:00", raw, now=NOW - 60.1)

    def test_the_skew_is_the_callers_choice(self) -> None:
        """In seconds, and it may be none."""
        certificate = Certificate.from_blob(RawCertificate(valid_after=NOW).blob())
        certificate.check(
            kind=CertificateKind.USER, trusted=[CA.public], now=NOW - 5, skew=5
        )
        with self.assertRaisesRegex(CertificateError, "not valid before"):
            certificate.check(
                kind=CertificateKind.USER, trusted=[CA.public], now=NOW - 5, skew=0
            )

    def test_a_certificate_for_ever_is_valid_for_ever(self) -> None:
        """And times beyond the calendar are shown as numbers."""
        raw = RawCertificate(valid_after=0, valid_before=FOREVER)
        self.check(raw, now=0)
        self.check(raw, now=1e15)
        self.assert_refused(
            f"POSIX time {FOREVER - 1}",
            RawCertificate(valid_after=FOREVER - 1, valid_before=FOREVER),
        )

    def test_a_validity_that_ends_before_it_begins_is_refused(self) -> None:
        """The skew does not bring it to life."""
        for end in (NOW + 10, NOW + 20):
            raw = RawCertificate(valid_after=NOW + 20, valid_before=end)
            self.assert_refused("ends before it begins", raw)

    def test_no_principal_is_nobody(self) -> None:
        """OpenSSH's "all principals" is not honoured, in either kind."""
        self.assert_refused("names no principal", RawCertificate(principals=()))
        self.assert_refused(
            "names no principal",
            RawCertificate(principals=(), kind=2),
            kind=CertificateKind.HOST,
        )

    def test_a_principal_asked_for_has_to_be_there_exactly(self) -> None:
        """No prefix, case or pattern makes it another."""
        for wanted in ("bob", "alic", "Alice", "*", "", "alice,ops"):
            self.assert_refused(
                "does not name the principal", RawCertificate(), principal=wanted
            )
        self.assert_refused(
            "does not name the principal",
            RawCertificate(principals=(b"*",)),
            principal="alice",
        )

    def test_critical_options_that_cannot_be_honoured_are_refused(self) -> None:
        """Unknown ones, and those of which rtunnel has no means."""
        for options in (
            option("no-such-option"),
            option("force-command", "ls"),
            option("verify-required"),
            option("permitopen@example.com", "x") + option("verify-required"),
            option("Source-Address", "192.0.2.1"),
        ):
            self.assert_refused(
                "which rtunnel cannot honour", RawCertificate(critical_options=options)
            )

    def test_a_host_certificate_has_no_critical_options(self) -> None:
        """Not even those that users' certificates may have."""
        self.assert_refused(
            "'source-address', which rtunnel cannot honour",
            RawCertificate(
                kind=2, critical_options=option("source-address", "192.0.2.1")
            ),
            kind=CertificateKind.HOST,
        )

    def test_unknown_extensions_are_passed_over(self) -> None:
        """They are what a reader need not understand, whatever their data is."""
        extensions = option("a@example.com", "x") + string(b"b") + string(b"\xff")
        self.check(RawCertificate(extensions=extensions))

    def test_source_addresses_are_held(self) -> None:
        """Single addresses and networks of both families, and IPv4 inside IPv6."""
        raw = RawCertificate(
            critical_options=option(
                "source-address", "192.0.2.0/24,198.51.100.7,2001:db8::/32"
            )
        )
        for source in (
            "192.0.2.255",
            "198.51.100.7",
            "2001:db8::1",
            "::ffff:192.0.2.9",
        ):
            self.check(raw, source=source)
        for source in ("192.0.3.1", "198.51.100.8", "2001:db9::1", "::ffff:10.0.0.1"):
            self.assert_refused("may not be used from", raw, source=source)

    def test_a_source_address_needs_a_known_source(self) -> None:
        """Where the source is not known, or no address, nothing matches."""
        raw = RawCertificate(critical_options=option("source-address", "0.0.0.0/0"))
        self.assert_refused("the source is not known", raw, source=None)
        self.assert_refused("is not an IP address", raw, source="UNKNOWN")

    def test_a_source_address_empty_or_malformed_is_nowhere(self) -> None:
        """Present but empty is not the same as absent; half a list is no list."""
        for options in (
            option("source-address"),
            option("source-address", ""),
            option("source-address", ","),
            option("source-address", "*"),
            option("source-address", "192.0.2.1,"),
            option("source-address", "192.0.2.1/24"),
            option("source-address", "192.0.2.1,example.com"),
            string(b"source-address") + string(b"192.0.2.1"),
            string(b"source-address") + string(string(b"192.0.2.1") + b"\0"),
            string(b"source-address") + string(string(b"\xff")),
        ):
            self.assert_refused(
                "source-address is empty or malformed",
                RawCertificate(critical_options=options),
            )
