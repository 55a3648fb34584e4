"""Harnesses for logins: what a client asks for, and what a server answers.

The services run over a transport that stands for one with keys in use, so that an input
costs no key exchange.
"""

from __future__ import annotations

from typing import cast

from fuzz.harness import Harness
from fuzz.keys import (
    CA,
    HOST_CA,
    KEY_BLOBS,
    KEY_TOKENS,
    NOW,
    USER,
    certificate,
)
from fuzz.script import Script
from rtunnel.errors import AuthenticationFailed, ProtocolError
from rtunnel.ssh.interfaces import ConnectionService
from rtunnel.ssh.limits import DEFAULT_LIMITS
from rtunnel.ssh.transport import ClientTransport, ServerTransport
from rtunnel.ssh.userauth import LoginRules, UserAuthServer
from rtunnel.ssh.userauth_client import Credentials, UserAuthClient
from rtunnel.trust.anchors import TrustAnchors
from rtunnel.trust.authentication import Authentication
from rtunnel.trust.authorized_keys import AuthorizedKeys
from rtunnel.trust.identity import Identity
from rtunnel.trust.login_proof import CONNECTION_SERVICE, signed_data
from rtunnel.wire.algorithms import DEFAULT_ALGORITHMS
from rtunnel.wire.certificate import CertificateKind
from rtunnel.wire.data_types import boolean, string, text
from rtunnel.wire.numbers import MSG_USERAUTH_REQUEST

SESSION_ID = bytes(32)
_PROXY_ID = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"
_KEYS = AuthorizedKeys.parse(USER.public.to_openssh("alice"))


class _Transport:
    """A server's transport where somebody may log in."""

    algorithms = DEFAULT_ALGORITHMS
    limits = DEFAULT_LIMITS
    peer_address = "192.0.2.7"
    session_id = SESSION_ID
    server_sig_algs = None

    def __init__(self) -> None:
        self.login_attempted = False
        self.identity: Identity | None = None
        self.answers = 0
        self.unknown = 0

    def sendPacket(self, number: int, payload: bytes) -> None:
        self.answers += 1

    def sendUnimplemented(self) -> None:
        self.unknown += 1

    def may_log(self) -> bool:
        return True


class _ServerTransport(_Transport):
    def login_succeeded(
        self, identity: Identity, service: ConnectionService, proof: object
    ) -> None:
        assert self.identity is None
        self.identity = identity


class _ClientTransport(_Transport):
    is_in = False

    def login_succeeded(self) -> None:
        self.is_in = True

    def login_failed(self, error: AuthenticationFailed) -> None:
        raise ProtocolError(str(error))


_ANCHORS = TrustAnchors(user=[CA.public], host=[HOST_CA.public])
_AUTHENTICATION = Authentication(
    anchors=lambda: _ANCHORS,
    cluster="site",
    authorized_keys=lambda: _KEYS,
    now=lambda: NOW,
)
_RULES = LoginRules(_AUTHENTICATION.identify, lambda identity: ConnectionService())


def _request(data: bytes) -> None:
    """Messages of a client's, each with its number and two bytes of length."""
    script = Script(data)
    transport = _ServerTransport()
    service = UserAuthServer(_RULES)
    service.transport = cast(ServerTransport, transport)
    messages = 0
    try:
        while not script.is_over and transport.identity is None:
            number = script.byte()
            service.packetReceived(number, script.take(int.from_bytes(script.take(2))))
            messages += 1
            done = transport.answers + transport.unknown
            assert done + (transport.identity is not None) == messages
            assert transport.answers <= 2 * DEFAULT_LIMITS.auth_attempts
    finally:
        service.serviceStopped()


def _publickey(blob: bytes, algorithm: bytes, signature: bytes | None) -> bytes:
    return b"".join(
        (
            text("alice"),
            string(CONNECTION_SERVICE),
            text("publickey"),
            boolean(signature is not None),
            string(algorithm),
            string(blob),
            b"" if signature is None else string(signature),
        )
    )


def _signed(blob: bytes, algorithm: bytes) -> bytes:
    data = signed_data(SESSION_ID, b"alice", CONNECTION_SERVICE, algorithm, blob)
    return _publickey(blob, algorithm, USER.sign(data))


def _message(payload: bytes, number: int = MSG_USERAUTH_REQUEST) -> bytes:
    return bytes([number]) + len(payload).to_bytes(2) + payload


def _requests() -> list[bytes]:
    none = _message(text("alice") + string(CONNECTION_SERVICE) + text("none"))
    own, cert = USER.public, certificate()
    asked = _message(_publickey(own.blob, own.algorithm, None))
    seeds = [none + asked + _message(_signed(own.blob, own.algorithm))]
    seeds.append(asked + _message(_signed(cert.blob, cert.algorithm)))
    peer = certificate(CertificateKind.HOST, ca=HOST_CA, principals=(_PROXY_ID, "site"))
    seeds.append(_message(_signed(peer.blob, peer.algorithm)))
    seeds.append(none * 7 + _message(b"", 61))
    for blob in KEY_BLOBS:
        name = blob[4 : 4 + int.from_bytes(blob[:4])]
        name = {b"ssh-rsa": b"rsa-sha2-256"}.get(name, name)
        seeds.append(_message(_publickey(blob, name, string(name) + string(b"x" * 64))))
    return seeds


def _answer(data: bytes) -> None:
    """Messages of a server's, in the same form."""
    script = Script(data)
    transport = _ClientTransport()
    service = UserAuthClient(Credentials("alice", USER))
    service.transport = cast(ClientTransport, transport)
    service.serviceStarted()
    while not script.is_over and not transport.is_in:
        number = script.byte()
        service.packetReceived(number, script.take(int.from_bytes(script.take(2))))


HARNESSES = (
    Harness(
        "userauth_request",
        _request,
        _requests,
        (ProtocolError,),
        (*KEY_TOKENS, string(CONNECTION_SERVICE), text("publickey"), text("none")),
    ),
    Harness(
        "userauth_answer",
        _answer,
        lambda: [
            _message(text("hello\r\n") + text(""), 53) * 2 + _message(b"", 52),
            _message(text("publickey,password") + boolean(False), 51),
            _message(string(b"x"), 60),
        ],
        (ProtocolError,),
        (text("publickey"),),
    ),
)
