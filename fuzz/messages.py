"""Harnesses for what our own ends say to each other, and for the registry."""

from __future__ import annotations

from fuzz.harness import Harness
from fuzz.keys import CA, HOST_CA, NOW, USER, certificate
from rtunnel.discovery.messages import (
    ACTIVE,
    DRAINING,
    DiscoveryRequest,
    Drain,
    Heartbeat,
    Hello,
    ProxyAdvert,
    decode,
    encode,
)
from rtunnel.discovery.peer_request import PeerRequest
from rtunnel.discovery.transport_request import TransportRequest
from rtunnel.discovery.trust_messages import (
    NotRenewed,
    Renew,
    RenewalDue,
    Renewed,
    Replace,
    Trust,
)
from rtunnel.errors import MessageError, RegistryError, UnknownMessage
from rtunnel.naming import Target
from rtunnel.registry.holder import Holder
from rtunnel.registry.records import (
    ProxyRecord,
    TunnelRecord,
    tunnels_from_json,
    tunnels_to_json,
)
from rtunnel.trust.bundle import Phase, TrustBundle
from rtunnel.trust.login_proof import LoginProof
from rtunnel.trust.renewal_request import RenewalRequest
from rtunnel.trust.signing_request import JoinRequest, decode_request, encode_request

_ID = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"
_OTHER = "00000000-0000-4000-8000-000000000001"
_ADVERT = ProxyAdvert(_ID, ("proxy.example:3022", "[::1]:22"), 3, ACTIVE, 30.0)
_CERTIFICATE = certificate()
_BUNDLE = TrustBundle(
    role="host",
    generation=2,
    phase=Phase.SIGNS,
    trusted=(CA.public, HOST_CA.public),
    signs=HOST_CA.public,
    other=CA.public,
).signed([CA])
_MESSAGES = (
    Hello("1.0", _ID, ("site",), {"channels": 1000}),
    Heartbeat(2**53 - 1),
    DiscoveryRequest((_ADVERT, ProxyAdvert(_OTHER, (), 0, DRAINING, 1e-3)), 10.0),
    DiscoveryRequest((), 0.5),
    Drain("going away", 0.0),
    Renew(RenewalRequest.make(_CERTIFICATE, USER, NOW)),
    Renewed(_CERTIFICATE),
    NotRenewed("nobody can sign"),
    RenewalDue("a new authority", 20.0),
    Replace("a new certificate", 20.0),
    Trust(_BUNDLE),
)

#: What JSON is made of, and what readers of JSON trip over.
JSON_TOKENS = (
    *(
        b'{ } [ ] , : " null true false 0 -1 1e999 -0.0 1E400 NaN Infinity 1.5 '
        b'"\\ud800" '
        b"9007199254740993 \\u0000 \xef\xbb\xbf \xff"
    ).split(),
    b"[" * 60,
    b'{"":' * 60,
    b"9" * 60,
)


def _control_message(data: bytes) -> None:
    """Name and payload, with a zero byte between them."""
    name, _, payload = data.partition(b"\0")
    message = decode(name, payload)
    assert decode(*encode(message)) == message


def _transport_request(data: bytes) -> None:
    request = TransportRequest.decode(data)
    assert TransportRequest.decode(request.encode()) == request


def _peer_request(data: bytes) -> None:
    request = PeerRequest.decode(data)
    assert PeerRequest.decode(request.encode()) == request


def _proxy_record(data: bytes) -> None:
    record = ProxyRecord.from_json(data.decode("utf-8", "surrogatepass"))
    assert ProxyRecord.from_json(record.to_json()) == record
    if record.holder is not None:
        record.holder.is_alive()


def _tunnel_records(data: bytes) -> None:
    records = tunnels_from_json(data.decode("utf-8", "surrogatepass"))
    assert tunnels_from_json(tunnels_to_json(records)) == records


def _trust_bundle(data: bytes) -> None:
    bundle = TrustBundle.from_json(data.decode())
    assert TrustBundle.from_json(bundle.to_json()) == bundle
    bundle.signer([CA.public])


def _signing_request(data: bytes) -> None:
    request = decode_request(data)
    assert decode_request(encode_request(request)) == request


def _proof(username: bytes) -> LoginProof:
    blob = USER.public.blob
    return LoginProof(username, bytes(32), b"ssh-ed25519", blob, bytes(83))


HARNESSES = (
    Harness(
        "control_message",
        _control_message,
        lambda: [b"\0".join(encode(message)) for message in _MESSAGES],
        (MessageError, UnknownMessage),
        (*JSON_TOKENS, *(encode(message)[0] + b"\0" for message in _MESSAGES)),
    ),
    Harness(
        "transport_request",
        _transport_request,
        lambda: [
            TransportRequest("db", 5432, "alice", "192.0.2.7", "c-1").encode(),
            TransportRequest("", 22, "bob", "", "x" * 64).encode(),
        ],
        (MessageError,),
    ),
    Harness(
        "peer_request",
        _peer_request,
        lambda: [
            PeerRequest(
                Target("db", "site", 5432), "2001:db8::1", "c-1", _proof(b"alice")
            ).encode(),
            PeerRequest(Target("", "site", 22), "", "c-2", _proof(b"")).encode(),
        ],
        (MessageError,),
    ),
    Harness(
        "trust_bundle",
        _trust_bundle,
        lambda: [_BUNDLE.to_json().encode()],
        (MessageError, UnicodeDecodeError),
        JSON_TOKENS,
    ),
    Harness(
        "signing_request",
        _signing_request,
        lambda: [
            encode_request(RenewalRequest.make(_CERTIFICATE, USER, NOW)),
            encode_request(RenewalRequest.make(_CERTIFICATE, USER, NOW, CA, "::1")),
            encode_request(JoinRequest("::1", "agent", "b", USER.public, "token")),
        ],
        (MessageError,),
    ),
    Harness(
        "proxy_record",
        _proxy_record,
        lambda: [
            record.to_json().encode()
            for record in (
                ProxyRecord(_ID, "a"),
                ProxyRecord(
                    _ID,
                    "b",
                    ("proxy.example:3022",),
                    ("10.0.0.1:3024",),
                    3,
                    "draining",
                    1.5e9,
                    ("agent", "proxy"),
                    Holder.of_this_process(),
                ),
            )
        ],
        # What is no text never gets here: a registry holds text.
        (RegistryError, UnicodeDecodeError),
        JSON_TOKENS,
    ),
    Harness(
        "tunnel_records",
        _tunnel_records,
        lambda: [
            tunnels_to_json(records).encode()
            for records in (
                [],
                [TunnelRecord("site", _ID, _ID, 1.5e9, 0.02, 3)],
                [TunnelRecord("site", _ID, _ID, 0.0)] * 2,
            )
        ],
        (RegistryError, UnicodeDecodeError),
        JSON_TOKENS,
    ),
)
