"""Tests for :mod:`rtunnel.ssh.host_key`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.ssh.host_key import HostKey
from rtunnel.wire.keys import ED25519, RSA, PrivateKey
from tests.ssh.transports import certified
from tests.wire.examples import private_key


class HostKeyTests(SynchronousTestCase):
    """:class:`HostKey`."""

    def test_algorithms(self) -> None:
        """Those with the certificate first, SHA-512 before SHA-256, never SHA-1."""
        self.assertEqual(
            certified(private_key(RSA)).algorithms,
            (
                b"rsa-sha2-512-cert-v01@openssh.com",
                b"rsa-sha2-256-cert-v01@openssh.com",
                b"rsa-sha2-512",
                b"rsa-sha2-256",
            ),
        )
        self.assertEqual(HostKey(private_key(ED25519)).algorithms, (b"ssh-ed25519",))

    def test_what_is_shown_and_signed(self) -> None:
        """The certificate or the key, and a signature under the plain name."""
        host_key = certified(private_key(RSA))
        assert host_key.certificate is not None
        for algorithm in host_key.algorithms:
            is_certificate = b"-cert-" in algorithm
            shown = host_key.certificate if is_certificate else private_key(RSA).public
            self.assertEqual(host_key.blob(algorithm), shown.blob)
            signature = host_key.sign(b"data", algorithm)
            self.assertTrue(shown.verify(signature, b"data", algorithm))

    def test_a_certificate_of_another_key_is_refused(self) -> None:
        """It could prove nothing."""
        certificate = certified(PrivateKey.generate()).certificate
        with self.assertRaisesRegex(ValueError, "another key"):
            HostKey(PrivateKey.generate(), certificate)
