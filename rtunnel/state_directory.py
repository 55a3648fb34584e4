"""The files of a state directory: their names, how they are read, how written.

A proxy's directory holds ``proxy.toml``, the authorities' public keys, its host key
and certificate, ``authorized_keys``, the registry and the admin socket; the one that
``rtunnel init`` made holds the authorities' private keys as well. An agent's holds
``agent.toml``, its key and certificate, and the host authority's public key.

Keys and certificates are in OpenSSH's formats, so ``ssh-keygen`` reads them all. Every
error names the file and says what to do about it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path

import attrs

from rtunnel.errors import CertificateError, InvalidName, KeyFileError, ProtocolError
from rtunnel.naming import printable
from rtunnel.ownership import give_to_owner
from rtunnel.trust.identity import check_uuid
from rtunnel.trust.revocation import NO_REVOCATIONS, Revocations
from rtunnel.trust.revoked_hosts import RevokedHosts
from rtunnel.wire.certificate import DEFAULT_SKEW, Certificate, CertificateKind
from rtunnel.wire.certificate_check import check_validity
from rtunnel.wire.keys import PrivateKey, PublicKey

PROXY_CONFIG = "proxy.toml"
AGENT_CONFIG = "agent.toml"
HOST_CA = "host_ca"
AGENT_CA = "agent_ca"
USER_CA = "user_ca"
HOST_KEY = "host_key"
AGENT_KEY = "agent_key"
AUTHORIZED_KEYS = "authorized_keys"
ADMIN_SOCKET = "admin.sock"

#: Bytes in a key or certificate file. OpenSSH's largest RSA key is a tenth of it.
MAX_KEY_FILE = 64 * 1024

#: What the name of a file that is being written ends with: random bytes in hexadecimal.
_MARK = 8
_ANY_FILE = (
    rf"(?:{HOST_CA}|{AGENT_CA}|{USER_CA}|{HOST_KEY}|{AGENT_KEY}|{AUTHORIZED_KEYS}"
    rf"|{PROXY_CONFIG}|{AGENT_CONFIG})[-.\w]*"
)

#: Bytes in a file of trust anchors: room for hundreds of keys.
MAX_TRUST_FILE = 1024 * 1024

_NEW_PROXY = "make one with `rtunnel init` or `rtunnel proxy sign`"
_NEW_AGENT = "make one with `rtunnel agent sign`, where the authorities are"
_COPY_CA = "copy it from the state directory that `rtunnel init` made"
_ONLY_INIT = "only the state directory that `rtunnel init` made can sign"
_OVERWRITE = "take another directory, or overwrite with --force"

#: By file name: what to do when the file is missing or broken.
_REMEDIES = {
    HOST_CA: _ONLY_INIT,
    AGENT_CA: _ONLY_INIT,
    USER_CA: _ONLY_INIT,
    f"{HOST_CA}.pub": _COPY_CA,
    f"{AGENT_CA}.pub": _COPY_CA,
    f"{USER_CA}.pub": _COPY_CA,
    HOST_KEY: _NEW_PROXY,
    f"{HOST_KEY}-cert.pub": _NEW_PROXY,
    AGENT_KEY: _NEW_AGENT,
    f"{AGENT_KEY}-cert.pub": _NEW_AGENT,
}


def public_path(key: Path) -> Path:
    """Where the public half of a private key file is: ``FILE.pub``."""
    return key.with_name(key.name + ".pub")


def certificate_path(key: Path) -> Path:
    """Where the certificate of a key file is, as ``ssh-keygen -s`` names it.

    :param key: ``FILE`` or ``FILE.pub``; both give ``FILE-cert.pub``.
    """
    return key.with_name(key.name.removesuffix(".pub") + "-cert.pub")


@attrs.frozen
class ProxyCredentials:
    """What a proxy is, and whom it trusts.

    :param key: the host key's private half.
    :param certificate: its host certificate; the first principal is the proxy's id.
    """

    key: PrivateKey
    certificate: Certificate
    host_cas: tuple[PublicKey, ...]
    agent_cas: tuple[PublicKey, ...]
    user_cas: tuple[PublicKey, ...]

    @property
    def proxy_id(self) -> str:
        """The UUID of this proxy."""
        return self.certificate.principals[0]


@attrs.frozen
class AgentCredentials:
    """What an agent is, and which proxies it trusts.

    :param certificate: a user certificate; its one principal is the cluster, its key
        id the agent's instance id.
    :param host_cas: the host authorities.
    :param revoked: what they say is revoked of proxies; None when they never did.
    """

    key: PrivateKey
    certificate: Certificate
    host_cas: tuple[PublicKey, ...]
    revoked: RevokedHosts | None = None

    @property
    def instance(self) -> str:
        """The UUID of this agent."""
        return self.certificate.key_id

    def revocations(self, now: float) -> Revocations:
        """What is revoked of proxies at a time.

        :param now: POSIX time.
        """
        return NO_REVOCATIONS if self.revoked is None else self.revoked.revocations(now)


def load_proxy_credentials(
    directory: Path, cluster: str, now: float
) -> ProxyCredentials:
    """Read and check everything that a proxy needs to be one.

    :param cluster: the cluster that the config file names.
    :param now: seconds since the epoch, for the certificate's validity.
    :raises KeyFileError: a file cannot be used, or the certificate is not for this
        key or cluster, not from its host authority, or not valid now.
    """
    path = directory / HOST_KEY
    certified = certificate_path(path)
    host_cas = load_trust_anchors(public_path(directory / HOST_CA))
    key, certificate = _load_certified_key(path)
    try:
        certificate.check(
            kind=CertificateKind.HOST, trusted=host_cas, now=now, principal=cluster
        )
    except CertificateError as error:
        raise KeyFileError(
            f"{certified}: {error}; sign it again with `rtunnel proxy renew`"
        ) from None
    try:
        check_uuid(certificate.principals[0])
    except InvalidName:
        raise KeyFileError(
            f"{certified}: its first principal is not a proxy's id; {_NEW_PROXY}"
        ) from None
    return ProxyCredentials(
        key,
        certificate,
        host_cas,
        load_trust_anchors(public_path(directory / AGENT_CA)),
        load_trust_anchors(public_path(directory / USER_CA)),
    )


def load_agent_credentials(
    directory: Path, cluster: str, now: float
) -> AgentCredentials:
    """Read and check everything that an agent needs to be one.

    :param cluster: the cluster that the config file names.
    :param now: seconds since the epoch, for the certificate's validity.
    :raises KeyFileError: a file cannot be used, or the certificate is not for this
        key, not for this cluster, or not valid now.
    """
    path = directory / AGENT_KEY
    certified = certificate_path(path)
    key, certificate = _load_certified_key(path)
    if certificate.kind is not CertificateKind.USER:
        raise KeyFileError(f"{certified}: is a host certificate; {_NEW_AGENT}")
    # Whose signature it is, and from which addresses it may be used, only the proxies
    # can judge.
    try:
        check_validity(
            certificate.valid_after, certificate.valid_before, now, DEFAULT_SKEW
        )
    except CertificateError as error:
        raise KeyFileError(
            f"{certified}: {error}; sign it again with `rtunnel agent renew`, where "
            "the authorities are"
        ) from None
    if certificate.principals != (cluster,):
        named = printable(", ".join(certificate.principals))
        raise KeyFileError(
            f"{certified}: the certificate is for cluster {named}, but "
            f"{directory / AGENT_CONFIG} says cluster {cluster}; correct `cluster` "
            f"there, or make a certificate with `rtunnel agent sign {cluster}`"
        )
    try:
        check_uuid(certificate.key_id)
    except InvalidName:
        raise KeyFileError(
            f"{certified}: its key id is not an agent's id; {_NEW_AGENT}"
        ) from None
    return AgentCredentials(
        key, certificate, load_trust_anchors(public_path(directory / HOST_CA))
    )


def load_private_key(path: Path) -> PrivateKey:
    """Read a private key file that nobody else can read.

    :raises KeyFileError: missing, unreadable, open to group or others, empty, with a
        passphrase, malformed, or of a kind that is not accepted.
    """
    data = _read(path, MAX_KEY_FILE, private=True)
    try:
        return PrivateKey.from_openssh(data)
    except KeyFileError as error:
        raise KeyFileError(f"{path}: {error}{_remedy(path)}") from None


def load_public_key(path: Path) -> tuple[PublicKey, str]:
    """Read a ``.pub`` file with one key.

    :return: the key and its comment.
    :raises KeyFileError: missing, unreadable, empty, malformed, or not a public key.
    """
    text = _read_text(path, MAX_KEY_FILE)
    if "PRIVATE KEY" in text.partition("\n")[0]:
        raise KeyFileError(
            f"{path}: this is the private key; give its public half, "
            f"{public_path(path)}"
        )
    try:
        return PublicKey.from_openssh(text.strip())
    except ProtocolError as error:
        if _is_certificate(text.strip()):
            raise KeyFileError(
                f"{path}: this is the certificate; give the public key that it is for"
            ) from None
        raise KeyFileError(f"{path}: {error}{_remedy(path)}") from None


def load_trust_anchors(path: Path) -> tuple[PublicKey, ...]:
    """Read the public keys of an authority, one a line; two while it is rotated.

    Empty lines and lines that start with ``#`` are skipped.

    :raises KeyFileError: missing, unreadable, no key in it, or a malformed line.
    """
    anchors: dict[PublicKey, None] = {}
    for number, line in enumerate(_read_text(path, MAX_TRUST_FILE).splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            anchors[PublicKey.from_openssh(line)[0]] = None
        except ProtocolError as error:
            raise KeyFileError(
                f"{path}: line {number}: {error}{_remedy(path)}"
            ) from None
    if not anchors:
        raise KeyFileError(f"{path}: holds no key{_remedy(path)}")
    return tuple(anchors)


def load_certificate(path: Path) -> Certificate:
    """Read a certificate file; whether to believe it is another question.

    :raises KeyFileError: missing, unreadable, empty or malformed.
    """
    text = _read_text(path, MAX_KEY_FILE).strip()
    try:
        return Certificate.from_openssh(text)[0]
    except (CertificateError, ProtocolError) as error:
        if _is_public_key(text) and not path.name.endswith("-cert.pub"):
            raise KeyFileError(
                f"{path}: this is the public key; give its certificate, "
                f"{certificate_path(path)}"
            ) from None
        raise KeyFileError(f"{path}: {error}{_remedy(path)}") from None


def _is_public_key(text: str) -> bool:
    try:
        PublicKey.from_openssh(text)
    except ProtocolError:
        return False
    return True


def _is_certificate(text: str) -> bool:
    try:
        Certificate.from_openssh(text)
    except (CertificateError, ProtocolError):
        return False
    return True


def refuse_existing(paths: Iterable[Path]) -> None:
    """Check, before the first of several files is written, that none is there.

    :raises KeyFileError: naming each that is.
    """
    there = [str(path) for path in paths if os.path.lexists(path)]
    if there:
        raise KeyFileError(f"{', '.join(there)}: already there; {_OVERWRITE}")


def make_directory(path: Path) -> None:
    """Make a state directory that only its owner can enter; leave one that exists.

    :raises KeyFileError: it cannot be made, or something else is in its place.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        raise KeyFileError(f"{path}: is not a directory") from None
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be made: {error.strerror}") from None


def write_private(path: Path, data: bytes, *, force: bool = False) -> None:
    """Write a file with mode 0600, all of it or nothing.

    :param force: replace what is there.
    :raises KeyFileError: it is there already, or cannot be written.
    """
    _write(path, data, 0o600, force)


def write_public(path: Path, text: str, *, force: bool = False) -> None:
    """Write a file that others may read (mode 0644), all of it or nothing.

    :param force: replace what is there.
    :raises KeyFileError: it is there already, or cannot be written.
    """
    _write(path, text.encode("utf-8"), 0o644, force)


def write_key_pair(
    path: Path, key: PrivateKey, comment: str, *, force: bool = False
) -> None:
    """Write ``FILE`` and ``FILE.pub``.

    :raises KeyFileError: one is there already, or cannot be written.
    """
    write_private(path, key.to_openssh(), force=force)
    write_public(public_path(path), key.public.to_openssh(comment) + "\n", force=force)


def _load_certified_key(path: Path) -> tuple[PrivateKey, Certificate]:
    key = load_private_key(path)
    certified = certificate_path(path)
    certificate = load_certificate(certified)
    if certificate.key != key.public:
        raise KeyFileError(
            f"{certified}: certifies another key than {path}; put two files "
            f"there that belong together, or {_remedy(certified)[2:]}"
        )
    return key, certificate


def _remedy(path: Path) -> str:
    remedy = _REMEDIES.get(path.name)
    return f"; {remedy}" if remedy else ""


def _read_text(path: Path, limit: int) -> str:
    try:
        return _read(path, limit, private=False).decode("utf-8")
    except UnicodeDecodeError:
        raise KeyFileError(f"{path}: is not text{_remedy(path)}") from None


def _read(path: Path, limit: int, *, private: bool) -> bytes:
    """The bytes of a regular file; the checks are made on what is then read."""
    try:
        # A FIFO in the place of a key must not hang the start.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise KeyFileError(f"{path}: is not a regular file")
            if private and status.st_mode & 0o077:
                raise KeyFileError(
                    f"{path}: others can read this private key "
                    f"(mode {stat.S_IMODE(status.st_mode):04o}); run: chmod 600 {path}"
                )
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(limit + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise KeyFileError(f"{path}: no such file{_remedy(path)}") from None
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read: {error.strerror}") from None
    if not data.strip():
        raise KeyFileError(f"{path}: is empty{_remedy(path)}")
    if len(data) > limit:
        raise KeyFileError(f"{path}: more than {limit} bytes, so not a key file")
    return data


def discard_unfinished(directory: Path, name: str | None = None) -> None:
    """Remove what is left of files that were being written when a process was killed.

    A private key may be in them. What another process is writing just now stays; so
    does what cannot be removed, which is in nobody's way.

    :param name: of the file that was to be; by default any of a state directory.
    """
    what = _ANY_FILE if name is None else re.escape(name)
    unfinished = re.compile(rf"\.\.?(?:{what})(?:\.[0-9a-f]{{{2 * _MARK}}}){{1,2}}")
    try:
        found = [each for each in os.listdir(directory) if unfinished.fullmatch(each)]
    except OSError:
        # Whoever comes to write or to read will say so.
        return
    for path in map(directory.joinpath, found):
        with contextlib.suppress(OSError):
            descriptor = os.open(
                path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            )
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
            finally:
                os.close(descriptor)


def _write(path: Path, data: bytes, mode: int, force: bool) -> None:
    """Write beside the file, then put it in place in one step."""
    discard_unfinished(path.parent, path.name)
    try:
        temporary, descriptor = _open_beside(path, mode)
        try:
            with open(descriptor, "wb") as file:
                give_to_owner(descriptor, path)
                file.write(data)
                file.flush()
                os.fsync(descriptor)
                if force:
                    os.replace(temporary, path)
                else:
                    # Unlike a rename, a link never replaces a file.
                    os.link(temporary, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
        sync_directory(path.parent)
    except FileExistsError:
        raise KeyFileError(
            f"{path}: already there; take another name, or overwrite with --force"
        ) from None
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be written: {error.strerror}") from None


def _open_beside(path: Path, mode: int) -> tuple[Path, int]:
    """A new file beside another one, and its descriptor.

    It is locked until that is closed, for :func:`discard_unfinished` to see.
    """
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(_MARK)}")
        descriptor = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode
        )
        # Where files cannot be locked, nobody removes them either.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return temporary, descriptor
        # It was taken for a left one before it was locked.
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make sure that a crash does not undo what was renamed or removed in it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
