"""KEXINIT: what each side offers, what both then use, and the rules of strict KEX.

Source: RFC 4253 section 7.1; RFC 8308 for ext-info; draft-miller-sshm-strict-kex
(OpenSSH PROTOCOL 1.9) for the strict markers.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from functools import lru_cache
from typing import Any

import attrs

from rtunnel.errors import DISCONNECT_KEY_EXCHANGE_FAILED, ProtocolError
from rtunnel.naming import printable
from rtunnel.wire.algorithms import CIPHERS, MACS, Algorithms
from rtunnel.wire.data_types import Reader, boolean, name_list, string, uint32
from rtunnel.wire.key_exchange import KEY_EXCHANGES, KeyExchangeAlgorithm
from rtunnel.wire.numbers import MSG_KEXINIT
from rtunnel.wire.packet_cipher import CipherAlgorithm, MacAlgorithm

#: Bytes in a KEXINIT; OpenSSH's has about 1500.
MAX_KEXINIT_LENGTH = 16 * 1024

#: Extensions in one EXT_INFO, and bytes in all of it.
MAX_EXTENSIONS = 16
MAX_EXT_INFO_LENGTH = 16 * 1024

COOKIE_LENGTH = 16

EXT_INFO_CLIENT = b"ext-info-c"
EXT_INFO_SERVER = b"ext-info-s"
STRICT_CLIENT = b"kex-strict-c-v00@openssh.com"
STRICT_SERVER = b"kex-strict-s-v00@openssh.com"

#: The one extension of RFC 8308 that we send and read.
SERVER_SIG_ALGS = b"server-sig-algs"

_NONE = b"none"


@attrs.frozen
class KexInit:
    """One side's KEXINIT.

    :param payload: the whole message, its number included, as it is hashed.
    :param guess_follows: whether the sender's first key exchange packet comes right
        after it, on the guess that its first choices will be taken.
    """

    payload: bytes = attrs.field(repr=False)
    key_exchanges: tuple[bytes, ...]
    host_keys: tuple[bytes, ...]
    ciphers_client_to_server: tuple[bytes, ...]
    ciphers_server_to_client: tuple[bytes, ...]
    macs_client_to_server: tuple[bytes, ...]
    macs_server_to_client: tuple[bytes, ...]
    compressions_client_to_server: tuple[bytes, ...]
    compressions_server_to_client: tuple[bytes, ...]
    languages: tuple[tuple[bytes, ...], tuple[bytes, ...]]
    guess_follows: bool

    @classmethod
    def parse(cls, payload: bytes) -> KexInit:
        """Read a KEXINIT.

        :param payload: the message, its number included.
        :raises ProtocolError: malformed, or over :data:`MAX_KEXINIT_LENGTH`.
        """
        if len(payload) > MAX_KEXINIT_LENGTH:
            raise ProtocolError(
                f"a KEXINIT of {len(payload)} bytes; {MAX_KEXINIT_LENGTH} is the limit"
            )
        if payload[:1] != bytes((MSG_KEXINIT,)):
            raise ProtocolError("not a KEXINIT")
        fields = payload[1 + COOKIE_LENGTH :]
        if len(fields) <= _REMEMBERED_LENGTH:
            return cls(payload, *_remembered_fields(fields))
        return cls(payload, *_read_fields(fields))


def _read_fields(fields: bytes) -> tuple[Any, ...]:
    """What follows the cookie, in the order of :class:`KexInit`."""
    reader = Reader(fields)
    lists = [reader.name_list() for _ in range(8)]
    languages = (reader.name_list(), reader.name_list())
    guess_follows = reader.boolean()
    reader.uint32()
    reader.end()
    return *lists, languages, guess_follows


#: All but the cookie is the same whenever a program of one version and configuration
#: connects. Longer offers than OpenSSH's are not remembered.
_REMEMBERED_LENGTH = 2048
_remembered_fields = lru_cache(maxsize=16)(_read_fields)


@attrs.frozen
class Negotiated:
    """What both sides will use.

    :param macs: beside an AEAD cipher, None.
    :param guess_wrong: whether a guess, if one was announced, was wrong, so that its
        sender's first key exchange packet is to be passed over.
    """

    key_exchange: KeyExchangeAlgorithm
    host_key: bytes
    cipher_client_to_server: CipherAlgorithm
    cipher_server_to_client: CipherAlgorithm
    mac_client_to_server: MacAlgorithm | None
    mac_server_to_client: MacAlgorithm | None
    guess_wrong: bool


def build_kexinit(
    algorithms: Algorithms,
    host_keys: Sequence[bytes],
    cookie: bytes,
    *,
    is_client: bool,
    first: bool,
) -> KexInit:
    """Our own KEXINIT.

    :param algorithms: what to offer.
    :param host_keys: the host key algorithms to offer, best first.
    :param cookie: 16 random bytes.
    :param first: whether it is the connection's first, which alone carries the
        markers of strict KEX and ext-info.
    """
    markers: tuple[bytes, ...] = ()
    if first:
        markers = (
            (EXT_INFO_CLIENT, STRICT_CLIENT)
            if is_client
            else (EXT_INFO_SERVER, STRICT_SERVER)
        )
    payload = b"".join(
        [
            bytes((MSG_KEXINIT,)),
            cookie,
            name_list(algorithms.key_exchanges + markers),
            name_list(host_keys),
            name_list(algorithms.ciphers),
            name_list(algorithms.ciphers),
            name_list(algorithms.macs),
            name_list(algorithms.macs),
            name_list([_NONE]),
            name_list([_NONE]),
            name_list([]),
            name_list([]),
            boolean(False),
            uint32(0),
        ]
    )
    return KexInit.parse(payload)


def is_strict(client: KexInit, server: KexInit) -> bool:
    """Whether strict KEX is in force, from each side's first KEXINIT."""
    return (
        STRICT_CLIENT in client.key_exchanges and STRICT_SERVER in server.key_exchanges
    )


def negotiate(client: KexInit, server: KexInit) -> Negotiated:
    """What both will use: of each list the client's first that the server has too.

    :raises ProtocolError: when a list has nothing in common; says which, and what
        either side has.
    """
    cipher_out, mac_out = _choose_cipher(
        client.ciphers_client_to_server,
        server.ciphers_client_to_server,
        client.macs_client_to_server,
        server.macs_client_to_server,
        "client to server",
    )
    cipher_in, mac_in = _choose_cipher(
        client.ciphers_server_to_client,
        server.ciphers_server_to_client,
        client.macs_server_to_client,
        server.macs_server_to_client,
        "server to client",
    )
    for ours, theirs in (
        (client.compressions_client_to_server, server.compressions_client_to_server),
        (client.compressions_server_to_client, server.compressions_server_to_client),
    ):
        # The one method that we offer is none.
        _choose(ours, theirs, "compression method")
    key_exchange = _choose(
        client.key_exchanges, server.key_exchanges, "key exchange method", KEY_EXCHANGES
    )
    return Negotiated(
        KEY_EXCHANGES[key_exchange],
        _choose(client.host_keys, server.host_keys, "host key algorithm"),
        cipher_out,
        cipher_in,
        mac_out,
        mac_in,
        client.key_exchanges[:1] != server.key_exchanges[:1]
        or client.host_keys[:1] != server.host_keys[:1],
    )


def check_strict(negotiated: Negotiated) -> None:
    """Refuse what is not safe with a peer that does not do strict KEX.

    Another cipher cannot be taken instead: the peer has chosen by the same lists.

    :raises ProtocolError: when either cipher needs it.
    """
    for cipher in (
        negotiated.cipher_client_to_server,
        negotiated.cipher_server_to_client,
    ):
        if cipher.needs_strict:
            raise ProtocolError(
                f"{cipher.name.decode('ascii')} needs strict KEX, which you do not do",
                DISCONNECT_KEY_EXCHANGE_FAILED,
            )


def encode_ext_info(extensions: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The payload of an EXT_INFO, without its number (RFC 8308 section 2.3)."""
    return uint32(len(extensions)) + b"".join(
        string(name) + string(value) for name, value in extensions
    )


def parse_ext_info(payload: bytes) -> dict[bytes, bytes]:
    """The extensions in an EXT_INFO, by name.

    :param payload: the message without its number.
    :raises ProtocolError: malformed, or over :data:`MAX_EXTENSIONS` or
        :data:`MAX_EXT_INFO_LENGTH`.
    """
    if len(payload) > MAX_EXT_INFO_LENGTH:
        raise ProtocolError(
            f"an EXT_INFO of {len(payload)} bytes; {MAX_EXT_INFO_LENGTH} is the limit"
        )
    reader = Reader(payload)
    count = reader.uint32()
    if count > MAX_EXTENSIONS:
        raise ProtocolError(f"{count} extensions; {MAX_EXTENSIONS} is the limit")
    extensions = {}
    for _ in range(count):
        name = reader.string()
        extensions[name] = reader.string()
    reader.end()
    return extensions


def _choose_cipher(
    client_ciphers: Sequence[bytes],
    server_ciphers: Sequence[bytes],
    client_macs: Sequence[bytes],
    server_macs: Sequence[bytes],
    direction: str,
) -> tuple[CipherAlgorithm, MacAlgorithm | None]:
    cipher = CIPHERS[_choose(client_ciphers, server_ciphers, f"cipher {direction}")]
    if not cipher.needs_mac:
        return cipher, None
    return cipher, MACS[_choose(client_macs, server_macs, f"MAC {direction}")]


def _choose(
    client: Sequence[bytes],
    server: Sequence[bytes],
    what: str,
    known: Container[bytes] | None = None,
) -> bytes:
    """The client's first that the server has.

    :param known: names beside these are markers, and never chosen.
    """
    for name in client:
        if name in server and (known is None or name in known):
            return name
    raise ProtocolError(
        f"no {what} in common: the server has {_listed(server)}; the client has "
        f"{_listed(client)}",
        DISCONNECT_KEY_EXCHANGE_FAILED,
    )


def _listed(names: Sequence[bytes]) -> str:
    return printable(b", ".join(names)) or "none"
