"""What is asked of a proxy that can sign, and what it answers. Pure.

A proxy without the authorities' private keys passes a request on to one that has them,
in the open of a ``sign@rtunnel`` channel::

    string    kind      "join", or another one of KINDS
    string    source    the IP address that the request came from; a claim, for logs
    ...                 what this kind of request consists of

The proxy that signs believes nothing of it but what it can check itself: each kind
carries its own proof, a token for a join. A further kind is one more class with the
methods of :class:`JoinRequest` in :data:`KINDS`, and one more
:class:`~rtunnel.proxy.signing.Verifier`.

The answer is what comes through the channel until its end::

    string    certificate
    string    host CA keys, each a string
    string    agent CA keys, likewise
    string    user CA keys, likewise
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Final, Protocol

import attrs

from rtunnel.errors import (
    CertificateError,
    ConfigError,
    InvalidName,
    MessageError,
    ProtocolError,
)
from rtunnel.naming import check_cluster
from rtunnel.trust.anchors import TrustAnchors
from rtunnel.trust.renewal_request import RenewalRequest
from rtunnel.trust.signing_role import ROLES, Role
from rtunnel.wire.certificate import MAX_CERTIFICATE_LENGTH, Certificate
from rtunnel.wire.data_types import Reader, string, text
from rtunnel.wire.keys import MAX_PUBLIC_KEY_LENGTH, PublicKey

#: Bytes in the source, the role, the cluster and the name of a kind, each.
MAX_STRING: Final = 255
#: Bytes in a token; ours are far shorter.
MAX_TOKEN: Final = 255
#: Bytes in the list of one authority's keys.
MAX_KEYS: Final = 256 * 1024
#: Bytes in an answer.
MAX_ANSWER: Final = MAX_CERTIFICATE_LENGTH + 3 * MAX_KEYS + 4 * 4


class SigningRequest(Protocol):
    """A request of any kind.

    :cvar kind: its name on the wire.
    :cvar once: whether what it proves can be used up, so that nobody else may be asked
        when it is not known what has become of it.
    """

    kind: ClassVar[str]
    once: ClassVar[bool]

    @property
    def role(self) -> Role:
        """Which authority has to sign."""

    @property
    def source(self) -> str:
        """The IP address that the request came from, as whoever passes it on says."""

    @property
    def key(self) -> PublicKey:
        """The key to be certified."""

    def encode_body(self) -> bytes:
        """What this kind consists of."""

    @classmethod
    def decode_body(cls, source: str, reader: Reader) -> SigningRequest:
        """Read that.

        :raises RtunnelError: when it is malformed.
        """


@attrs.frozen
class JoinRequest:
    """Certify a new key, for a token.

    :param role: what the newcomer wants to be.
    :param cluster: for an agent, the cluster that it believes to join; empty to take
        what the token says.
    :param key: the newcomer's.
    :param token: its proof.
    """

    kind: ClassVar[str] = "join"
    once: ClassVar[bool] = True

    source: str
    role: Role
    cluster: str
    key: PublicKey
    token: str = attrs.field(repr=False)

    def encode_body(self) -> bytes:
        """Role, cluster, key and token, each a string."""
        return b"".join(
            (
                text(self.role),
                text(self.cluster),
                string(self.key.blob),
                text(self.token),
            )
        )

    @classmethod
    def decode_body(cls, source: str, reader: Reader) -> JoinRequest:
        """See :class:`SigningRequest`."""
        role = reader.text(MAX_STRING)
        cluster = reader.text(MAX_STRING)
        key = PublicKey.from_blob(reader.string(MAX_PUBLIC_KEY_LENGTH))
        token = reader.text(MAX_TOKEN)
        if role not in ROLES:
            raise MessageError(f"a signing request: {role!a} is no role")
        if cluster:
            check_cluster(cluster)
        return cls(source, role, cluster, key, token)


#: Every kind of request, by its name.
KINDS: Final[Mapping[str, type[SigningRequest]]] = {
    each.kind: each for each in (JoinRequest, RenewalRequest)
}


def encode_request(request: SigningRequest) -> bytes:
    """The type-specific part of the channel open."""
    return text(request.kind) + text(request.source) + request.encode_body()


def decode_request(data: bytes) -> SigningRequest:
    """Read the type-specific part of a channel open.

    :raises MessageError: when it is malformed, or of a kind that is not known.
    """
    reader = Reader(data)
    try:
        kind = reader.text(MAX_STRING)
        source = reader.text(MAX_STRING)
        if not source.isprintable():
            raise MessageError("a signing request: the source cannot be printed")
        if kind not in KINDS:
            raise MessageError(f"a signing request of an unknown kind, {kind!a}")
        request = KINDS[kind].decode_body(source, reader)
        reader.end()
    except (CertificateError, InvalidName, ProtocolError) as error:
        raise MessageError(f"a signing request: {error}") from None
    return request


@attrs.frozen
class Signed:
    """The answer: a certificate, and whom its holder shall trust.

    :param anchors: the authorities of the proxy that signed.
    """

    certificate: Certificate
    anchors: TrustAnchors

    def encode(self) -> bytes:
        """What goes through the channel."""
        anchors = self.anchors
        return string(self.certificate.blob) + b"".join(
            string(_encode_keys(keys))
            for keys in (anchors.host, anchors.agent, anchors.user)
        )

    @classmethod
    def decode(cls, data: bytes) -> Signed:
        """Read what came through the channel.

        :raises MessageError: when it is malformed.
        """
        reader = Reader(data)
        try:
            certificate = Certificate.from_blob(reader.string(MAX_CERTIFICATE_LENGTH))
            host, agent, user = (
                _decode_keys(reader.string(MAX_KEYS)) for _ in range(3)
            )
            reader.end()
            anchors = TrustAnchors(host=host, agent=agent, user=user)
        except (CertificateError, ConfigError, ProtocolError) as error:
            raise MessageError(f"the answer to a signing request: {error}") from None
        return cls(certificate, anchors)


def _encode_keys(keys: Iterable[PublicKey]) -> bytes:
    return b"".join(string(blob) for blob in sorted(key.blob for key in keys))


def _decode_keys(data: bytes) -> tuple[PublicKey, ...]:
    reader = Reader(data)
    keys = []
    while reader.remaining:
        keys.append(PublicKey.from_blob(reader.string(MAX_PUBLIC_KEY_LENGTH)))
    return tuple(keys)
