"""Who is asked to sign, and what comes of the answers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.audit.events import CertificateRenewed, Event, RenewalRefused
from rtunnel.errors import (
    ConnectionClosed,
    ConnectionFailed,
    OpenRefused,
    RtunnelError,
    SigningRefused,
    SigningUnavailable,
)
from rtunnel.proxy.signing import (
    ASK_TIMEOUT,
    SIGN_CHANNEL,
    AgentGrant,
    Grant,
    ProxyGrant,
    Signer,
    signing_roles,
)
from rtunnel.state_directory import write_key_pair
from rtunnel.trust.anchors import TrustAnchors
from rtunnel.trust.authority import CertificateAuthority
from rtunnel.trust.identity import PeerIdentity
from rtunnel.trust.renewal_request import RenewalRequest
from rtunnel.trust.signing_request import (
    JoinRequest,
    Signed,
    decode_request,
    encode_request,
)
from rtunnel.trust.signing_role import Role
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.keys import PrivateKey, PublicKey

T = TypeVar("T")

NOW = 1_000_000.0
UUID = "9543a757-c547-4422-ae75-e353c8105282"
KEY = PrivateKey.generate().public
CAS = {name: PrivateKey.generate() for name in ("host_ca", "agent_ca")}
ANCHORS = TrustAnchors(host=[CAS["host_ca"].public], agent=[CAS["agent_ca"].public])
REQUEST = JoinRequest("192.0.2.1", "agent", "b", KEY, "good")


def _encoded(signed: Signed, data: bytes) -> bytes:
    return signed.encode()


def _agent_certificate(ca: PrivateKey, key: PublicKey) -> Certificate:
    return CertificateAuthority(ca, now=lambda: NOW).sign_agent(
        key, cluster="b", instance=UUID, validity=60
    )


AGENT = PrivateKey.generate()
RENEWAL = RenewalRequest.make(
    _agent_certificate(CAS["agent_ca"], AGENT.public), AGENT, NOW
)

STRANGER = PrivateKey.generate()
#: By somebody who has no authority's key.
forged = Signed(_agent_certificate(STRANGER, KEY), TrustAnchors(host=[STRANGER.public]))


class Decider:
    """Grants what is asked for with the token "good"."""

    async def verify(self, request: JoinRequest) -> Grant:
        """See ``Verifier``."""
        if request.token != "good":
            raise SigningRefused("no such token")
        if request.role == "agent":
            return AgentGrant(request.key, "b", UUID)
        return ProxyGrant(request.key, UUID, ("proxy-2",))

    def accepted(
        self, request: JoinRequest, grant: Grant, certificate: Certificate
    ) -> CertificateRenewed:
        """Any event will do."""
        return CertificateRenewed(proxy="p", cluster="b", key_id=UUID, seconds=60.0)

    def refused(self, request: JoinRequest, reason: str) -> RenewalRefused:
        """Likewise."""
        return RenewalRefused(proxy="p", reason=reason)


class Renewer(Decider):
    """Grants every renewal."""

    async def verify(self, request: RenewalRequest) -> Grant:  # type: ignore[override]
        """See ``Verifier``."""
        return AgentGrant(request.key, "b", UUID)


class OtherProxies:
    """Answers as told, by name."""

    def __init__(self, **answers: Callable[[bytes], bytes]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def signing(self, role: Role) -> Sequence[str]:
        """All of them."""
        return list(self.answers)

    async def ask(self, proxy: str, kind: bytes, data: bytes) -> bytes:
        """Answer, or never do."""
        assert kind == SIGN_CHANNEL
        self.asked.append(proxy)
        if self.answers[proxy] is silence:
            await Deferred()
        return self.answers[proxy](data)


def silence(data: bytes) -> bytes:
    """A peer that says nothing."""
    raise AssertionError


def fails(error: RtunnelError) -> Callable[[bytes], bytes]:
    """A peer that cannot."""

    def answer(data: bytes) -> bytes:
        raise error

    return answer


class SignerTests(SynchronousTestCase):
    """Here, and at peers."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.clock = Clock()
        self.events: list[Event] = []
        self.may_record = True

    def signer(self, *authorities: str, peers: OtherProxies | None = None) -> Signer:
        """A proxy with these authorities' private keys."""
        for name in authorities:
            if not (self.directory / name).exists():
                write_key_pair(self.directory / name, CAS[name], name)
        return Signer(
            directory=self.directory,
            cluster="a",
            public_names=["lb.example.com"],
            anchors=lambda: ANCHORS,
            verifiers={"join": Decider(), "renewal": Renewer()},
            peers=peers or OtherProxies(),
            record=self.record,
            clock=self.clock,
            now=lambda: NOW,
        )

    def record(self, event: Event) -> bool:
        """Keep it, if that is possible."""
        self.events.append(event)
        return self.may_record

    def now(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine that must have one at once."""
        result: T = self.successResultOf(Deferred.fromCoroutine(work))
        return result

    def fault(self, work: Coroutine[Any, Any, object], kind: type[T]) -> T:
        """How it failed."""
        failure = self.failureResultOf(Deferred.fromCoroutine(work), kind)
        assert isinstance(failure.value, kind)
        return failure.value

    def elsewhere(self) -> Callable[[bytes], bytes]:
        """A peer that can sign."""
        other = SignerTests()
        other.setUp()
        signer = other.signer("agent_ca", "host_ca")

        def answer(data: bytes) -> bytes:
            return other.now(signer.sign_here(decode_request(data))).encode()

        return answer

    def test_each_role_is_signed_by_its_authority(self) -> None:
        """An agent for a day, a proxy for a week, by all its names."""
        signer = self.signer("agent_ca", "host_ca")
        agent = self.now(signer.sign(REQUEST)).certificate
        self.assertEqual(agent.ca_key, CAS["agent_ca"].public)
        self.assertEqual(agent.valid_before, NOW + 86400)
        asked = JoinRequest("", "proxy", "", KEY, "good")
        proxy = self.now(signer.sign(asked)).certificate
        self.assertEqual(proxy.ca_key, CAS["host_ca"].public)
        self.assertEqual(proxy.principals, (UUID, "a", "lb.example.com", "proxy-2"))
        self.assertEqual(proxy.valid_before, NOW + 7 * 86400)
        self.assertEqual(len(self.events), 2)

    def test_a_proxy_signs_for_the_roles_whose_authorities_it_has(self) -> None:
        """As its registry record says; for others it asks."""
        peers = OtherProxies(other=self.elsewhere())
        signer = self.signer("host_ca", peers=peers)
        self.assertEqual(signing_roles(self.directory), ("proxy",))
        self.now(signer.sign(JoinRequest("", "proxy", "", KEY, "good")))
        self.assertEqual(peers.asked, [])
        self.now(signer.sign(REQUEST))
        self.assertEqual(peers.asked, ["other"])

    def test_an_authority_that_comes_later_is_used(self) -> None:
        """It is looked for each time."""
        signer = self.signer()
        self.fault(signer.sign(REQUEST), SigningUnavailable)
        self.signer("agent_ca")
        self.now(signer.sign(REQUEST))

    def test_peers_are_asked_until_one_answers(self) -> None:
        """Those that cannot sign now, are away, or talk nonsense are passed over."""
        peers = OtherProxies(
            cannot=fails(OpenRefused(4, "not now")),
            old=fails(OpenRefused(3, "unknown channel type")),
            away=fails(ConnectionFailed("no route")),
            nonsense=lambda data: b"nonsense",
            can=self.elsewhere(),
            spare=self.elsewhere(),
        )
        signed = self.now(self.signer(peers=peers).sign(REQUEST))
        self.assertEqual(signed.certificate.key, KEY)
        self.assertEqual(peers.asked, ["cannot", "old", "away", "nonsense", "can"])

    def test_a_refusal_is_final(self) -> None:
        """And in the audit of the one that refused, not here."""
        peers = OtherProxies(no=fails(OpenRefused(1, "no")), can=self.elsewhere())
        self.fault(self.signer(peers=peers).sign(REQUEST), SigningRefused)
        self.assertEqual((peers.asked, self.events), (["no"], []))

    def test_nobody_is_asked_twice_for_what_may_have_been_done(self) -> None:
        """A link that breaks may have been too late to stop it."""
        peers = OtherProxies(
            broken=fails(ConnectionClosed("gone")), can=self.elsewhere()
        )
        self.fault(self.signer(peers=peers).sign(REQUEST), SigningUnavailable)
        self.assertEqual(peers.asked, ["broken"])

    def test_a_silent_peer_is_not_waited_for(self) -> None:
        """A renewal is asked of others then; a token may be used up."""
        for request, asked in ((RENEWAL, ["mute", "can"]), (REQUEST, ["mute"])):
            peers = OtherProxies(mute=silence, can=self.elsewhere())
            signing = Deferred.fromCoroutine(self.signer(peers=peers).sign(request))
            self.assertNoResult(signing)
            self.clock.advance(ASK_TIMEOUT)
            if request is RENEWAL:
                self.successResultOf(signing)
            else:
                self.failureResultOf(signing, SigningUnavailable)
            self.assertEqual(peers.asked, asked)

    def test_one_peer_alone_cannot_keep_others_from_being_renewed(self) -> None:
        """Whatever it says: any proxy can say of itself that it signs."""
        for answer in (
            fails(OpenRefused(1, "no")),
            fails(ConnectionClosed("gone")),
            lambda data: forged.encode(),
        ):
            peers = OtherProxies(bad=answer, can=self.elsewhere())
            signed = self.now(self.signer(peers=peers).sign(RENEWAL))
            self.assertEqual(signed.certificate.ca_key, CAS["agent_ca"].public)
            self.assertEqual(peers.asked, ["bad", "can"])
        peers = OtherProxies(no=fails(OpenRefused(1, "no")))
        self.fault(self.signer(peers=peers).sign(RENEWAL), SigningRefused)

    def test_a_peer_cannot_say_whom_a_newcomer_shall_trust(self) -> None:
        """That is for the proxy where it joins, which knows; the peer only signs."""
        good = self.now(self.signer("agent_ca").sign(REQUEST))
        (self.directory / "agent_ca").unlink()
        lying = Signed(good.certificate, forged.anchors)
        peers = OtherProxies(liar=lambda data: lying.encode())
        signed = self.now(self.signer(peers=peers).sign(REQUEST))
        self.assertEqual(signed, Signed(good.certificate, ANCHORS))

    def test_a_certificate_that_was_not_asked_for_is_passed_over(self) -> None:
        """Of an authority that we do not trust, for another key, or of another role."""
        other_key = attrs.evolve(REQUEST, key=PrivateKey.generate().public)
        as_proxy = JoinRequest("", "proxy", "", KEY, "good")
        signer = self.signer("agent_ca", "host_ca")
        answers = [forged, *(self.now(signer.sign(r)) for r in (other_key, as_proxy))]
        for name in ("agent_ca", "host_ca"):
            (self.directory / name).unlink()
        for answer in answers:
            peers = OtherProxies(liar=partial(_encoded, answer))
            error = self.fault(
                self.signer(peers=peers).sign(REQUEST), SigningUnavailable
            )
            self.assertIn("the certificate that it gives", str(error))

    def test_with_nobody_to_ask_it_says_whom_to_start(self) -> None:
        """Or what the last one said."""
        error = self.fault(self.signer().sign(REQUEST), SigningUnavailable)
        self.assertIn("start the one", str(error))
        peers = OtherProxies(away=fails(ConnectionFailed("no route\n")))
        error = self.fault(self.signer(peers=peers).sign(REQUEST), SigningUnavailable)
        self.assertEqual(str(error), "no route\\n")

    def test_what_cannot_be_recorded_is_not_handed_out(self) -> None:
        """If the audit is required."""
        signer = self.signer("agent_ca")
        self.may_record = False
        error = self.fault(signer.sign(REQUEST), SigningUnavailable)
        self.assertIn("cannot record", str(error))

    def test_a_peer_hears_whether_to_ask_another(self) -> None:
        """By the code of the refusal; why, only our own audit says."""
        peer = PeerIdentity(UUID, (UUID, "a"), "", "", _certificate(), None)
        signer = self.signer("agent_ca")
        bad = JoinRequest("", "agent", "b", KEY, "bad")
        proxy = JoinRequest("", "proxy", "", KEY, "good")
        for data, code in (
            (encode_request(bad), 1),
            (encode_request(proxy), 4),
            (b"nonsense", 4),
        ):
            error = self.fault(signer.answer(data, peer), OpenRefused)
            self.assertEqual(error.reason_code, code)
            self.assertNotIn("no such token", error.text)
        self.now(signer.answer(encode_request(REQUEST), peer))
        self.assertEqual(
            [(event.event, getattr(event, "reason", None)) for event in self.events],
            [
                ("renewal_refused", f"passed on by proxy {UUID}: no such token"),
                ("certificate_renewed", f"passed on by proxy {UUID}"),
            ],
        )


def _certificate() -> Certificate:
    """Of a peer; what is in it does not matter here."""
    return CertificateAuthority(CAS["host_ca"], now=lambda: NOW).sign_host(
        KEY, proxy_id=UUID, cluster="a", public_names=[], validity=60
    )
