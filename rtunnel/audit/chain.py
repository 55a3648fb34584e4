"""The hash chain: each audit line vouches for the one before it.

The last field of a line, ``chain``, is the SHA-256, in hexadecimal, of the ``chain`` of
the line before it, as text, and of every byte between that line's newline and the comma
in front of the field's own name. What lies between two lines, as half a line that a
crash left, is thus vouched for by the next one. The first line of all follows
:data:`ORIGIN`.

Pure. The chain has no secret: it shows that a line was changed, removed, inserted or
moved, unless whoever did it also wrote every later line anew. What shows that is a
``chain`` value which was kept elsewhere.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

#: What the first line of a chain follows.
ORIGIN: Final = "0" * 64

_LINK = re.compile(rb', "chain": "([0-9a-f]{64})"\}\n')


def link(previous: str, content: bytes) -> str:
    """The ``chain`` of a line.

    :param previous: that of the line before.
    :param content: every byte since that line, up to the field ``chain``.
    """
    return hashlib.sha256(previous.encode("ascii") + content).hexdigest()


def linked(line: bytes, previous: str, between: bytes = b"") -> tuple[bytes, str]:
    """A line with its ``chain``, and that value.

    :param line: a JSON object with at least one field, and a newline.
    :param previous: the ``chain`` of the line before.
    :param between: what the file holds since then.
    """
    content = line.removesuffix(b"}\n")
    value = link(previous, between + content)
    return b'%s, "chain": "%s"}\n' % (content, value.encode("ascii")), value


def split_link(line: bytes) -> tuple[bytes, str] | None:
    """A line's content and its ``chain``; None when it has none.

    :param line: with its newline.
    """
    found = _LINK.search(line)
    if found is None or found.end() != len(line):
        return None
    return line[: found.start()], found[1].decode("ascii")


def last_link(tail: bytes) -> tuple[str | None, bytes]:
    """The newest ``chain`` in the end of a file, and what comes after its line.

    :param tail: as much of the end as the longest line takes, or all of it.
    :return: None and nothing when there is none.
    """
    start = tail.rfind(b', "chain": "')
    while start >= 0:
        found = _LINK.match(tail, start)
        if found is not None:
            return found[1].decode("ascii"), tail[found.end() :]
        start = tail.rfind(b', "chain": "', 0, start)
    return None, b""
