"""Target patterns: what an allow list says about ``host:port``.

Pure. A pattern is ``HOST:PORTS``. HOST is ``*``, a name, ``*.suffix`` (any depth below
it), an IPv4 address or network, or an IPv6 one in brackets. PORTS is a number,
``low-high``, or ``*``.

Two uses. The proxy's policy knows only the text that a client asked for and calls
:meth:`TargetPatterns.matches`. Whoever dials (the agent, or the proxy in its own
cluster) calls :meth:`TargetPatterns.allows_name` before it resolves, and
:meth:`TargetPatterns.allows_address` on the one address that it will connect to, so a
name that changes its mind between the two gains nothing.

Special addresses (loopback, link-local, metadata, multicast …, see
:mod:`rtunnel.trust.hosts`) need more than a match: the operator must have named them,
by address or by a network no wider than the special one, as ``localhost``, or in the
agent's own resolve table.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network

import attrs

from rtunnel.errors import InvalidName
from rtunnel.naming import printable
from rtunnel.trust.hosts import (
    LOCALHOST,
    IPAddress,
    IPNetwork,
    SpecialRange,
    parse_address,
    parse_host,
    special_range,
    unmapped,
)

_PORTS = re.compile(r"\*|([0-9]{1,5})(?:-([0-9]{1,5}))?")
_NETWORK = re.compile(r"[0-9A-Fa-f.:]+(/[0-9]{1,3})?")
_LOOPBACK = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))

#: What a pattern looks like, for error messages.
PATTERN_FORMS = (
    '"host:port", "*.lan:22", "10.0.0.0/8:22", "[fd00::/8]:22", "*:22", '
    '"host:8000-8100" or "host:*"'
)


@attrs.frozen
class Verdict:
    """Yes, or no and why. True in a condition when it is yes.

    :param allowed: the answer.
    :param reason: one sentence for a person, "" when allowed.
    """

    allowed: bool
    reason: str = ""

    def __bool__(self) -> bool:
        return self.allowed


_YES = Verdict(True)


@attrs.frozen
class TargetPattern:
    """One entry of an allow list.

    :param text: as the operator wrote it.
    :param host: "*", "*.suffix", a name in lower case, or a network (one address is a
        network of one).
    :param low: lowest port.
    :param high: highest port.
    """

    text: str
    host: str | IPNetwork
    low: int
    high: int

    @classmethod
    def parse(cls, text: str) -> TargetPattern:
        """Read ``HOST:PORTS``.

        :raises InvalidName: when it is no pattern; the sentence says what is wrong.
        """
        host, colon, ports = text.rpartition(":")
        if not colon or not host or not ports:
            raise InvalidName(f"{printable(text)!r} is none of {PATTERN_FORMS}")
        try:
            low, high = _parse_ports(ports)
            return cls(text, _parse_pattern_host(host), low, high)
        except InvalidName as error:
            raise InvalidName(f"{printable(text)!r}: {error}") from None

    def has_port(self, port: int) -> bool:
        """Whether ``port`` is one of the pattern's."""
        return self.low <= port <= self.high

    def matches_host(self, host: str | IPAddress) -> bool:
        """Whether the pattern speaks of ``host``, which is not resolved for this.

        :param host: as :func:`rtunnel.trust.hosts.parse_host` gives it.
        """
        if self.host == "*":
            return True
        if isinstance(self.host, str):
            if not isinstance(host, str):
                return False
            if self.host.startswith("*"):
                return host.endswith(self.host[1:])
            return host == self.host
        return not isinstance(host, str) and unmapped(host) in self.host

    def lists(self, special: SpecialRange, address: IPAddress) -> bool:
        """Whether this is an address or network no wider than ``special`` that holds
        ``address``."""
        return (
            not isinstance(self.host, str)
            and address in self.host
            and _is_within(self.host, special.network)
        )


@attrs.frozen
class TargetPatterns:
    """An allow list: whatever no pattern allows is refused."""

    patterns: tuple[TargetPattern, ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> TargetPatterns:
        """Read an allow list.

        :raises InvalidName: for the first text that is no pattern.
        """
        return cls(tuple(TargetPattern.parse(text) for text in texts))

    def __iter__(self) -> Iterator[str]:
        """The patterns as the operator wrote them."""
        return iter([pattern.text for pattern in self.patterns])

    def matches(self, host: str, port: int) -> bool:
        """Whether a pattern covers what was asked for, by its text alone.

        An address is compared as an address, however it is spelled; a name only with
        names and ``*``. Special addresses are not looked at: that is for who dials.

        :param host: name or IP literal as asked for; "" counts as ``localhost``.
        :param port: TCP port.
        :raises InvalidName: when ``host`` is neither.
        """
        parsed = parse_host(host)
        return any(p.matches_host(parsed) for p in self._with_port(port))

    def allows_name(self, host: str, port: int) -> Verdict:
        """Whether ``host`` could be allowed at all, to be asked before resolving it.

        :param host: name or IP literal as asked for; "" counts as ``localhost``. A
            literal gets the final answer.
        :param port: TCP port.
        """
        try:
            parsed = parse_host(host)
        except InvalidName as error:
            return Verdict(False, str(error))
        if not isinstance(parsed, str):
            return self._allows(parsed, parsed, port, pinned=False)
        if any(
            p.matches_host(parsed) or not isinstance(p.host, str)
            for p in self._with_port(port)
        ):
            return _YES
        return _not_listed(parsed, port)

    def allows_address(
        self, host: str, address: str, port: int, pinned: bool = False
    ) -> Verdict:
        """Whether to connect to ``address`` for a client that asked for ``host``.

        :param host: as for :meth:`allows_name`.
        :param address: the IP address that will be connected to.
        :param port: TCP port.
        :param pinned: ``address`` comes from the operator's own resolve table, which
            holds names only; it may then be special, but ``host`` or ``address`` must
            still be listed.
        """
        try:
            parsed = parse_host(host)
            resolved = parse_address(address)
        except InvalidName as error:
            return Verdict(False, str(error))
        if not isinstance(parsed, str) and parsed != resolved:
            return Verdict(False, f"{resolved} is not the {parsed} that was asked for")
        return self._allows(parsed, resolved, port, pinned)

    def _allows(
        self, host: str | IPAddress, address: IPAddress, port: int, pinned: bool
    ) -> Verdict:
        matching = [
            pattern
            for pattern in self._with_port(port)
            if pattern.matches_host(host) or pattern.matches_host(address)
        ]
        if not matching:
            return _not_listed(host, port)
        special = special_range(address)
        if special is None or (pinned and isinstance(host, str)):
            return _YES
        if any(pattern.lists(special, address) for pattern in matching):
            return _YES
        own_host = host == LOCALHOST and any(address in net for net in _LOOPBACK)
        if own_host and any(pattern.host == LOCALHOST for pattern in matching):
            return _YES
        shown = f"{host} is {address}, which" if isinstance(host, str) else str(host)
        return Verdict(
            False,
            f"{shown} is {special.meaning}: a wildcard or a name does not allow it, "
            "it must be listed by address",
        )

    def _with_port(self, port: int) -> Iterator[TargetPattern]:
        return (pattern for pattern in self.patterns if pattern.has_port(port))


def _not_listed(host: str | IPAddress, port: int) -> Verdict:
    shown = f"[{host}]" if ":" in str(host) else host
    return Verdict(False, f"{shown}:{port} is not on the allow list")


def _is_within(inner: IPNetwork, outer: IPNetwork) -> bool:
    if isinstance(inner, IPv4Network):
        return isinstance(outer, IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and inner.subnet_of(outer)


def _parse_ports(text: str) -> tuple[int, int]:
    found = _PORTS.fullmatch(text)
    if found is None:
        raise InvalidName(f"{text!r} is not a port, a range low-high, or '*'")
    if text == "*":
        return 1, 65535
    low = int(found[1])
    high = low if found[2] is None else int(found[2])
    if not 1 <= low <= high <= 65535:
        raise InvalidName(f"{text!r} is not within 1 to 65535, lower port first")
    return low, high


def _parse_pattern_host(text: str) -> str | IPNetwork:
    if text == "*":
        return text
    if text.startswith("*."):
        suffix = parse_host(text[2:])
        if not isinstance(suffix, str) or not text[2:]:
            raise InvalidName("'*.' needs a name after it; write addresses as networks")
        return f"*.{suffix}"
    if text.startswith("[") and text.endswith("]"):
        return _parse_network(text[1:-1], IPv6Network)
    if ":" in text:
        raise InvalidName("an IPv6 address or network needs brackets, as in [::1]:22")
    if "/" in text:
        return _parse_network(text, IPv4Network)
    if "*" in text:
        raise InvalidName("'*' stands for a whole host or for its first labels only")
    host = parse_host(text)
    return host if isinstance(host, str) else ipaddress.ip_network(host)


def _parse_network(
    text: str, family: type[IPv4Network] | type[IPv6Network]
) -> IPNetwork:
    # The pattern keeps out zones, and netmasks in place of a prefix length.
    try:
        if _NETWORK.fullmatch(text) is None:
            raise ValueError
        network = family(text)
    except ValueError:
        kind = "IPv4" if family is IPv4Network else "IPv6"
        raise InvalidName(
            f"{printable(text)!r} is not an {kind} address or network with no bits "
            "set after the prefix"
        ) from None
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is not None and network.prefixlen >= 96:
        return IPv4Network((int(mapped), network.prefixlen - 96))
    return network
