"""Trust bundles, and the list of revoked hosts, in a state directory.

``host_ca.pub`` and its like say who is trusted. Beside it ``host_ca.bundle`` is the
bundle that this comes from, once there was a rotation. A bundle is believed by what the
directory trusts when it comes, and by nothing else.

``host_ca.revoked`` is the list of host certificates that are revoked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, TypeVar

from rtunnel.errors import BundleRefused, KeyFileError, MessageError
from rtunnel.state_directory import (
    AGENT_CA,
    HOST_CA,
    USER_CA,
    load_trust_anchors,
    public_path,
    write_public,
)
from rtunnel.trust.bundle import Role, TrustBundle
from rtunnel.trust.revoked_hosts import RevokedHosts
from rtunnel.wire.keys import PublicKey

_T = TypeVar("_T")

#: The name of the file of each authority.
AUTHORITY_FILES: Final[dict[Role, str]] = {
    "host": HOST_CA,
    "agent": AGENT_CA,
    "user": USER_CA,
}

#: The name of the file with what is revoked of proxies.
REVOKED_HOSTS: Final = f"{HOST_CA}.revoked"


def bundle_path(directory: Path, role: Role) -> Path:
    """Where the bundle of an authority is kept."""
    return directory / f"{AUTHORITY_FILES[role]}.bundle"


def load_bundle(directory: Path, role: Role) -> TrustBundle | None:
    """The bundle that was adopted last; None before the first rotation.

    :raises KeyFileError: when the file cannot be read, or holds something else.
    """
    path = bundle_path(directory, role)
    bundle = _load(path, TrustBundle.from_json)
    if bundle is not None and bundle.role != role:
        raise KeyFileError(f"{path}: is of the {bundle.role} authority; remove it")
    return bundle


def adopt_bundle(directory: Path, bundle: TrustBundle) -> bool:
    """Trust what a bundle says, from now on.

    :return: whether it is news; a generation that is known, or an older one, is none.
    :raises BundleRefused: when it is signed by none of the keys trusted so far.
    :raises KeyFileError: when the directory cannot be read or written.
    """
    known = load_bundle(directory, bundle.role)
    if known is not None and known.generation >= bundle.generation:
        return False
    name = AUTHORITY_FILES[bundle.role]
    anchors = public_path(directory / name)
    if bundle.signer(load_trust_anchors(anchors)) is None:
        raise BundleRefused(
            f"{anchors}: none of its keys has signed generation {bundle.generation} "
            f"of the {bundle.role} authority; if the proxies' authority was rotated "
            f"while this was off, copy {anchors.name} from the state directory that "
            "`rtunnel init` made"
        )
    # The anchors first: if a crash keeps the bundle from being written, it is adopted
    # once more, by the keys that it has in common with what it replaces.
    lines = (key.to_openssh(f"rtunnel {name}") for key in bundle.trusted)
    write_public(anchors, "".join(f"{line}\n" for line in lines), force=True)
    write_public(
        bundle_path(directory, bundle.role), bundle.to_json() + "\n", force=True
    )
    return True


def load_revoked_hosts(
    directory: Path, trusted: Collection[PublicKey]
) -> RevokedHosts | None:
    """The list that was adopted last.

    :param trusted: the host authorities that are trusted now.
    :return: None when there was none, or the authority that has signed it is trusted
        no longer: whoever has stolen its key must not have the last word.
    :raises KeyFileError: when the file cannot be read, or holds something else.
    """
    revoked = _load(directory / REVOKED_HOSTS, RevokedHosts.from_json)
    return None if revoked is None or revoked.signer(trusted) is None else revoked


def adopt_revoked_hosts(
    directory: Path, revoked: RevokedHosts, trusted: Collection[PublicKey]
) -> bool:
    """Go by a list from now on.

    :param trusted: the host authorities that are trusted now.
    :return: whether it is news; a version that is known, or an older one, is none.
    :raises BundleRefused: when none of these has signed it.
    :raises KeyFileError: when the directory cannot be read or written.
    """
    if revoked.signer(trusted) is None:
        raise BundleRefused(
            f"none of the keys in {public_path(directory / HOST_CA)} has signed "
            f"version {revoked.version} of the revoked hosts"
        )
    known = load_revoked_hosts(directory, trusted)
    if known is not None and known.version >= revoked.version:
        return False
    write_public(directory / REVOKED_HOSTS, revoked.to_json() + "\n", force=True)
    return True


def _load(path: Path, parse: Callable[[str], _T]) -> _T | None:
    """What a file holds that proxies send; None when there is none.

    :param parse: may raise MessageError.
    :raises KeyFileError: when the file cannot be read, or holds something else.
    """
    try:
        return parse(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (MessageError, UnicodeDecodeError) as error:
        raise KeyFileError(
            f"{path}: {error}; remove it, and the proxies will send it again"
        ) from None
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read: {error.strerror}") from None
