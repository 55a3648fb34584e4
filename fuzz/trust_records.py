"""Harnesses for tokens, lines to join with, bundles of files, and what is revoked."""

from __future__ import annotations

from fuzz.harness import Harness
from fuzz.keys import CA, HOST_CA, NOW, USER, certificate
from fuzz.messages import JSON_TOKENS
from rtunnel.errors import (
    JoinLineError,
    MessageError,
    RegistryError,
    RevocationListError,
)
from rtunnel.trust.join_bundle import decode_bundle, encode_bundle
from rtunnel.trust.join_token import (
    TOKENS,
    JoinLine,
    TokenRecord,
    hash_of,
    new_token,
)
from rtunnel.trust.revocation import Revocation, RevocationKind
from rtunnel.wire.certificate import CertificateKind
from rtunnel.wire.data_types import boolean, string, text, uint32, uint64
from rtunnel.wire.krl import KeyRevocationList

_TOKEN = new_token(bytes)
_LINE = JoinLine(
    "agent",
    "site",
    ("lb.example:3023", "tls:[2001:db8::1]:443"),
    (HOST_CA.public.fingerprint, CA.public.fingerprint),
    _TOKEN,
)
_CERTIFICATES = (
    certificate(),
    certificate(CertificateKind.HOST, ca=HOST_CA, principals=("site",)),
)


def _krl(data: bytes) -> None:
    read = KeyRevocationList.from_bytes(data)
    for shown in _CERTIFICATES:
        reason = read.certificate_reason(shown)
        assert reason is None or reason.isprintable()
        if read.key_is_revoked(shown.key.blob):
            assert reason is not None
    for section in read.certificates:
        for serials in section.serials:
            assert 0 not in serials and 2**64 not in serials


def _section(kind: int, *fields: bytes) -> bytes:
    return bytes([kind]) + string(b"".join(fields))


def _krls() -> list[bytes]:
    head = b"SSHKRL\n\0" + uint32(1) + uint64(3) + uint64(int(NOW)) + uint64(0)
    head += string(b"") + text("a comment")
    ca, nobody = string(CA.public.blob), string(b"")
    digest = string(bytes(32))
    sections = (
        _section(1, ca, nobody, _section(0x20, uint64(7), uint64(9))),
        _section(1, ca, nobody, _section(0x21, uint64(1), uint64(2**64 - 1))),
        _section(1, nobody, nobody, _section(0x22, uint64(1), string(b"\x01\x40"))),
        _section(1, ca, nobody, _section(0x23, text("alice"), text("bob"))),
        _section(1, ca, nobody, _section(0x39, text("x"), boolean(False), nobody)),
        _section(2, string(USER.public.blob)),
        _section(3, string(bytes(20))),
        _section(5, digest, digest),
        _section(255, text("x@example"), boolean(True), nobody),
        _section(4, CA.public.blob) + string(bytes(83)),
    )
    return [head, *(head + each for each in sections), head + b"".join(sections[:8])]


def _join_line(data: bytes) -> None:
    line = data.decode("utf-8", "surrogateescape")
    try:
        read = JoinLine.parse(line)
    except JoinLineError as error:
        assert _TOKEN not in str(error)
        raise
    assert str(read) == line.strip() and JoinLine.parse(str(read)) == read
    hash_of(read.token)


def _join_bundle(data: bytes) -> None:
    files = decode_bundle(data)
    assert decode_bundle(encode_bundle(files).encode()) == files
    assert not any("/" in name or name.startswith(".") for name in files)


def _token_record(data: bytes) -> None:
    key, _, value = data.decode("utf-8", "surrogatepass").partition("\n")
    record = TokenRecord.from_json(key, value)
    assert TokenRecord.from_json(record.key, record.to_json()) == record
    left = record.used_once()
    assert (left.uses if left else 0) == record.uses - 1
    record.is_good(NOW)


def _revocation(data: bytes) -> None:
    record = Revocation.from_json(data.decode("utf-8", "surrogatepass"))
    again = Revocation.from_json(record.to_json())
    assert again == record and again.id == record.id
    assert record.target.isprintable() and record.reason.isprintable()


def _revocations() -> list[bytes]:
    values = {
        RevocationKind.SERIAL: "42",
        RevocationKind.KEY: USER.public.fingerprint,
        RevocationKind.KEY_ID: "alice",
        RevocationKind.USER: "alice",
        RevocationKind.AGENT: "6f9619ff-8b86-4d01-b42d-00cf4fc964ff",
        RevocationKind.CLUSTER: "site",
    }
    return [
        Revocation.make(kind, value, reason="lost", created=NOW, until=NOW + 9)
        .to_json()
        .encode()
        for kind, value in values.items()
    ]


def _token_records() -> list[bytes]:
    records = (
        TokenRecord(hash_of(_TOKEN), "agent", "site", 1, NOW, NOW + 60),
        TokenRecord(hash_of(""), "proxy", "all", 5, 0, 1e5, "a label", ("p.example",)),
    )
    return [f"{each.key}\n{each.to_json()}".encode() for each in records]


HARNESSES = (
    Harness(
        "krl",
        _krl,
        _krls,
        (RevocationListError,),
        (
            *(bytes([kind]) for kind in (1, 2, 3, 4, 5, 255)),
            *(bytes([kind]) for kind in (0x20, 0x21, 0x22, 0x23, 0x39)),
            string(CA.public.blob),
            uint64(7),
            uint64(2**64 - 1),
            string(b""),
            text("alice"),
        ),
    ),
    Harness(
        "join_line",
        _join_line,
        lambda: [str(_LINE).encode(), b" %s\n" % str(_LINE).encode()],
        (JoinLineError,),
        (b"kind=", b"agent", b"proxy", b"at=", b"host-ca=", b"token=rtj-", b",", b"="),
    ),
    Harness(
        "join_bundle",
        _join_bundle,
        lambda: [
            encode_bundle({"agent_key-cert.pub": "a\nb\n", "host_ca.pub": ""}).encode(),
            b"x\n-----BEGIN a-----\n-----END a-----\n",
        ],
        (MessageError,),
        (
            b"-----BEGIN ",
            b"-----END ",
            b"-----",
            b"\n",
            b"\r",
            b"..",
            b"/",
            b"\xe2\x80\xa8",
        ),
    ),
    Harness(
        "token_record",
        _token_record,
        _token_records,
        # What is no text never gets here: a registry holds text.
        (RegistryError, UnicodeDecodeError),
        (*JSON_TOKENS, TOKENS.encode(), b'"uses":', b'"names":', b"\n"),
    ),
    Harness(
        "revocation",
        _revocation,
        _revocations,
        (RegistryError, UnicodeDecodeError),
        (*JSON_TOKENS, *(f'"{kind.value}"'.encode() for kind in RevocationKind)),
    ),
)
