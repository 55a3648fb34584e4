"""Trust bundles in a state directory.

``host_ca.pub`` and its like say who is trusted. Beside it ``host_ca.bundle`` is the
bundle that this comes from, once there was a rotation. A bundle is believed by what the
directory trusts when it comes, and by nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

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

#: The name of the file of each authority.
AUTHORITY_FILES: Final[dict[Role, str]] = {
    "host": HOST_CA,
    "agent": AGENT_CA,
    "user": USER_CA,
}


def bundle_path(directory: Path, role: Role) -> Path:
    """Where the bundle of an authority is kept."""
    return directory / f"{AUTHORITY_FILES[role]}.bundle"


def load_bundle(directory: Path, role: Role) -> TrustBundle | None:
    """The bundle that was adopted last; None before the first rotation.

    :raises KeyFileError: when the file cannot be read, or holds something else.
    """
    path = bundle_path(directory, role)
    try:
        bundle = TrustBundle.from_json(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (MessageError, UnicodeDecodeError) as error:
        raise KeyFileError(
            f"{path}: {error}; remove it, and the proxies will send it again"
        ) from None
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read: {error.strerror}") from None
    if bundle.role != role:
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
