"""The private keys of an authority while it is rotated.

``host_ca`` is the key that signs, always; so whatever signs reads that file and no
other. While a rotation runs the other key lies beside it: ``host_ca.next`` before it
signs, ``host_ca.previous`` after. ``host_ca.previous`` stays when the rotation is over,
for the way back, until the next one begins. All have mode 0600.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from rtunnel.errors import KeyFileError
from rtunnel.key_making import MakeKey
from rtunnel.state_directory import (
    load_private_key,
    load_trust_anchors,
    public_path,
    sync_directory,
    write_private,
)
from rtunnel.trust.bundle import Phase, Role, TrustBundle
from rtunnel.trust_files import AUTHORITY_FILES, load_bundle
from rtunnel.wire.keys import PrivateKey, PublicKey

#: Which authority a file is of.
ROLE_OF: Final[dict[str, Role]] = {name: role for role, name in AUTHORITY_FILES.items()}


def load_authority(directory: Path, name: str) -> PrivateKey:
    """Read an authority's private key, to sign with.

    :param name: ``HOST_CA``, ``AGENT_CA`` or ``USER_CA``.
    :raises KeyFileError: it cannot be used, or is not among the keys of its own
        ``.pub`` file, so that nobody would trust what it signs; or another key signs
        since a rotation.
    """
    path = directory / name
    key = load_private_key(path)
    anchors = public_path(path)
    if key.public not in load_trust_anchors(anchors):
        raise KeyFileError(
            f"{anchors}: does not list the key of {path}; add the line that "
            f"`ssh-keygen -y -f {path}` prints"
        )
    bundle = load_bundle(directory, ROLE_OF[name])
    if bundle is not None and bundle.signs != key.public:
        raise KeyFileError(
            f"{path}: another key signs since the authority was rotated; sign where "
            f"`rtunnel ca rotate {bundle.role}` was run, or copy {path.name} from there"
        )
    return key


def signs_here(directory: Path, name: str) -> bool:
    """Whether an authority's private key is here, and not one that signs no longer.

    A file that cannot be used counts: whoever signs says what is wrong with it.

    :param name: ``HOST_CA``, ``AGENT_CA`` or ``USER_CA``.
    """
    path = directory / name
    if not path.exists():
        return False
    try:
        bundle = load_bundle(directory, ROLE_OF[name])
        return bundle is None or bundle.signs == load_private_key(path).public
    except KeyFileError:
        return True


def next_path(path: Path) -> Path:
    """Where the key is that will sign."""
    return path.with_name(path.name + ".next")


def previous_path(path: Path) -> Path:
    """Where the key is that signed before."""
    return path.with_name(path.name + ".previous")


async def make_next(path: Path, make_key: MakeKey) -> PrivateKey:
    """The key of the next rotation; one that is there already is taken.

    A new one is of the same type as the key that signs now.

    :param path: of the latter.
    :raises KeyFileError: when a key cannot be written or read.
    """
    new = next_path(path)
    if not new.exists():
        key_type = load_private_key(path).public.algorithm
        key = await make_key(key_type)
        write_private(new, key.to_openssh())
    return load_private_key(new)


def available_keys(path: Path) -> tuple[PrivateKey, ...]:
    """The private keys that are here: signing, next, previous.

    :raises KeyFileError: when a file that is there cannot be used.
    """
    found = {}
    for each in (path, next_path(path), previous_path(path)):
        if each.exists():
            key = load_private_key(each)
            found[key.public] = key
    return tuple(found.values())


def arrange(directory: Path, bundle: TrustBundle, *, is_newest: bool = True) -> None:
    """Put the private keys that are here where the bundle's phase wants them.

    Where the authority's private key is not, there is nothing to do. A crash in between
    loses no key, and doing it again finishes it.

    :param is_newest: False while there may be a newer bundle, that a crash has kept
        from being adopted. Then keys that this one has no use for stay: the newer one
        may be about them.
    :raises KeyFileError: when the key that is to sign is not here though others are, or
        the directory cannot be written.
    """
    path = directory / AUTHORITY_FILES[bundle.role]
    if not path.exists():
        return
    beside = {
        Phase.TRUSTED: next_path(path),
        Phase.SIGNS: previous_path(path),
        Phase.RETIRED: previous_path(path),
    }.get(bundle.phase)
    try:
        if beside is not None and bundle.other is not None:
            other = _find(path, bundle.other)
            if other is not None and other != beside:
                _link(other, beside)
        if load_private_key(path).public != bundle.signs:
            source = _find(path, bundle.signs)
            if source is None:
                raise KeyFileError(
                    f"{path}: is not the key by which generation {bundle.generation} "
                    f"of the {bundle.role} authority signs; nothing is signed here "
                    "until that key is in its place"
                )
            os.rename(source, path)
        unwanted = {next_path(path), previous_path(path)} - {beside}
        for unused in unwanted if is_newest else ():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(unused)
        sync_directory(directory)
    except OSError as error:
        raise KeyFileError(
            f"{path}: the authority's keys cannot be put in order: {error.strerror}"
        ) from None


def _find(path: Path, key: PublicKey) -> Path | None:
    for each in (next_path(path), previous_path(path), path):
        if each.exists() and load_private_key(each).public == key:
            return each
    return None


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, in place of what has it."""
    temporary = target.with_name(f".{target.name}.new")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    os.link(source, temporary)
    os.rename(temporary, target)
