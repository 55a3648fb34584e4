"""Harnesses for text: names, targets, patterns and authorized_keys."""

from __future__ import annotations

from contextlib import suppress

from fuzz.harness import Harness
from fuzz.keys import NOW, USER
from rtunnel.errors import AuthenticationRefused, InvalidName
from rtunnel.naming import (
    MAX_PRINTED,
    check_cluster,
    check_user,
    parse_target,
    printable,
)
from rtunnel.proxy.subsystem import parse_subsystem
from rtunnel.trust.authorized_keys import AuthorizedKeys
from rtunnel.trust.source_patterns import SourcePatterns
from rtunnel.trust.targets import TargetPatterns
from rtunnel.wire.source_address import in_networks, parse_address, parse_networks

_TEXT_TOKENS = (
    b".", b":", b"-", b"*", b"%", b"@", b"[", b"]", b"/", b"..", b"\0", b"\r\n",
    b"\x1b[", b"\xe2\x80\xae", b"\xff", b"::ffff:127.0.0.1", b"127.0.0.1", b"0x7f.1",
    b"169.254.169.254", b"2130706433", b"fe80::1%eth0", b"localhost", b"xn--",
)  # fmt: skip


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _target(data: bytes) -> None:
    port, name = int.from_bytes(data[:2]), _text(data[2:])
    for shown in (printable(name), printable(data)):
        assert shown.isprintable()
        assert len(shown) <= MAX_PRINTED * len("\\U0001f600") + len("...")
    for check in (check_cluster, check_user):
        try:
            assert check(name) == name and name.isprintable() and "%" not in name
        except InvalidName as error:
            assert str(error).isprintable()
    target = parse_target(name, port)
    whole = f"{target.host}.{target.cluster}" if target.host else target.cluster
    assert parse_target(whole, port) == target


def _subsystem(data: bytes) -> None:
    target = parse_subsystem(data)
    assert check_cluster(target.cluster) == target.cluster
    assert 1 <= target.port <= 65535


def _target_patterns(data: bytes) -> None:
    """A port, patterns, and what is asked for: a host and its address, by lines."""
    port = int.from_bytes(data[:2])
    texts, _, asked = _text(data[2:]).partition("\n")
    patterns = TargetPatterns.parse(texts.split(" "))
    host, _, address = asked.partition("\n")
    patterns.matches(host, port)
    named = patterns.allows_name(host, port)
    try:
        parse_address(address)
    except ValueError:
        return
    reached = patterns.allows_address(host, address, port)
    if reached:
        assert named, "an address is allowed of a name that is not"


def _sources(data: bytes) -> None:
    text, _, address_text = _text(data).partition("\n")
    address = parse_address(address_text)
    with suppress(ValueError):
        SourcePatterns.parse(text).match(address)
    in_networks(address, parse_networks(text))


def _authorized_keys(data: bytes) -> None:
    """A whole file; :data:`~fuzz.keys.USER` asks to be let in by it."""
    keys = AuthorizedKeys.parse(_text(data))
    assert len(keys.keys) + len(keys.problems) <= data.count(b"\n") + 1
    keys.lookup(USER.public, "192.0.2.7", NOW)


def _files() -> list[bytes]:
    line = USER.public.to_openssh("alice").encode()
    options = (
        b'from="192.0.2.0/24,!192.0.2.9,2001:db8::*"',
        b'expiry-time="20400101Z",restrict',
        b'no-pty,permitopen="localhost:22"',
        b'command="echo \\"hi\\"",environment="A=B"',
        b"cert-authority",
    )
    return [
        b"# a comment\n\n" + line + b"\n",
        *(each + b" " + line for each in options),
        b"\n".join(each + b"\t" + line for each in options),
    ]


HARNESSES = (
    Harness(
        "target",
        _target,
        lambda: [
            b"\0\x16db.site",
            b"\x01\xbbsite.",
            b"\0\x16[2001:db8::1].Site",
            b"\0\x16a-b_c.d.example-1",
        ],
        (InvalidName,),
        _TEXT_TOKENS,
    ),
    Harness(
        "subsystem",
        _subsystem,
        lambda: [
            b"proxy:db:5432@site",
            b"proxy:@site",
            b"proxy:[::1]:22@site",
            b"proxy:db.site",
            b"sftp",
        ],
        (InvalidName,),
        (*_TEXT_TOKENS, b"proxy:"),
    ),
    Harness(
        "target_patterns",
        _target_patterns,
        lambda: [
            b"\0\x16*:22 *.lan:1-65535 db:*\ndb.lan\n192.0.2.1",
            b"\0\x1610.0.0.0/8:22 [::1]:* localhost:22\nlocalhost\n127.0.0.1",
            b"\0\x16*:*\n169.254.169.254\n::ffff:169.254.169.254",
        ],
        (InvalidName,),
        _TEXT_TOKENS,
    ),
    Harness(
        "source_address",
        _sources,
        lambda: [
            b"192.0.2.0/24,::1\n192.0.2.7",
            b"!10.*,10.0.?.1,::ffff:10.0.0.0/104\n::ffff:10.0.0.1",
        ],
        (ValueError,),
        _TEXT_TOKENS,
    ),
    Harness(
        "authorized_keys",
        _authorized_keys,
        _files,
        (AuthenticationRefused,),
        (*_TEXT_TOKENS, b'from="', b'expiry-time="', b'"', b"\\", b",", b"restrict"),
    ),
)
