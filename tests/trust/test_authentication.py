"""Logins: which key or certificate makes whom, and which makes nobody."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import AuthenticationRefused
from rtunnel.trust.anchors import TrustAnchors
from rtunnel.trust.authentication import Authentication
from rtunnel.trust.authority import CertificateAuthority
from rtunnel.trust.authorized_keys import AuthorizedKeys
from rtunnel.trust.identity import (
    AgentIdentity,
    Identity,
    PeerIdentity,
    UserIdentity,
)
from rtunnel.trust.revocation import Revocation, RevocationKind, Revocations
from rtunnel.wire.certificate import (
    CERTIFICATE_ALGORITHMS,
    FOREVER,
    Certificate,
    CertificateKind,
    sign_certificate,
)
from rtunnel.wire.data_types import text
from rtunnel.wire.keys import ED25519, RSA, RSA_SHA256, RSA_SHA512, PublicKey
from tests.wire.examples import KEY_TYPES, NOW, private_key

PROXY_ID = "0b0e0ad2-5a4c-4d4e-9d5c-0f6a3c1c7d11"
INSTANCE = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
SOURCE = "192.0.2.1"
KEY = private_key(ED25519).public
FORWARDING = (("permit-port-forwarding", b""),)


def certify(
    ca: str,
    key_id: str,
    principals: tuple[str, ...],
    *,
    kind: CertificateKind = CertificateKind.USER,
    key: PublicKey = KEY,
    valid_before: int = NOW + 3600,
    critical_options: tuple[tuple[str, bytes], ...] = (),
    extensions: tuple[tuple[str, bytes], ...] = FORWARDING,
) -> Certificate:
    """Any certificate of the CA of that name."""
    return sign_certificate(
        private_key(ED25519, ca),
        key,
        kind=kind,
        key_id=key_id,
        principals=principals,
        valid_after=NOW - 60,
        valid_before=valid_before,
        serial=1,
        critical_options=critical_options,
        extensions=extensions,
    )


class AuthenticationTestCase(SynchronousTestCase):
    """A proxy of cluster a with one CA in each role."""

    file = ""
    now = float(NOW)

    def setUp(self) -> None:
        self.revoked: list[Revocation] = []
        self.anchors = TrustAnchors(
            user=[private_key(ED25519, "user CA").public],
            agent=[private_key(ED25519, "agent CA").public],
            host=[private_key(ED25519, "host CA").public],
        )
        self.authentication = Authentication(
            anchors=lambda: self.anchors,
            cluster="a",
            authorized_keys=lambda: AuthorizedKeys.parse(self.file),
            now=lambda: self.now,
            revocations=lambda: Revocations(self.revoked),
        )

    def identify(
        self, offered: Certificate | PublicKey, source: str = SOURCE
    ) -> Identity:
        """Who logs in with that."""
        algorithm = offered.signature_algorithms[0]
        return self.authentication.identify(algorithm, offered.blob, source)

    def assert_refused(
        self, reason: str, offered: Certificate | PublicKey, source: str = SOURCE
    ) -> None:
        """Nobody logs in with that, and for this reason."""
        with self.assertRaises(AuthenticationRefused) as caught:
            self.identify(offered, source)
        self.assertIn(reason, str(caught.exception))


class UserTests(AuthenticationTestCase):
    """People with certificates of the user CA."""

    def test_the_key_id_is_the_name(self) -> None:
        """And the principals are what rules speak of."""
        certificate = certify("user CA", "alice", ("ops", "alice"))
        self.assertEqual(
            self.identify(certificate),
            UserIdentity(
                name="alice",
                principals=("ops", "alice"),
                key_id="alice",
                fingerprint=KEY.fingerprint,
                source=SOURCE,
                certificate=certificate,
                valid_before=float(NOW + 3600),
            ),
        )

    def test_every_kind_of_key_can_be_certified(self) -> None:
        """And be offered with each of its algorithms."""
        for key_type in KEY_TYPES:
            key = private_key(key_type).public
            certificate = certify("user CA", "alice", ("alice",), key=key)
            for algorithm in certificate.signature_algorithms:
                identity = self.authentication.identify(
                    algorithm, certificate.blob, SOURCE
                )
                assert isinstance(identity, UserIdentity)
                self.assertEqual(identity.fingerprint, key.fingerprint)

    def test_the_name_has_to_be_among_the_principals(self) -> None:
        """A CA that gives other principals says nothing about the name."""
        certificate = certify("user CA", "alice", ("ops",))
        self.assert_refused("not one of its principals", certificate)

    def test_the_name_has_to_be_well_formed(self) -> None:
        """Whatever the CA wrote."""
        for name in ("Alice Example", "%h", "*", "a\nb"):
            self.assert_refused("not a user name", certify("user CA", name, (name,)))

    def test_principals_that_no_rule_can_name_are_left_out(self) -> None:
        """The others hold."""
        certificate = certify("user CA", "alice", ("*", "alice", "a b", "ops", "%u"))
        identity = self.identify(certificate)
        assert isinstance(identity, UserIdentity)
        self.assertEqual(identity.principals, ("alice", "ops"))

    def test_a_certificate_that_grants_no_forwarding_grants_nothing_here(self) -> None:
        """As for sshd, forwarding needs its extension."""
        certificate = certify(
            "user CA", "alice", ("alice",), extensions=(("permit-pty", b""),)
        )
        self.assert_refused("lacks permit-port-forwarding", certificate)

    def test_an_endless_certificate_makes_an_endless_identity(self) -> None:
        """Nothing has to end the connection then."""
        certificate = certify("user CA", "alice", ("alice",), valid_before=FOREVER)
        self.assertIsNone(self.identify(certificate).valid_before)

    def test_time_is_asked_for_at_each_login(self) -> None:
        """What was valid a moment ago may be expired now."""
        certificate = certify("user CA", "alice", ("alice",))
        self.identify(certificate)
        self.now = NOW + 3600
        self.assert_refused("expired", certificate)

    def test_source_addresses_are_held(self) -> None:
        """Of the connection, IPv4 inside IPv6 being IPv4."""
        certificate = certify(
            "user CA",
            "alice",
            ("alice",),
            critical_options=(("source-address", text("192.0.2.0/24")),),
        )
        self.assertEqual(
            self.identify(certificate, "::ffff:192.0.2.9").source, "192.0.2.9"
        )
        self.assert_refused("may not be used from", certificate, "192.0.3.1")
        self.assert_refused("not an IP address", certificate, "/run/a\n.sock")

    def test_a_source_that_is_no_address_is_shown_printable(self) -> None:
        """Where nothing is bound to addresses it does no harm."""
        certificate = certify("user CA", "alice", ("alice",))
        self.assertEqual(self.identify(certificate, "\x1b[2J").source, r"\x1b[2J")


class AgentTests(AuthenticationTestCase):
    """Agents with certificates of the agent CA."""

    def test_the_principal_is_the_cluster_and_the_key_id_the_instance(self) -> None:
        """No extension is needed."""
        certificate = certify("agent CA", INSTANCE, ("b",), extensions=())
        self.assertEqual(
            self.identify(certificate),
            AgentIdentity(
                cluster="b",
                instance=INSTANCE,
                fingerprint=KEY.fingerprint,
                source=SOURCE,
                certificate=certificate,
                valid_before=float(NOW + 3600),
            ),
        )

    def test_an_agent_has_one_cluster(self) -> None:
        """Two would let it choose."""
        self.assert_refused("one principal", certify("agent CA", INSTANCE, ("b", "c")))

    def test_source_addresses_are_held(self) -> None:
        """A stolen key is of no use elsewhere."""
        certificate = certify(
            "agent CA",
            INSTANCE,
            ("b",),
            critical_options=(("source-address", text("192.0.2.0/24")),),
            extensions=(),
        )
        self.assertEqual(self.identify(certificate, "192.0.2.9").source, "192.0.2.9")
        self.assert_refused("may not be used from", certificate, "192.0.3.1")

    def test_cluster_and_instance_have_to_be_well_formed(self) -> None:
        """Whatever the CA wrote."""
        for name in ("B", "*", "b.c", "-b"):
            self.assert_refused("not a cluster", certify("agent CA", INSTANCE, (name,)))
        self.assert_refused("not a UUID", certify("agent CA", "alice", ("b",)))


class PeerTests(AuthenticationTestCase):
    """Other proxies, with their host certificates."""

    def test_the_first_principal_is_the_proxy_id(self) -> None:
        """And all principals are its names."""
        names = (PROXY_ID, "a", "lb.example.com")
        certificate = certify(
            "host CA", PROXY_ID, names, kind=CertificateKind.HOST, extensions=()
        )
        self.assertEqual(
            self.identify(certificate),
            PeerIdentity(
                proxy_id=PROXY_ID,
                names=names,
                fingerprint=KEY.fingerprint,
                source=SOURCE,
                certificate=certificate,
                valid_before=float(NOW + 3600),
            ),
        )

    def test_a_proxy_of_another_cluster_is_no_peer(self) -> None:
        """Even if it has the same host CA."""
        certificate = certify(
            "host CA", PROXY_ID, (PROXY_ID, "z"), kind=CertificateKind.HOST
        )
        self.assert_refused("does not name the principal 'a'", certificate)

    def test_a_host_without_a_proxy_id_is_no_peer(self) -> None:
        """The cluster's targets may well have host certificates too."""
        for names in (("a", PROXY_ID), ("web1", "a"), ("a",)):
            certificate = certify("host CA", "x", names, kind=CertificateKind.HOST)
            self.assert_refused("not a UUID", certificate)


class RoleTests(AuthenticationTestCase):
    """A certificate of one kind is never accepted in another role."""

    def test_each_ca_counts_in_its_own_role_only(self) -> None:
        """Every CA with what the others sign, and a CA that nobody trusts."""
        user, host = CertificateKind.USER, CertificateKind.HOST
        peer_names = (PROXY_ID, "a")
        for ca, kind, key_id, principals, reason in (
            ("user CA", user, INSTANCE, ("b",), "not one of its principals"),
            ("user CA", host, PROXY_ID, peer_names, "no trusted CA for host"),
            ("agent CA", user, "alice", ("alice",), "not a UUID"),
            ("agent CA", host, PROXY_ID, peer_names, "no trusted CA for host"),
            ("host CA", user, "alice", ("alice",), "no trusted CA for user"),
            ("host CA", user, INSTANCE, ("b",), "no trusted CA for user"),
            ("evil CA", user, "alice", ("alice",), "no trusted CA for user"),
            ("evil CA", user, INSTANCE, ("b",), "no trusted CA for user"),
            ("evil CA", host, PROXY_ID, peer_names, "no trusted CA for host"),
        ):
            self.assert_refused(reason, certify(ca, key_id, principals, kind=kind))

    def test_the_anchors_of_the_moment_decide(self) -> None:
        """A CA that comes counts at once, and one that goes no longer does."""
        old = certify("user CA", "alice", ("alice",))
        new = certify("new", "alice", ("alice",))
        self.assert_refused("CA", new)
        keys = [private_key(ED25519, name).public for name in ("user CA", "new")]
        self.anchors = TrustAnchors(user=keys)
        self.assertEqual(self.identify(old).source, SOURCE)
        self.assertEqual(self.identify(new).source, SOURCE)
        self.anchors = TrustAnchors(user=keys[1:])
        self.assert_refused("CA", old)
        self.assertEqual(self.identify(new).source, SOURCE)

    def test_what_the_authorities_sign_is_accepted_in_their_roles(self) -> None:
        """The two sides of trust agree."""

        def signer(name: str) -> CertificateAuthority:
            return CertificateAuthority(private_key(ED25519, name), now=lambda: NOW)

        user = signer("user CA").sign_user(KEY, name="alice", ttl=60)
        agent = signer("agent CA").sign_agent(
            KEY, cluster="b", instance=INSTANCE, validity=60
        )
        peer = signer("host CA").sign_host(
            KEY,
            proxy_id=PROXY_ID,
            cluster="a",
            public_names=["lb.example.com"],
            validity=60,
        )
        self.assertIsInstance(self.identify(user), UserIdentity)
        self.assertIsInstance(self.identify(agent), AgentIdentity)
        self.assertIsInstance(self.identify(peer), PeerIdentity)


class PlainKeyTests(AuthenticationTestCase):
    """People listed in authorized_keys."""

    def test_a_listed_key_is_the_person_in_its_comment(self) -> None:
        """Whose only principal is that name."""
        self.file = f'expiry-time="20300101Z" {KEY.to_openssh("bob")}'
        self.assertEqual(
            self.identify(KEY, "::ffff:192.0.2.1"),
            UserIdentity(
                name="bob",
                principals=("bob",),
                key_id=KEY.fingerprint,
                fingerprint=KEY.fingerprint,
                source=SOURCE,
                certificate=None,
                valid_before=1_893_456_000.0,
                key=KEY,
            ),
        )

    def test_the_file_is_asked_at_each_login(self) -> None:
        """Who is taken out is out."""
        self.file = KEY.to_openssh("bob")
        self.identify(KEY)
        self.file = ""
        self.assert_refused("not in authorized_keys", KEY)

    def test_a_listed_key_is_not_let_in_by_a_bad_certificate(self) -> None:
        """A certificate stands for itself alone."""
        self.file = KEY.to_openssh("bob")
        self.assert_refused("no trusted CA", certify("evil CA", "bob", ("bob",)))

    def test_a_ca_key_is_no_persons_key(self) -> None:
        """That its certificates are believed does not let it in."""
        for ca in ("user CA", "agent CA", "host CA"):
            self.assert_refused(
                "not in authorized_keys", private_key(ED25519, ca).public
            )

    def test_from_and_expiry_time_hold(self) -> None:
        """With the reason for our log."""
        self.file = f'from="10.0.0.0/8" {KEY.to_openssh("bob")}'
        self.assert_refused("does not allow 192.0.2.1", KEY)
        self.file = f'expiry-time="20200101Z" {KEY.to_openssh("bob")}'
        self.assert_refused("has expired", KEY)


class AlgorithmTests(AuthenticationTestCase):
    """What a peer names, and what it sends."""

    def refuse(self, algorithm: bytes, blob: bytes) -> None:
        """Nobody logs in, and nothing else happens."""
        with self.assertRaises(AuthenticationRefused):
            self.authentication.identify(algorithm, blob, SOURCE)

    def test_rsa_with_sha_1_is_refused_by_name(self) -> None:
        """Of plain keys and of certificates; with SHA-2 they are accepted."""
        key = private_key(RSA).public
        self.file = key.to_openssh("bob")
        certificate = certify("user CA", "alice", ("alice",), key=key)
        self.refuse(RSA, key.blob)
        self.refuse(b"ssh-rsa-cert-v01@openssh.com", certificate.blob)
        for algorithm in (RSA_SHA256, RSA_SHA512):
            self.authentication.identify(algorithm, key.blob, SOURCE)

    def test_the_algorithm_has_to_fit_the_blob(self) -> None:
        """A certificate sent as a key is no key, nor the reverse."""
        self.file = KEY.to_openssh("bob")
        certificate = certify("user CA", "alice", ("alice",))
        self.refuse(ED25519, certificate.blob)
        self.refuse(certificate.algorithm, KEY.blob)
        self.refuse(RSA_SHA256, KEY.blob)
        self.refuse(b"none", KEY.blob)
        self.refuse(b"", b"")

    @given(
        st.sampled_from([*CERTIFICATE_ALGORITHMS, ED25519, RSA_SHA256, b"x"]),
        st.binary(max_size=300),
    )
    @settings(deadline=None, max_examples=100)
    def test_random_blobs_are_refused_and_nothing_else(
        self, algorithm: bytes, blob: bytes
    ) -> None:
        """Every failure is a refusal, and its reason can be printed."""
        with self.assertRaises(AuthenticationRefused) as caught:
            self.authentication.identify(algorithm, blob, SOURCE)
        self.assertTrue(str(caught.exception).isprintable())

    @given(st.data())
    @settings(deadline=None, max_examples=100)
    def test_no_changed_certificate_logs_anybody_in(self, data: st.DataObject) -> None:
        """Any byte, in any of the three roles."""
        blob = bytearray(data.draw(st.sampled_from(_CERTIFICATES))().blob)
        blob[data.draw(st.integers(0, len(blob) - 1))] ^= data.draw(st.integers(1, 255))
        self.refuse(b"ssh-ed25519-cert-v01@openssh.com", bytes(blob))


_CERTIFICATES: list[Callable[[], Certificate]] = [
    lambda: certify("user CA", "alice", ("alice",)),
    lambda: certify("agent CA", INSTANCE, ("b",)),
    lambda: certify(
        "host CA", PROXY_ID, (PROXY_ID, "a"), kind=CertificateKind.HOST, extensions=()
    ),
]


class RevokedTests(AuthenticationTestCase):
    """Who would be let in, but is revoked."""

    def revoke(self, kind: RevocationKind, value: str) -> None:
        """From now on."""
        record = Revocation.make(kind, value, reason="lost", created=self.now)
        self.revoked = [record]

    def test_revocations_are_asked_at_each_login(self) -> None:
        """Of people, agents and proxies; what is taken back lets them in again."""
        self.file = KEY.to_openssh("bob")
        for offered, kind, value in (
            (
                certify("user CA", "alice", ("alice",)),
                RevocationKind.USER,
                "alice",
            ),
            (certify("agent CA", INSTANCE, ("b",)), RevocationKind.CLUSTER, "b"),
            (
                certify(
                    "host CA", PROXY_ID, (PROXY_ID, "a"), kind=CertificateKind.HOST
                ),
                RevocationKind.KEY_ID,
                PROXY_ID,
            ),
            (KEY, RevocationKind.KEY, KEY.fingerprint),
        ):
            self.identify(offered)
            self.revoke(kind, value)
            self.assert_refused("is revoked: lost", offered)
            self.revoked = []
            self.identify(offered)

    def test_revoked_authority_lets_nobody_in(self) -> None:
        """Though it is still among the anchors."""
        authority = private_key(ED25519, "user CA").public
        self.revoke(RevocationKind.KEY, authority.fingerprint)
        self.assert_refused("is revoked", certify("user CA", "alice", ("alice",)))
        self.identify(certify("agent CA", INSTANCE, ("b",)))

    def test_bad_certificate_is_refused_for_what_is_bad(self) -> None:
        """Nobody learns by forged ones what is revoked."""
        self.revoke(RevocationKind.USER, "alice")
        self.assert_refused("no trusted CA", certify("evil CA", "alice", ("alice",)))
