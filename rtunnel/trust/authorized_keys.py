"""People known by a plain key: a file in the format of OpenSSH's authorized_keys.

Source: sshd(8), "AUTHORIZED_KEYS FILE FORMAT". The comment is the person's name. A
line that asks for something which rtunnel cannot honour is not used at all, and is
reported: an option left out would let the key do more than its line says.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

import attrs

from rtunnel.errors import AuthenticationRefused, InvalidName, KeyFormatError
from rtunnel.naming import check_user, printable
from rtunnel.trust.identity import UserIdentity
from rtunnel.trust.source_patterns import SourcePatterns
from rtunnel.wire.keys import PublicKey
from rtunnel.wire.source_address import parse_address

_QUOTED = r'"(?:[^"\\]|\\"|\\(?!"))*"'
_OPTIONS_WORD = re.compile(rf'(?:[^\s"]|{_QUOTED})+')
_OPTION = re.compile(rf"([A-Za-z0-9-]+)(?:=({_QUOTED}))?(,|$)")
_KEY_TYPE = re.compile(r"(ssh|ecdsa|sk|rsa|webauthn)-[A-Za-z0-9@.-]+")
_EXPIRY = re.compile(r"([0-9]{8})(?:([0-9]{4})([0-9]{2})?)?(Z?)")

#: Options on what rtunnel never grants to anybody, so that all are kept.
_HARMLESS = frozenset(
    (
        "agent-forwarding",
        "no-agent-forwarding",
        "no-pty",
        "no-user-rc",
        "no-x11-forwarding",
        "pty",
        "user-rc",
        "x11-forwarding",
    )
)

#: Options that somebody may well try, and what to do instead.
_ADVICE = {
    "cert-authority": "put the CA's key into the user CA file instead",
    "command": "rtunnel runs no commands",
    "no-touch-required": "rtunnel always asks for the touch",
    "permitopen": "write an [[allow]] rule for the name instead",
    "verify-required": "rtunnel cannot ask for a PIN",
}


@attrs.frozen
class AuthorizedKey:
    """One usable line.

    :param name: the comment.
    :param line: its number in the file, from 1.
    :param sources: where it may be used from; None for everywhere.
    :param expires: POSIX time when it ends; None for never.
    """

    key: PublicKey
    name: str
    line: int
    sources: SourcePatterns | None = None
    expires: float | None = None

    def refusal(self, source: str, now: float) -> str | None:
        """Why the line does not let this connection in; None when it does.

        :param source: IP address that the connection comes from.
        :param now: POSIX time.
        """
        if self.expires is not None and now >= self.expires:
            return f"line {self.line} of authorized_keys has expired"
        if self.sources is not None:
            try:
                matched = self.sources.match(parse_address(source))
            except ValueError:
                matched = False
            if not matched:
                return (
                    f"line {self.line} of authorized_keys does not allow "
                    f"{printable(source)}"
                )
        return None


@attrs.frozen
class AuthorizedKeys:
    """The lines of a file that can be used, and what is wrong with the others.

    :param keys: usable lines, in the order of the file.
    :param problems: one sentence for each line that is not used.
    """

    keys: tuple[AuthorizedKey, ...] = ()
    problems: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> AuthorizedKeys:
        """Read a whole file. Never raises; see :attr:`problems`."""
        keys: list[AuthorizedKey] = []
        problems: list[str] = []
        for number, raw in enumerate(text.split("\n"), 1):
            line = raw.strip()
            if not line or line.startswith("#"):
                continue
            try:
                keys.append(_parse_line(number, line))
            except (KeyFormatError, InvalidName, ValueError) as error:
                problems.append(f"line {number}: {error}")
        return cls(tuple(keys), tuple(problems))

    def lookup(self, key: PublicKey, source: str, now: float) -> AuthorizedKey:
        """The first line that lets this key in.

        :param source: IP address that the connection comes from.
        :param now: POSIX time.
        :raises AuthenticationRefused: when there is none; the reason is that of the
            first line with this key.
        """
        reason = None
        for entry in self.keys:
            if entry.key == key:
                refusal = entry.refusal(source, now)
                if refusal is None:
                    return entry
                reason = reason or refusal
        raise AuthenticationRefused(
            f"key {key.fingerprint}: {reason or 'not in authorized_keys'}"
        )

    def reason_against(self, user: UserIdentity, now: float) -> str | None:
        """Why a person who was let in would not be now; None when they would, or do not
        stand on a line of this file.

        Not that their time is over: that was known when they logged in.

        :param now: POSIX time.
        """
        if user.key is None or (
            user.valid_before is not None and now >= user.valid_before
        ):
            return None
        try:
            entry = self.lookup(user.key, user.source, now)
        except AuthenticationRefused as error:
            return str(error)
        if entry.name == user.name:
            return None
        return (
            f"key {user.key.fingerprint}: line {entry.line} of authorized_keys says "
            f"{entry.name} now"
        )


def _parse_line(number: int, line: str) -> AuthorizedKey:
    options = ""
    if _KEY_TYPE.fullmatch(line.split(None, 1)[0]) is None:
        match = _OPTIONS_WORD.match(line)
        if match is None or line[match.end() : match.end() + 1].strip():
            raise ValueError("neither a key nor options with a key")
        options, line = match.group(), line[match.end() :]
    sources, expires = _parse_options(options)
    key, comment = PublicKey.from_openssh(line)
    if not comment:
        raise ValueError("the key has no comment, which has to be the person's name")
    return AuthorizedKey(key, check_user(comment), number, sources, expires)


def _parse_options(text: str) -> tuple[SourcePatterns | None, float | None]:
    sources: SourcePatterns | None = None
    expires: float | None = None
    forwarding = True
    seen: set[str] = set()
    for name, value in _split_options(text):
        if name in seen:
            raise ValueError(f"the option {name} is given twice")
        seen.add(name)
        match name, value:
            case "from", str():
                sources = SourcePatterns.parse(value)
            case "expiry-time", str():
                expires = _parse_expiry(value)
            # All that a key is for here is forwarding; the last word on it counts.
            case (("restrict" | "no-port-forwarding"), None):
                forwarding = False
            case "port-forwarding", None:
                forwarding = True
            case _ if name in _HARMLESS and value is None:
                pass
            case _:
                advice = _ADVICE.get(name)
                raise ValueError(
                    f"the option {printable(name)} cannot be honoured"
                    + (f"; {advice}" if advice else "")
                )
    if not forwarding:
        raise ValueError(
            "the options forbid port forwarding, which is all that rtunnel does"
        )
    return sources, expires


def _split_options(text: str) -> list[tuple[str, str | None]]:
    options: list[tuple[str, str | None]] = []
    position = 0
    more = bool(text)
    while more:
        match = _OPTION.match(text, position)
        if match is None:
            raise ValueError(f"malformed options at {printable(text[position:], 40)!r}")
        name, quoted, separator = match.groups()
        value = None if quoted is None else quoted[1:-1].replace('\\"', '"')
        options.append((name.lower(), value))
        position = match.end()
        more = separator == ","
    return options


def _parse_expiry(text: str) -> float:
    match = _EXPIRY.fullmatch(text)
    if match is None:
        raise ValueError("expiry-time has to be YYYYMMDD[HHMM[SS]][Z]")
    day, minute, second, utc = match.groups()
    try:
        moment = datetime.strptime(
            day + (minute or "0000") + (second or "00"), "%Y%m%d%H%M%S"
        )
        # Without the Z it is local time, as for sshd.
        return (moment.replace(tzinfo=UTC) if utc else moment).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"expiry-time {text!r} is no time") from None
