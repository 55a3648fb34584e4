"""What a newcomer gets for its token: files, in one text that stock tools take apart.

.. code-block:: text

    -----BEGIN agent_key-cert.pub-----
    ssh-ed25519-cert-v01@openssh.com AAAA... rtunnel agent 9543a757-... of b
    -----END agent_key-cert.pub-----
    -----BEGIN host_ca.pub-----
    ...

Each file has a name of a state directory and whole lines; no line of a file begins with
``-----``. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from rtunnel.errors import MessageError

#: Bytes in a bundle; people's keys are the most of it.
MAX_BUNDLE: Final = 4 * 1024 * 1024
#: Files in a bundle.
MAX_FILES: Final = 32

_MARK = "-----"
_NAME = re.compile(r"[a-z0-9_]+([.-][a-z0-9_]+)*")
_BEGIN = re.compile(r"-----BEGIN ([a-z0-9_.-]{1,64})-----")


def encode_bundle(files: Mapping[str, str]) -> str:
    """Files as one text.

    :param files: text by name. A line that begins with ``-----`` is left out; no file
        of ours has a use for one.
    """
    pieces = []
    for name, text in files.items():
        lines = [line for line in _lines(text) if not line.startswith(_MARK)]
        pieces += [f"-----BEGIN {name}-----", *lines, f"-----END {name}-----"]
    return "".join(f"{piece}\n" for piece in pieces)


def decode_bundle(data: bytes) -> dict[str, str]:
    """The files in a text, by name. Anything between them is passed over.

    :raises MessageError: when it is not a bundle.
    """
    if len(data) > MAX_BUNDLE:
        raise MessageError(f"a bundle has at most {MAX_BUNDLE} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise MessageError("a bundle is UTF-8") from None
    files: dict[str, str] = {}
    name: str | None = None
    lines: list[str] = []
    for line in _lines(text):
        if name is None:
            begins = _BEGIN.fullmatch(line)
            if begins is None:
                continue
            name, lines = begins[1], []
            if _NAME.fullmatch(name) is None or name in files:
                raise MessageError(f"a bundle has a file {name!a} too many")
        elif line == f"-----END {name}-----":
            files[name] = "".join(f"{each}\n" for each in lines)
            name = None
        elif line.startswith(_MARK):
            raise MessageError(f"the file {name} in a bundle has no end")
        else:
            lines.append(line)
    if name is not None:
        raise MessageError(f"the file {name} in a bundle has no end")
    if not 1 <= len(files) <= MAX_FILES:
        raise MessageError("that is not a bundle")
    return files


def _lines(text: str) -> list[str]:
    """The lines of a text, ended by LF and nothing else that may look like an end."""
    return text.removesuffix("\n").split("\n") if text else []
