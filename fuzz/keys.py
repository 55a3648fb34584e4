"""Harnesses for keys, certificates and signatures, and the keys that they use."""

from __future__ import annotations

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fuzz.harness import Harness
from rtunnel.errors import CertificateError, KeyFormatError, RtunnelError
from rtunnel.wire.algorithms import USER_KEY_ALGORITHMS, signature_algorithm
from rtunnel.wire.certificate import (
    Certificate,
    CertificateKind,
    parse_public_key,
    sign_certificate,
)
from rtunnel.wire.data_types import mpint, string, text, uint32, uint64
from rtunnel.wire.keys import PrivateKey, PublicKey

#: The wall clock of all harnesses: POSIX time.
NOW = 1_800_000_000.0


def fixed_key(number: int) -> PrivateKey:
    """An Ed25519 key that is the same in every run, as a corpus outlives runs."""
    made = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
    return PrivateKey.from_openssh(
        made.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
    )


CA = fixed_key(1)
USER = fixed_key(2)
HOST_CA = fixed_key(3)

# The generator of P-256: a point that is on the curve.
_POINT = bytes.fromhex(
    "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)
_ED25519 = USER.public.blob[-32:]

#: A key of every type.
KEY_BLOBS = (
    USER.public.blob,
    string(b"ecdsa-sha2-nistp256") + string(b"nistp256") + string(_POINT),
    string(b"ssh-rsa") + mpint(65537) + mpint(2**2047 + 9),
    string(b"sk-ssh-ed25519@openssh.com") + string(_ED25519) + string(b"ssh:"),
    string(b"sk-ecdsa-sha2-nistp256@openssh.com")
    + string(b"nistp256")
    + string(_POINT)
    + string(b"ssh:"),
)

#: Names that keys, certificates and signatures begin with.
KEY_TOKENS = (
    *USER_KEY_ALGORITHMS,
    *(string(name) for name in USER_KEY_ALGORITHMS),
    b"ssh-rsa",
    b"nistp256",
    _POINT,
    b"ssh-ed25519 ",
)


def certificate(
    kind: CertificateKind = CertificateKind.USER,
    key: PublicKey = USER.public,
    ca: PrivateKey = CA,
    principals: tuple[str, ...] = ("alice", "ops"),
    critical_options: tuple[tuple[str, bytes], ...] = (),
    extensions: tuple[tuple[str, bytes], ...] = (("permit-port-forwarding", b""),),
) -> Certificate:
    """A certificate that is good for an hour."""
    return sign_certificate(
        ca,
        key,
        kind=kind,
        key_id="alice",
        principals=principals,
        valid_after=int(NOW) - 60,
        valid_before=int(NOW) + 3600,
        serial=7,
        critical_options=critical_options,
        extensions=extensions,
    )


def _public_key(data: bytes) -> None:
    key = PublicKey.from_blob(data)
    assert PublicKey.from_blob(key.blob) == key
    assert key.fingerprint.startswith("SHA256:")
    assert PublicKey.from_openssh(key.to_openssh("a comment")) == (key, "a comment")


def _public_key_line(data: bytes) -> None:
    key, _ = PublicKey.from_openssh(data.decode("utf-8", "surrogateescape"))
    assert PublicKey.from_blob(key.blob) == key


def _signature(data: bytes) -> None:
    """A key in front of it, and a number that says which algorithm."""
    names = tuple(USER_KEY_ALGORITHMS)
    number, data = data[:1], data[1:]
    algorithm = names[number[0] % len(names)] if number else names[0]
    size = int.from_bytes(data[:2])
    blob, signature = data[2 : 2 + size], data[2 + size :]
    key = parse_public_key(algorithm, blob)
    # The keys that signed are not here: whatever is accepted was forged.
    assert not key.verify(signature, b"data", algorithm)


def _signatures() -> list[bytes]:
    seeds = []
    blobs = [*KEY_BLOBS, *(each.blob for each in _ALL)]
    for number, name in enumerate(USER_KEY_ALGORITHMS):
        for blob in blobs:
            try:
                parse_public_key(name, blob)
            except RtunnelError:
                continue
            signed = string(signature_algorithm(name))
            start = bytes([number]) + len(blob).to_bytes(2) + blob
            seeds.append(start + signed + string(bytes(64)) + b"\x01" + uint32(1))
            seeds.append(start + signed + string(mpint(2**255) + mpint(5)))
    return seeds


def _certificate(data: bytes) -> None:
    """The first bit says whether our CA shall sign what follows, whatever it is."""
    flags, blob = data[:1], data[1:]
    if flags and flags[0] & 1:
        blob += string(CA.sign(blob))
    read = Certificate.from_blob(blob)
    assert read.blob == blob
    assert Certificate.from_openssh(read.to_openssh())[0] == read
    read.check(
        kind=CertificateKind.USER,
        trusted=[CA.public],
        now=NOW,
        source="192.0.2.7",
        principal="alice",
    )
    # Whatever is accepted our CA has signed, and its signatures have one form only.
    signed = blob[: -len(string(CA.sign(b"")))]
    assert blob == signed + string(CA.sign(signed))


_ALL = (
    certificate(),
    certificate(CertificateKind.HOST),
    certificate(critical_options=(("source-address", string(b"192.0.2.0/24,::1")),)),
    certificate(critical_options=(("force-command", string(b"true")),)),
    certificate(extensions=(("permit-pty", b""), ("permit-user-rc", b""))),
    *(certificate(key=PublicKey.from_blob(blob)) for blob in KEY_BLOBS),
)


def _certificates() -> list[bytes]:
    tail = len(string(CA.sign(b"")))
    signed = [b"\0" + each.blob for each in _ALL]
    return signed + [b"\1" + each.blob[:-tail] for each in _ALL]


def _certificate_line(data: bytes) -> None:
    Certificate.from_openssh(data.decode("utf-8", "surrogateescape"))


HARNESSES = (
    Harness(
        "public_key",
        _public_key,
        lambda: list(KEY_BLOBS),
        (KeyFormatError,),
        KEY_TOKENS,
    ),
    Harness(
        "public_key_line",
        _public_key_line,
        lambda: [
            PublicKey.from_blob(blob).to_openssh("alice@host").encode()
            for blob in KEY_BLOBS
        ],
        (KeyFormatError,),
        KEY_TOKENS,
    ),
    Harness("signature", _signature, _signatures, (RtunnelError,), KEY_TOKENS),
    Harness(
        "certificate",
        _certificate,
        _certificates,
        (CertificateError,),
        (
            *KEY_TOKENS,
            *(name + b"-cert-v01@openssh.com" for name in (b"ssh-ed25519", b"ssh-rsa")),
            text("source-address"),
            text("force-command"),
            text("verify-required"),
            string(string(b"192.0.2.7")),
            string(string(b"alice")),
            uint32(1),
            uint32(2),
            uint64(2**64 - 1),
            string(CA.public.blob),
        ),
    ),
    Harness(
        "certificate_line",
        _certificate_line,
        lambda: [each.to_openssh("alice@host").encode() for each in _ALL],
        (CertificateError,),
        KEY_TOKENS,
    ),
)
