"""What proxies say to each other about certificates."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import MessageError
from rtunnel.trust.anchors import TrustAnchors
from rtunnel.trust.authority import CertificateAuthority
from rtunnel.trust.signing_request import (
    JoinRequest,
    Signed,
    decode_request,
    encode_request,
)
from rtunnel.trust.signing_role import Role
from rtunnel.wire.data_types import string, text
from rtunnel.wire.keys import PrivateKey

KEY = PrivateKey.generate().public
INSTANCE = "9543a757-c547-4422-ae75-e353c8105282"


def join(role: Role = "agent", cluster: str = "b") -> JoinRequest:
    """A request to join."""
    return JoinRequest("192.0.2.1", role, cluster, KEY, "the-token")


def signed() -> Signed:
    """An answer."""
    host, other, agent, user = (PrivateKey.generate() for _ in range(4))
    certificate = CertificateAuthority(agent, now=lambda: 1e9).sign_agent(
        KEY, cluster="b", instance=INSTANCE, validity=60
    )
    anchors = TrustAnchors(
        host=[host.public, other.public], agent=[agent.public], user=[user.public]
    )
    return Signed(certificate, anchors)


class RequestTests(SynchronousTestCase):
    """The open of ``sign@rtunnel``."""

    def test_a_request_to_join_comes_out_as_it_went_in(self) -> None:
        """Of an agent, of one that names no cluster, and of a proxy."""
        for request in (join(), join(cluster=""), join("proxy", "")):
            self.assertEqual(decode_request(encode_request(request)), request)

    def test_the_token_is_not_shown(self) -> None:
        """A request may be logged by mistake."""
        self.assertNotIn("the-token", repr(join()))

    def test_what_is_malformed_is_refused(self) -> None:
        """With one error, whatever is wrong."""
        good = encode_request(join())
        role = text("join") + text("") + text("user") + text("b")
        for wrong in (
            b"",
            good[:-1],
            good + b"x",
            text("leave") + text(""),
            text("join") + text("a\nb") + join().encode_body(),
            role + string(KEY.blob) + text("t"),
            good.replace(text("b"), text(".")),
            good.replace(KEY.blob, KEY.blob[:-1] + b"\0\0"),
        ):
            with self.assertRaises(MessageError):
                decode_request(wrong)

    @settings(deadline=None, max_examples=100)
    @given(st.binary(max_size=200))
    def test_any_bytes_are_a_request_or_an_error(self, data: bytes) -> None:
        """Nothing else is raised."""
        with contextlib.suppress(MessageError):
            decode_request(text("join") + data)


class AnswerTests(SynchronousTestCase):
    """What comes back."""

    def test_an_answer_comes_out_as_it_went_in(self) -> None:
        """With every key of every role."""
        answer = signed()
        self.assertEqual(Signed.decode(answer.encode()), answer)

    def test_what_is_malformed_is_refused(self) -> None:
        """Cut off, too long, or with a key in two roles."""
        answer = signed()
        good = answer.encode()
        twice = string(answer.certificate.blob) + 3 * string(string(KEY.blob))
        for wrong in (b"", good[:-1], good + b"x", twice):
            with self.assertRaises(MessageError):
                Signed.decode(wrong)
