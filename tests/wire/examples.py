"""Keys and certificates for tests, good ones and ones that nobody should issue."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import attrs
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from twisted.trial.unittest import FailTest, SkipTest

from rtunnel.wire.data_types import mpint, string, text, uint32, uint64
from rtunnel.wire.keys import (
    ECDSA_P256,
    ED25519,
    RSA,
    SK_ECDSA_P256,
    SK_ED25519,
    PrivateKey,
    PublicKey,
)

KEY_TYPES = (ED25519, ECDSA_P256, RSA)

NOW = 1_800_000_000


def openssh_file(
    key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
) -> bytes:
    """The OpenSSH private key file of a key made by ``cryptography``."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )


def rsa_key(bits: int = 2048, name: str = "") -> rsa.RSAPrivateKey:
    """An RSA key, made once for each ``name``: making them is slow."""
    return _make_rsa_key(bits, name)


def private_key(key_type: bytes, name: str = "") -> PrivateKey:
    """One key of each type, the same one throughout a run for each ``name``."""
    return _make_private_key(key_type, name)


@functools.cache
def _make_rsa_key(bits: int, name: str) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@functools.cache
def _make_private_key(key_type: bytes, name: str) -> PrivateKey:
    if key_type == ED25519:
        return PrivateKey.generate()
    if key_type == RSA:
        return PrivateKey.from_openssh(openssh_file(rsa_key(name=name)))
    return PrivateKey.from_openssh(
        openssh_file(ec.generate_private_key(ec.SECP256R1()))
    )


def rsa_sha1_signature(key: rsa.RSAPrivateKey, data: bytes) -> bytes:
    """A signature blob of the refused algorithm ``ssh-rsa``."""
    proof = key.sign(data, padding.PKCS1v15(), hashes.SHA1())
    return string(RSA) + string(proof)


class SecurityKey:
    """A FIDO security key in software: Ed25519 or ECDSA, with flags and counter.

    :param key_type: ``SK_ED25519`` or ``SK_ECDSA_P256``.
    """

    def __init__(self, key_type: bytes, application: bytes = b"ssh:") -> None:
        self._application = application
        self._ed25519 = Ed25519PrivateKey.generate()
        self._ecdsa = ec.generate_private_key(ec.SECP256R1())
        self._type = key_type
        if key_type == SK_ED25519:
            fields = string(self._ed25519.public_key().public_bytes_raw())
        else:
            fields = string(b"nistp256") + string(
                self._ecdsa.public_key().public_bytes(
                    serialization.Encoding.X962,
                    serialization.PublicFormat.UncompressedPoint,
                )
            )
        self.public = PublicKey.from_blob(
            string(key_type) + fields + string(application)
        )

    def sign(self, data: bytes, flags: int = 1, counter: int = 7) -> bytes:
        """The signature blob that a touched key gives, or another for other flags."""
        tail = bytes([flags]) + uint32(counter)
        signed = (
            hashlib.sha256(self._application).digest()
            + tail
            + hashlib.sha256(data).digest()
        )
        if self._type == SK_ECDSA_P256:
            r, s = decode_dss_signature(
                self._ecdsa.sign(signed, ec.ECDSA(hashes.SHA256()))
            )
            proof = mpint(r) + mpint(s)
        else:
            proof = self._ed25519.sign(signed)
        return string(self._type) + string(proof) + tail


@attrs.frozen(kw_only=True)
class RawCertificate:
    """The fields of a certificate as bytes, any of which a test may spoil."""

    algorithm: bytes = b"ssh-ed25519-cert-v01@openssh.com"
    key_fields: bytes = attrs.field(
        factory=lambda: private_key(ED25519).public.blob[15:]
    )
    serial: int = 1
    kind: int = 1
    key_id: bytes = b"alice"
    principals: tuple[bytes, ...] = (b"alice", b"ops")
    valid_after: int = NOW - 60
    valid_before: int = NOW + 3600
    critical_options: bytes = b""
    extensions: bytes = b""
    ca_blob: bytes = attrs.field(factory=lambda: private_key(ED25519, "ca").public.blob)
    sign: Callable[[bytes], bytes] = attrs.field(
        factory=lambda: private_key(ED25519, "ca").sign
    )
    trailer: bytes = b""

    def blob(self) -> bytes:
        """The certificate, correctly signed by whatever ``sign`` is."""
        signed = b"".join(
            (
                string(self.algorithm),
                string(b"nonce"),
                self.key_fields,
                uint64(self.serial),
                uint32(self.kind),
                string(self.key_id),
                string(b"".join(map(string, self.principals))),
                uint64(self.valid_after),
                uint64(self.valid_before),
                string(self.critical_options),
                string(self.extensions),
                string(b""),
                string(self.ca_blob),
            )
        )
        return signed + string(self.sign(signed)) + self.trailer


def option(name: str, value: str | None = None) -> bytes:
    """One critical option or extension as the wire has it; a flag without value."""
    return text(name) + string(b"" if value is None else text(value))


def require_program(name: str) -> str:
    """The path of a program that a test runs.

    :raises SkipTest: when it is not here.
    :raises FailTest: likewise, where ``RTUNNEL_REQUIRE_PEERS=1`` says it has to be.
    """
    path = shutil.which(name)
    if path is None:
        if os.environ.get("RTUNNEL_REQUIRE_PEERS") == "1":
            raise FailTest(f"{name} is not installed, and RTUNNEL_REQUIRE_PEERS=1")
        raise SkipTest(f"{name} is not installed")
    return path


def ssh_keygen(*arguments: str | Path, stdin: bytes = b"") -> tuple[int, str]:
    """Run the real ``ssh-keygen``: exit code, and all that it printed."""
    done = subprocess.run(
        [require_program("ssh-keygen"), *map(str, arguments)],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "TZ": "UTC", "LC_ALL": "C"},
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.decode("utf-8", "backslashreplace")
