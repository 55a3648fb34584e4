"""How verbs show paths, times and what to do next."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from pathlib import Path

from rtunnel.wire.certificate import Certificate
from rtunnel.wire.keys import ECDSA_P256, PublicKey


def shell_path(path: Path) -> str:
    """A path as one can paste it into a shell."""
    return shlex.quote(str(path))


def until(certificate: Certificate) -> str:
    """The end of a certificate's validity, UTC, to the minute."""
    end = datetime.fromtimestamp(certificate.valid_before, UTC)
    return end.strftime("%Y-%m-%d %H:%M UTC")


def host_key_note(key: PublicKey) -> str:
    """What has to be said of a proxy with this host key: a line, or nothing."""
    if key.algorithm != ECDSA_P256:
        return ""
    return (
        "Agents made before, or with the line of a proxy that has no ECDSA key, "
        "believe it only once ssh.host_key_algorithms of their agent.toml lists "
        "ecdsa-sha2-nistp256-cert-v01@openssh.com.\n"
    )


def steps(*pairs: tuple[str, str]) -> str:
    """What to do next: for each step a sentence, and a command to paste below it."""
    return "\n".join(f"{sentence}\n    {command}" for sentence, command in pairs)
