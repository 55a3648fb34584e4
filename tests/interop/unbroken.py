"""Text that would break a line, and logs that have to have none broken.

A peer can send any of :data:`NASTY` wherever SSH or HTTP has a place for text.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from rtunnel.audit.fields import FIELDS
from rtunnel.audit.file import AuditPath
from rtunnel.audit.verification import AuditReport, verify

#: An event that nobody writes, and a logger that does not exist.
FORGED_EVENT = "forged_event"
FORGED_LOGGER = "forged.logger"

NASTY: tuple[bytes, ...] = (
    b"one\r\ntwo\nthree\rfour",
    b"\x1b[2J\x1b[1;31mred\x1b]0;title\x07",
    b"nul\x00bell\x07del\x7f\x9b31m",
    "line\u2028paragraph\u2029next\x85tab\tpage\x0c".encode(),
    "bidi\u202egnp.exe\u2066\u2069\u200f\u200b\ufeff".encode(),
    b"\xff\xfe\xed\xa0\x80\xc3(",
    b"%s %n {0} {log_source!r} {__class__} ${HOME} `id`",
    f'"}}\n{{"event": "{FORGED_EVENT}", "outcome": "ok"}}'.encode(),
    f'x", "event": "{FORGED_EVENT}", "chain": "{"0" * 64}"}}\n'.encode(),
    f"\n2026-01-01T00:00:00.000Z info {FORGED_LOGGER} all is well".encode(),
    b"\\u001b[31m\\n\\x1b \\",
    b"A" * 65536,
    "\U0001f600\u202e".encode() * 8192,
)

#: What a line may have at most, in characters: some strings of 256, each escaped.
LONGEST = 16384

_TEXT_LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (debug|info|warn|error|critical) (\S+) .*"
)


def check_log(text: str, log_format: str) -> list[str]:
    """Read a log, every line of it.

    :param log_format: ``text`` or ``json``.
    :return: the messages.
    :raises AssertionError: for a line that is none, or that nobody of ours wrote.
    """
    assert text.endswith("\n"), text[-200:]
    messages = []
    for line in text.removesuffix("\n").split("\n"):
        assert line.isprintable(), ascii(line)
        assert len(line) <= LONGEST, ascii(line[:300])
        if log_format == "json":
            event = json.loads(line)
            logger, message = event["logger"], event["message"]
        else:
            found = _TEXT_LINE.fullmatch(line)
            assert found is not None, ascii(line)
            logger, message = found[2], line
        assert logger != FORGED_LOGGER, ascii(line)
        messages.append(message)
    return messages


def check_audit(path: Path) -> tuple[AuditReport, list[dict[str, object]]]:
    """Read an audit file, every line of it, and verify its chain.

    :return: the report on the chain, and the events.
    :raises AssertionError: for a line that is none, or that nobody of ours wrote.
    """
    events = []
    text = path.read_bytes().decode("utf-8")
    assert text.endswith("\n"), text[-200:]
    for line in text.removesuffix("\n").split("\n"):
        assert line.isprintable(), ascii(line)
        assert len(line) <= LONGEST, ascii(line[:300])
        event = json.loads(line)
        assert tuple(event) == FIELDS, ascii(line)
        assert event["event"] != FORGED_EVENT, ascii(line)
        for value in event.values():
            assert value is None or isinstance(value, int | float | str)
            assert not isinstance(value, str) or value.isprintable(), ascii(value)
        events.append(event)
    return verify([AuditPath(path)]), events
