"""Tests for :mod:`rtunnel.wire.algorithms`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rtunnel.wire.algorithms import (
    DEFAULT_ALGORITHMS,
    Algorithms,
    server_sig_algs,
    signature_algorithm,
)


class AlgorithmsTests(SynchronousTestCase):
    """:class:`Algorithms`."""

    def test_what_is_offered(self) -> None:
        """The list itself: a change of it is a decision, not an accident."""
        self.assertEqual(
            DEFAULT_ALGORITHMS,
            Algorithms(
                key_exchanges=(
                    b"mlkem768x25519-sha256",
                    b"curve25519-sha256",
                    b"curve25519-sha256@libssh.org",
                ),
                host_keys=(
                    b"ssh-ed25519-cert-v01@openssh.com",
                    b"ecdsa-sha2-nistp256-cert-v01@openssh.com",
                    b"rsa-sha2-512-cert-v01@openssh.com",
                    b"rsa-sha2-256-cert-v01@openssh.com",
                    b"ssh-ed25519",
                    b"ecdsa-sha2-nistp256",
                    b"rsa-sha2-512",
                    b"rsa-sha2-256",
                ),
                user_keys=(
                    b"ssh-ed25519-cert-v01@openssh.com",
                    b"sk-ssh-ed25519-cert-v01@openssh.com",
                    b"ecdsa-sha2-nistp256-cert-v01@openssh.com",
                    b"sk-ecdsa-sha2-nistp256-cert-v01@openssh.com",
                    b"rsa-sha2-512-cert-v01@openssh.com",
                    b"rsa-sha2-256-cert-v01@openssh.com",
                    b"ssh-ed25519",
                    b"sk-ssh-ed25519@openssh.com",
                    b"ecdsa-sha2-nistp256",
                    b"sk-ecdsa-sha2-nistp256@openssh.com",
                    b"rsa-sha2-512",
                    b"rsa-sha2-256",
                ),
                ciphers=(
                    b"aes128-gcm@openssh.com",
                    b"aes256-gcm@openssh.com",
                    b"aes128-ctr",
                    b"aes256-ctr",
                ),
                macs=(
                    b"hmac-sha2-256-etm@openssh.com",
                    b"hmac-sha2-512-etm@openssh.com",
                ),
            ),
        )

    def test_nothing_unknown_can_be_offered(self) -> None:
        """The error names it, the list, and what there is."""
        for field in ("key_exchanges", "host_keys", "user_keys", "ciphers", "macs"):
            with self.assertRaisesRegex(ValueError, f"'none' is none of the {field}: "):
                Algorithms(**{field: (b"none",)})

    def test_something_has_to_be_offered(self) -> None:
        """An empty list could never be agreed on."""
        with self.assertRaisesRegex(ValueError, "no ciphers"):
            Algorithms(ciphers=())

    def test_chacha20_has_to_be_asked_for(self) -> None:
        """It is known, and not offered."""
        chacha20 = b"chacha20-poly1305@openssh.com"
        self.assertNotIn(chacha20, DEFAULT_ALGORITHMS.ciphers)
        self.assertEqual(Algorithms(ciphers=(chacha20,)).ciphers, (chacha20,))

    def test_the_order_is_free(self) -> None:
        """What comes first is preferred."""
        ciphers = (b"aes256-gcm@openssh.com", b"aes128-gcm@openssh.com")
        self.assertEqual(Algorithms(ciphers=ciphers).ciphers, ciphers)


class SignatureAlgorithmTests(SynchronousTestCase):
    """:func:`signature_algorithm`."""

    def test_a_certificate_signs_under_the_plain_name(self) -> None:
        """RFC 8332 section 3 and draft-miller-ssh-cert."""
        for name, signature in (
            (b"rsa-sha2-512-cert-v01@openssh.com", b"rsa-sha2-512"),
            (b"sk-ssh-ed25519-cert-v01@openssh.com", b"sk-ssh-ed25519@openssh.com"),
            (b"ssh-ed25519", b"ssh-ed25519"),
        ):
            self.assertEqual(signature_algorithm(name), signature)


class ServerSigAlgsTests(SynchronousTestCase):
    """:func:`server_sig_algs`."""

    def test_names_what_is_taken_and_what_it_is_signed_with(self) -> None:
        """Clients look for the signature of their certificate, not for its own name."""
        self.assertEqual(
            server_sig_algs(
                (b"rsa-sha2-512-cert-v01@openssh.com", b"ssh-ed25519"),
            ),
            (b"rsa-sha2-512-cert-v01@openssh.com", b"ssh-ed25519", b"rsa-sha2-512"),
        )

    def test_by_default_every_signature_is_there_and_no_sha_1(self) -> None:
        """Each once."""
        names = server_sig_algs(DEFAULT_ALGORITHMS.user_keys)
        self.assertEqual(names, DEFAULT_ALGORITHMS.user_keys)
        self.assertNotIn(b"ssh-rsa", names)
