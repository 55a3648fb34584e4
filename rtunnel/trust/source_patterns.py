"""The ``from=`` option of authorized_keys.

Source: sshd(8), "AUTHORIZED_KEYS FILE FORMAT", and ssh_config(5), "PATTERNS". rtunnel
asks no DNS about clients, so only addresses can be named.
"""

from __future__ import annotations

import re

import attrs

from rtunnel.naming import printable
from rtunnel.wire.source_address import Address, Network, in_networks, parse_network

_ADDRESS_CHARACTERS = re.compile(r"[0-9A-Fa-f:.*?]+")


@attrs.frozen
class SourcePattern:
    """One pattern of the list: a network, or wildcards over an address as text.

    :param negated: ``!`` stood in front of it.
    """

    negated: bool
    network: Network | None
    wildcard: re.Pattern[str] | None

    @classmethod
    def parse(cls, text: str) -> SourcePattern:
        """Read an address, a network, or an address with ``*`` and ``?``.

        :raises ValueError: when it is none of these; a host name is none.
        """
        negated = text.startswith("!")
        bare = text[1:] if negated else text
        if "*" not in bare and "?" not in bare:
            try:
                return cls(negated, parse_network(bare), None)
            except ValueError:
                pass
        elif _ADDRESS_CHARACTERS.fullmatch(bare):
            # Runs of stars mean one; compiled as they are they would match slowly.
            expression = re.escape(re.sub(r"\*+", "*", bare.lower()))
            expression = expression.replace(r"\*", ".*").replace(r"\?", ".")
            return cls(negated, None, re.compile(expression))
        raise ValueError(
            f"{printable(bare)!r} is not an address, network or pattern of addresses"
        )

    def matches(self, address: Address) -> bool:
        """Whether the pattern, without its negation, speaks of the address."""
        if self.network is not None:
            return in_networks(address, (self.network,))
        return (
            self.wildcard is not None
            and self.wildcard.fullmatch(str(address)) is not None
        )


@attrs.frozen
class SourcePatterns:
    """A list of patterns: one has to match, and no negated one may."""

    patterns: tuple[SourcePattern, ...]

    @classmethod
    def parse(cls, text: str) -> SourcePatterns:
        """Read comma-separated patterns.

        :raises ValueError: when one cannot be honoured; an empty one never can.
        """
        return cls(tuple(SourcePattern.parse(part) for part in text.split(",")))

    def match(self, address: Address) -> bool:
        """Whether a connection from the address is let in."""
        matching = [p for p in self.patterns if p.matches(address)]
        return bool(matching) and not any(p.negated for p in matching)
