"""Tests for :mod:`rtunnel.ssh.userauth_client`."""

from __future__ import annotations

import attrs
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import AuthenticationRefused
from rtunnel.ssh.factory import ClientFactory
from rtunnel.ssh.userauth import LoginRules
from rtunnel.ssh.userauth_client import Credentials
from rtunnel.testing import RecordingHandler
from rtunnel.trust.identity import Identity
from rtunnel.wire.algorithms import USER_KEY_ALGORITHMS, Algorithms
from rtunnel.wire.keys import ED25519, RSA
from tests.ssh.transports import (
    ADDRESS,
    USER_KEY,
    Pair,
    RecordingEvents,
    RecordingService,
    believe,
    identity,
    make_client,
    make_server,
)
from tests.ssh.userauth_examples import KEY_TYPES, certificate
from tests.wire.examples import private_key


class UserAuthClientTests(SynchronousTestCase):
    """Our client, logging in."""

    def requests(
        self,
        credentials: Credentials,
        *,
        server_algorithms: Algorithms | None = None,
        client_algorithms: Algorithms | None = None,
        accept: bool = True,
    ) -> list[tuple[bytes, bytes]]:
        """What the client asks with, as algorithm and blob."""
        asked: list[tuple[bytes, bytes]] = []

        def identify(algorithm: bytes, blob: bytes, source: str) -> Identity:
            asked.append((algorithm, blob))
            if not accept:
                raise AuthenticationRefused("no")
            return identity()

        clock = Clock()
        rules = LoginRules(identify, lambda who: RecordingService())
        server = make_server(
            clock, rules=rules, algorithms=server_algorithms or Algorithms()
        )
        client = make_client(
            clock,
            credentials=credentials,
            algorithms=client_algorithms or Algorithms(),
        )
        pair = Pair(server, client, clock)
        pair.pump()
        self.assertEqual(pair.server_transport.authenticated, accept)
        return asked

    def test_asks_once_with_all_it_has(self) -> None:
        """No questions before, and no second try after a refusal."""
        for key_type in KEY_TYPES:
            key = private_key(key_type)
            best = key.public.signature_algorithms[0]
            for accept in (True, False):
                credentials = Credentials("x", key)
                self.assertEqual(
                    self.requests(credentials, accept=accept),
                    [(best, key.public.blob)],
                )

    def test_a_certificate_goes_before_the_key(self) -> None:
        """Under the name that certificates have."""
        for key_type, name in zip(
            KEY_TYPES,
            (
                b"ssh-ed25519-cert-v01@openssh.com",
                b"ecdsa-sha2-nistp256-cert-v01@openssh.com",
                b"rsa-sha2-512-cert-v01@openssh.com",
            ),
            strict=True,
        ):
            key = private_key(key_type)
            signed = certificate(key.public)
            self.assertEqual(
                self.requests(Credentials("x", key, signed)), [(name, signed.blob)]
            )

    def test_heeds_what_the_server_takes(self) -> None:
        """RSA with SHA-256 where SHA-512 is not on the list (RFC 8308, 3.1)."""
        key = private_key(RSA)
        only = Algorithms(user_keys=(b"rsa-sha2-256",))
        self.assertEqual(
            self.requests(Credentials("x", key), server_algorithms=only),
            [(b"rsa-sha2-256", key.public.blob)],
        )
        credentials = Credentials("x", key, certificate(key.public))
        self.assertEqual(
            credentials.algorithm(USER_KEY_ALGORITHMS, (b"rsa-sha2-256",)),
            b"rsa-sha2-256-cert-v01@openssh.com",
        )

    def test_uses_what_it_may_and_in_that_order(self) -> None:
        """Our own list counts too."""
        for names in (
            (b"rsa-sha2-256", b"rsa-sha2-512"),
            (b"ssh-ed25519", b"rsa-sha2-256"),
        ):
            ours = Algorithms(user_keys=names)
            self.assertEqual(
                [
                    algorithm
                    for algorithm, _ in self.requests(
                        Credentials("x", private_key(RSA)), client_algorithms=ours
                    )
                ],
                [b"rsa-sha2-256"],
            )

    def test_a_key_that_cannot_be_used_is_told_at_once(self) -> None:
        """Not to the server: to who configured it."""
        with self.assertRaisesRegex(ValueError, "nothing to log in with"):
            ClientFactory(
                clock=Clock(),
                username="x",
                key=private_key(ED25519),
                certificate=None,
                check_host=believe,
                handler=RecordingHandler(),
                algorithms=Algorithms(user_keys=(b"ssh-ed25519-cert-v01@openssh.com",)),
            )

    def test_a_server_that_lists_too_little_is_asked_all_the_same(self) -> None:
        """Or that lists nothing at all."""
        credentials = Credentials("x", private_key(ED25519))
        for listed in (None, (), (b"rsa-sha2-512",)):
            self.assertEqual(
                credentials.algorithm(USER_KEY_ALGORITHMS, listed), b"ssh-ed25519"
            )

    def test_the_user_name_is_utf_8(self) -> None:
        """RFC 4252 section 5."""
        events = RecordingEvents()

        def nobody(algorithm: bytes, blob: bytes, source: str) -> Identity:
            raise AuthenticationRefused("no")

        clock = Clock()
        rules = LoginRules(nobody, lambda who: RecordingService(), events)
        credentials = attrs.evolve(Credentials("", USER_KEY), username="jürgen")
        pair = Pair(
            make_server(clock, rules=rules),
            make_client(clock, credentials=credentials),
            clock,
        )
        pair.pump()
        self.assertEqual(events.refused, [(ADDRESS, "jürgen", "no")])
