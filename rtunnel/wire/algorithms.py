"""Which algorithms there are, and which a connection offers.

:data:`DEFAULT_ALGORITHMS` is what is offered unless told otherwise; an
:class:`Algorithms` of one's own can narrow and reorder it, and add what is known but
not offered by default.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import attrs

from rtunnel.wire.aes_ctr_etm import AES_CTR_CIPHERS, ETM_MACS
from rtunnel.wire.aes_gcm import AES_GCM_CIPHERS
from rtunnel.wire.certificate import CERTIFICATE_ALGORITHMS
from rtunnel.wire.chacha20_poly1305 import CHACHA20_CIPHERS
from rtunnel.wire.key_exchange import KEY_EXCHANGES
from rtunnel.wire.keys import (
    ECDSA_P256,
    ED25519,
    RSA_SHA256,
    RSA_SHA512,
    SK_ECDSA_P256,
    SK_ED25519,
)
from rtunnel.wire.packet_cipher import CipherTable, MacTable

#: Every cipher that can be negotiated, best first.
CIPHERS: CipherTable = {**AES_GCM_CIPHERS, **AES_CTR_CIPHERS, **CHACHA20_CIPHERS}

#: Those that are offered by default. Clients that list ChaCha20 first would take it, at
#: several times the CPU of AES-GCM for both ends.
DEFAULT_CIPHERS: tuple[bytes, ...] = (*AES_GCM_CIPHERS, *AES_CTR_CIPHERS)

#: Every MAC that can be negotiated beside a cipher that needs one, best first.
MACS: MacTable = dict(ETM_MACS)

#: Bytes in a signature that a peer sends; RSA of 8192 bits needs 1048.
MAX_SIGNATURE_LENGTH = 2048

_HOST_SIGNATURES = (ED25519, ECDSA_P256, RSA_SHA512, RSA_SHA256)
_USER_SIGNATURES = (
    ED25519,
    SK_ED25519,
    ECDSA_P256,
    SK_ECDSA_P256,
    RSA_SHA512,
    RSA_SHA256,
)

#: Host key algorithms, certificates first.
HOST_KEY_ALGORITHMS: tuple[bytes, ...] = (
    *(
        name
        for name, signature in CERTIFICATE_ALGORITHMS.items()
        if signature in _HOST_SIGNATURES
    ),
    *_HOST_SIGNATURES,
)

#: Those that agents believe by default. An ECDSA key is lost when the randomness of a
#: single signature is weak, and nobody is forced to give proxies one.
AGENT_HOST_KEY_ALGORITHMS: tuple[bytes, ...] = tuple(
    name
    for name in HOST_KEY_ALGORITHMS
    if CERTIFICATE_ALGORITHMS.get(name, name) != ECDSA_P256
)

#: Public key algorithms that users and agents may log in with.
USER_KEY_ALGORITHMS: tuple[bytes, ...] = (*CERTIFICATE_ALGORITHMS, *_USER_SIGNATURES)


def signature_algorithm(name: bytes) -> bytes:
    """What signatures made under the public key algorithm ``name`` call themselves.

    The same, except under a certificate (RFC 8332 section 3, draft-miller-ssh-cert).
    """
    return CERTIFICATE_ALGORITHMS.get(name, name)


def server_sig_algs(user_keys: Sequence[bytes]) -> tuple[bytes, ...]:
    """What a server that takes ``user_keys`` says in EXT_INFO (RFC 8308 section 3.1).

    Clients look there for what they sign with. Under a certificate that is the plain
    algorithm, so it is named even where only certificates are taken.
    """
    return tuple(dict.fromkeys([*user_keys, *map(signature_algorithm, user_keys)]))


def _known(
    instance: object, attribute: attrs.Attribute[tuple[bytes, ...]], value: object
) -> None:
    known: Collection[bytes] = attribute.metadata["known"]
    assert isinstance(value, tuple)
    if not value:
        raise ValueError(f"no {attribute.name}: at least one is needed")
    for name in value:
        if name not in known:
            raise ValueError(
                f"{name.decode('utf-8', 'backslashreplace')!r} is none of the "
                f"{attribute.name}: {b', '.join(known).decode('ascii')}"
            )


def _names(
    known: Collection[bytes], default: Collection[bytes] | None = None
) -> tuple[bytes, ...]:
    names: tuple[bytes, ...] = attrs.field(
        default=tuple(known if default is None else default),
        validator=_known,
        metadata={"known": known},
    )
    return names


@attrs.frozen
class Algorithms:
    """What one side offers, each best first. The client's order decides.

    :param key_exchanges: of :data:`~rtunnel.wire.key_exchange.KEY_EXCHANGES`.
    :param host_keys: of :data:`HOST_KEY_ALGORITHMS`; a server offers those of them
        that its host keys can do.
    :param user_keys: of :data:`USER_KEY_ALGORITHMS`; what a server takes in logins.
    :param ciphers: of :data:`CIPHERS`; :data:`DEFAULT_CIPHERS` if not given.
    :param macs: of :data:`MACS`.
    :raises ValueError: for a name that is not known, or none at all; one sentence.
    """

    key_exchanges: tuple[bytes, ...] = _names(KEY_EXCHANGES)
    host_keys: tuple[bytes, ...] = _names(HOST_KEY_ALGORITHMS)
    user_keys: tuple[bytes, ...] = _names(USER_KEY_ALGORITHMS)
    ciphers: tuple[bytes, ...] = _names(CIPHERS, DEFAULT_CIPHERS)
    macs: tuple[bytes, ...] = _names(MACS)


#: What is offered unless told otherwise, best first.
DEFAULT_ALGORITHMS = Algorithms()
