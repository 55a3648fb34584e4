"""Public and private keys, and the signatures they make, as SSH writes them.

Ed25519 (RFC 8709), ECDSA on NIST P-256 (RFC 5656), RSA of 2048 to 8192 bits with
SHA-256 or SHA-512 (RFC 8332, never SHA-1), and both kinds of FIDO security key
(OpenSSH's PROTOCOL.u2f). A blob has one accepted form: what decodes to the same key
but is written differently is refused, so that a fingerprint names one key and a key
has one fingerprint.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from typing import TypeAlias

import attrs
from cryptography.exceptions import (
    InternalError,
    InvalidSignature,
    UnsupportedAlgorithm,
)
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from rtunnel.errors import KeyFileError, KeyFormatError, ProtocolError
from rtunnel.naming import printable
from rtunnel.wire.data_types import Reader, mpint, string

ED25519 = b"ssh-ed25519"
ECDSA_P256 = b"ecdsa-sha2-nistp256"
RSA = b"ssh-rsa"
RSA_SHA256 = b"rsa-sha2-256"
RSA_SHA512 = b"rsa-sha2-512"
SK_ED25519 = b"sk-ssh-ed25519@openssh.com"
SK_ECDSA_P256 = b"sk-ecdsa-sha2-nistp256@openssh.com"

#: Signature algorithms that a key of each type may use, best first. The types are the
#: first field of a key blob; only for RSA do the two differ (RFC 8332 section 3).
SIGNATURE_ALGORITHMS: dict[bytes, tuple[bytes, ...]] = {
    ED25519: (ED25519,),
    SK_ED25519: (SK_ED25519,),
    ECDSA_P256: (ECDSA_P256,),
    SK_ECDSA_P256: (SK_ECDSA_P256,),
    RSA: (RSA_SHA512, RSA_SHA256),
}

#: The types that :meth:`PrivateKey.generate` makes, by what ``ssh-keygen -t`` calls
#: them.
KEY_TYPES: dict[str, bytes] = {"ed25519": ED25519, "ecdsa": ECDSA_P256, "rsa": RSA}

#: Bits in an RSA modulus. Fewer is weak; more makes each signature cost us too much.
MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192

#: Bits in an RSA key that we make, as many as ``ssh-keygen`` takes.
NEW_RSA_BITS = 3072

#: Bytes in a public key blob; RSA of 8192 bits needs about 1050.
MAX_PUBLIC_KEY_LENGTH = 4096

#: Bytes in a signature blob, for who reads one out of a message; RSA of 8192 bits
#: needs 1048.
MAX_SIGNATURE_LENGTH = 2048

_CURVE = b"nistp256"
_CURVE_ORDER_LENGTH = 33
_RSA_EXPONENT = 65537
_MAX_RSA_EXPONENT = 2**31 - 1
_MAX_APPLICATION_LENGTH = 1024
_USER_PRESENT = 0x01

_Verifier: TypeAlias = Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey
_Signer: TypeAlias = Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@attrs.frozen(repr=False)
class PublicKey:
    """A public key of a kind that we accept; equal when the blobs are.

    Made by :meth:`from_blob` or :meth:`from_openssh`, never directly.

    :param algorithm: the key type, the first field of the blob.
    :param blob: the key as SSH sends it (RFC 4253 section 6.6).
    """

    algorithm: bytes = attrs.field(eq=False)
    blob: bytes
    _verifier: _Verifier = attrs.field(eq=False)
    _application: bytes = attrs.field(eq=False, default=b"")

    @classmethod
    def from_blob(cls, blob: bytes) -> PublicKey:
        """Read a key as a peer sends it.

        :param blob: at most :data:`MAX_PUBLIC_KEY_LENGTH` bytes.
        :raises KeyFormatError: unknown type, wrong size, malformed, or not written in
            the one form that encoders produce.
        """
        if len(blob) > MAX_PUBLIC_KEY_LENGTH:
            raise KeyFormatError(
                f"a public key of {len(blob)} bytes; {MAX_PUBLIC_KEY_LENGTH} is the "
                "limit"
            )
        try:
            reader = Reader(blob)
            algorithm = reader.string(64)
            parse = _PARSERS.get(algorithm)
            if parse is None:
                raise KeyFormatError(
                    f"a key of type {printable(algorithm, 64)!r} is not accepted"
                )
            verifier = parse(reader)
            application = b""
            if algorithm in (SK_ED25519, SK_ECDSA_P256):
                application = reader.string(_MAX_APPLICATION_LENGTH)
            reader.end()
        except KeyFormatError:
            raise
        except ProtocolError as error:
            raise KeyFormatError(f"a malformed public key: {error}") from None
        if blob != _encode(algorithm, verifier, application):
            raise KeyFormatError("a public key that is not in its canonical form")
        return cls(algorithm, blob, verifier, application)

    @classmethod
    def from_openssh(cls, line: str) -> tuple[PublicKey, str]:
        """Read one line of a ``.pub`` file: type, base64, comment.

        :return: the key, and the comment ("" when there is none).
        :raises KeyFormatError: when it is no such line, or :meth:`from_blob` refuses.
        """
        algorithm, blob, comment = split_openssh_line(line)
        if algorithm.encode("ascii", "replace") not in _PARSERS:
            raise KeyFormatError(
                f"a key of type {printable(algorithm, 64)!r} is not accepted"
            )
        key = cls.from_blob(blob)
        if key.algorithm != algorithm.encode("ascii"):
            raise KeyFormatError("a public key line names another type than its key")
        return key, comment

    def to_openssh(self, comment: str = "") -> str:
        """The key as one line of a ``.pub`` file, without a newline."""
        return join_openssh_line(self.algorithm, self.blob, comment)

    @property
    def fingerprint(self) -> str:
        """``SHA256:`` and base64 without padding, as ``ssh-keygen -l`` prints it."""
        digest = hashlib.sha256(self.blob).digest()
        return "SHA256:" + base64.b64encode(digest).decode("ascii").rstrip("=")

    @property
    def signature_algorithms(self) -> tuple[bytes, ...]:
        """What this key may sign with, best first; for RSA never SHA-1."""
        return SIGNATURE_ALGORITHMS[self.algorithm]

    def verify(self, signature: bytes, data: bytes, algorithm: bytes) -> bool:
        """Whether ``signature`` over ``data`` was made with this key's private half.

        A FIDO signature also needs the user-presence flag. Never raises, whatever the
        bytes are.

        :param signature: the whole signature blob (RFC 4253 section 6.6).
        :param algorithm: what both sides agreed on; the blob has to name the same.
        """
        if algorithm not in self.signature_algorithms:
            return False
        try:
            reader = Reader(signature)
            if reader.string() != algorithm:
                return False
            proof = reader.string()
            if algorithm in (SK_ED25519, SK_ECDSA_P256):
                flags_and_counter = reader.take(5)
                if not flags_and_counter[0] & _USER_PRESENT:
                    return False
                data = (
                    hashlib.sha256(self._application).digest()
                    + flags_and_counter
                    + hashlib.sha256(data).digest()
                )
            reader.end()
            _verify(self._verifier, proof, data, algorithm)
        except (ProtocolError, InvalidSignature):
            return False
        return True

    def __repr__(self) -> str:
        return f"<PublicKey {self.algorithm.decode('ascii')} {self.fingerprint}>"


@attrs.frozen(repr=False, eq=False)
class PrivateKey:
    """A private key: Ed25519, ECDSA P-256 or RSA. It is never printed.

    :param public: the public half.
    """

    public: PublicKey
    _signer: _Signer

    @classmethod
    def generate(cls, key_type: bytes = ED25519) -> PrivateKey:
        """A new key from the system's randomness; RSA takes a fraction of a second.

        :param key_type: one of the values of :data:`KEY_TYPES`.
        :raises ValueError: for another.
        """
        match key_type:
            case b"ssh-ed25519":
                return cls._from_signer(Ed25519PrivateKey.generate())
            case b"ecdsa-sha2-nistp256":
                return cls._from_signer(ec.generate_private_key(ec.SECP256R1()))
            case b"ssh-rsa":
                return cls._from_signer(
                    rsa.generate_private_key(_RSA_EXPONENT, NEW_RSA_BITS)
                )
        raise ValueError(f"keys of type {key_type!r} are not made here")

    @classmethod
    def from_openssh(cls, data: bytes) -> PrivateKey:
        """Read an OpenSSH private key file without a passphrase.

        :param data: the whole file ("BEGIN OPENSSH PRIVATE KEY").
        :raises KeyFileError: encrypted, malformed, or of a kind that is not accepted;
            the sentence does not name the file.
        """
        try:
            # Whether the factors are primes takes 0.1 s to say, in which nothing else
            # moves, and is asked each time that a file is read. ssh does not ask.
            signer = serialization.load_ssh_private_key(
                data, password=None, unsafe_skip_rsa_key_validation=True
            )
        except TypeError:
            raise KeyFileError(
                "the private key has a passphrase; remove it with ssh-keygen -p"
            ) from None
        except (
            ValueError,
            ZeroDivisionError,
            UnsupportedAlgorithm,
            NotImplementedError,
        ):
            raise KeyFileError("not an OpenSSH private key") from None
        if not isinstance(
            signer, Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
        ):
            raise KeyFileError("the private key is of a kind that is not accepted")
        try:
            key = cls._from_signer(signer)
        except KeyFormatError as error:
            raise KeyFileError(f"the private key is not accepted: {error}") from None
        if isinstance(signer, rsa.RSAPrivateKey) and not key._is_consistent(signer):
            raise KeyFileError("the private key is damaged: its numbers do not agree")
        return key

    def _is_consistent(self, signer: rsa.RSAPrivateKey) -> bool:
        """Whether the numbers of an RSA key belong together, and it can sign."""
        numbers = signer.private_numbers()
        p, q = numbers.p, numbers.q
        if p * q != numbers.public_numbers.n or numbers.iqmp * q % p != 1:
            return False
        algorithm = self.public.signature_algorithms[0]
        try:
            return self.public.verify(self.sign(b"", algorithm), b"", algorithm)
        except (ValueError, InternalError):
            return False

    @classmethod
    def _from_signer(cls, signer: _Signer) -> PrivateKey:
        verifier = signer.public_key()
        match verifier:
            case Ed25519PublicKey():
                algorithm = ED25519
            case rsa.RSAPublicKey():
                algorithm = RSA
            case _:
                if not isinstance(verifier.curve, ec.SECP256R1):
                    raise KeyFormatError("an ECDSA key on another curve than nistp256")
                algorithm = ECDSA_P256
        return cls(PublicKey.from_blob(_encode(algorithm, verifier, b"")), signer)

    def to_openssh(self) -> bytes:
        """The key as an OpenSSH private key file, without a passphrase."""
        return self._signer.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )

    def sign(self, data: bytes, algorithm: bytes | None = None) -> bytes:
        """Sign ``data``.

        :param algorithm: one of ``public.signature_algorithms``; its first by default.
        :return: the signature blob (RFC 4253 section 6.6).
        :raises ValueError: when the key cannot sign with that algorithm.
        """
        if algorithm is None:
            algorithm = self.public.signature_algorithms[0]
        elif algorithm not in self.public.signature_algorithms:
            raise ValueError(f"{self.public!r} does not sign with {algorithm!r}")
        match self._signer:
            case Ed25519PrivateKey() as signer:
                proof = signer.sign(data)
            case rsa.RSAPrivateKey() as signer:
                proof = signer.sign(data, padding.PKCS1v15(), _rsa_hash(algorithm))
            case signer:
                r, s = decode_dss_signature(
                    signer.sign(data, ec.ECDSA(hashes.SHA256()))
                )
                proof = mpint(r) + mpint(s)
        return string(algorithm) + string(proof)

    def __repr__(self) -> str:
        return f"<PrivateKey of {self.public!r}>"


def split_openssh_line(line: str) -> tuple[str, bytes, str]:
    """Take a line of a ``.pub`` file apart: type, decoded blob, comment.

    :raises KeyFormatError: when it is no such line; the blob is not looked into.
    """
    words = line.strip().split(None, 2)
    if len(words) < 2 or "\n" in line.strip():
        raise KeyFormatError("not a public key line: type, base64, comment")
    try:
        blob = base64.b64decode(words[1].encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise KeyFormatError("a public key line whose base64 is wrong") from None
    return words[0], blob, words[2] if len(words) == 3 else ""


def join_openssh_line(algorithm: bytes, blob: bytes, comment: str) -> str:
    """The line of a ``.pub`` file for a key or certificate blob.

    :raises ValueError: when the comment is more than one line.
    """
    if "\n" in comment or "\r" in comment:
        raise ValueError("the comment of a key has to be one line")
    line = f"{algorithm.decode('ascii')} {base64.b64encode(blob).decode('ascii')}"
    return f"{line} {comment}" if comment else line


def _parse_ed25519(reader: Reader) -> Ed25519PublicKey:
    point = reader.string(32)
    if len(point) != 32:
        raise KeyFormatError("an Ed25519 key has to be 32 bytes")
    return Ed25519PublicKey.from_public_bytes(point)


def _parse_ecdsa(reader: Reader) -> ec.EllipticCurvePublicKey:
    if reader.string(32) != _CURVE:
        raise KeyFormatError("an ECDSA key on another curve than its type says")
    point = reader.string(65)
    # SSH allows compressed points, OpenSSH never made or took them.
    if len(point) != 65 or point[0] != 4:
        raise KeyFormatError("an ECDSA key has to be an uncompressed point")
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError:
        raise KeyFormatError("an ECDSA key that is not on its curve") from None


def _parse_rsa(reader: Reader) -> rsa.RSAPublicKey:
    exponent = reader.mpint(MAX_RSA_BITS // 8 + 1)
    modulus = reader.mpint(MAX_PUBLIC_KEY_LENGTH)
    bits = modulus.bit_length()
    if not MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
        raise KeyFormatError(
            f"an RSA key of {bits} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} are accepted"
        )
    # A huge exponent costs us as much as a private key operation.
    if not 3 <= exponent <= _MAX_RSA_EXPONENT or exponent % 2 == 0 or modulus % 2 == 0:
        raise KeyFormatError("an RSA key that cannot be one")
    try:
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError:
        raise KeyFormatError("an RSA key that cannot be one") from None


_PARSERS: dict[bytes, Callable[[Reader], _Verifier]] = {
    ED25519: _parse_ed25519,
    SK_ED25519: _parse_ed25519,
    ECDSA_P256: _parse_ecdsa,
    SK_ECDSA_P256: _parse_ecdsa,
    RSA: _parse_rsa,
}


def _encode(algorithm: bytes, verifier: _Verifier, application: bytes) -> bytes:
    match verifier:
        case Ed25519PublicKey():
            blob = string(algorithm) + string(verifier.public_bytes_raw())
        case rsa.RSAPublicKey():
            numbers = verifier.public_numbers()
            blob = string(algorithm) + mpint(numbers.e) + mpint(numbers.n)
        case _:
            point = verifier.public_bytes(
                serialization.Encoding.X962,
                serialization.PublicFormat.UncompressedPoint,
            )
            blob = string(algorithm) + string(_CURVE) + string(point)
    if algorithm in (SK_ED25519, SK_ECDSA_P256):
        blob += string(application)
    return blob


def _verify(verifier: _Verifier, proof: bytes, data: bytes, algorithm: bytes) -> None:
    match verifier:
        case Ed25519PublicKey():
            verifier.verify(proof, data)
        case rsa.RSAPublicKey():
            # The number may come without its leading zeros (RFC 4253 section 6.6).
            padded = proof.rjust(
                verifier.key_size // 8 + (verifier.key_size % 8 > 0), b"\0"
            )
            verifier.verify(padded, data, padding.PKCS1v15(), _rsa_hash(algorithm))
        case _:
            reader = Reader(proof)
            r = reader.mpint(_CURVE_ORDER_LENGTH)
            s = reader.mpint(_CURVE_ORDER_LENGTH)
            if proof != mpint(r) + mpint(s):
                raise InvalidSignature
            verifier.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))


def _rsa_hash(algorithm: bytes) -> hashes.SHA256 | hashes.SHA512:
    return hashes.SHA512() if algorithm == RSA_SHA512 else hashes.SHA256()
