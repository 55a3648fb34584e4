"""Who may reach what: the ``[[allow]]`` rules of a proxy.

Pure. No rule, no access; rules only ever add. The host is what the client asked for,
as text: the agent's own allow list has the last word on what it resolves to.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from typing import Protocol

import attrs

from rtunnel.errors import InvalidName
from rtunnel.naming import printable
from rtunnel.trust.targets import TargetPatterns
from rtunnel.trust.times import TimesOfWeek

_USER_PATTERN = re.compile(r"[A-Za-z0-9._@+*-]{1,128}")
_CLUSTER_PATTERN = re.compile(r"[a-z0-9*-]{1,63}")


class Person(Protocol):
    """What a rule looks at in a user's identity."""

    @property
    def name(self) -> str:
        """For the log and for the refusal."""

    @property
    def principals(self) -> Sequence[str]:
        """What ``users`` in a rule is compared with; the name is among them."""


def check_user_pattern(text: str) -> str:
    """Return ``text`` if it can stand in ``users``: a name, ``*`` for any characters.

    :raises InvalidName: when it cannot.
    """
    if _USER_PATTERN.fullmatch(text) is None:
        raise InvalidName(
            f"{printable(text)!r} is not a user name or pattern: 1 to 128 of letters, "
            "digits, '._@+-' and '*'"
        )
    return text


def check_cluster_pattern(text: str) -> str:
    """Return ``text`` if it can stand in ``clusters``: ``*`` for any characters.

    :raises InvalidName: when it cannot.
    """
    if _CLUSTER_PATTERN.fullmatch(text) is None:
        raise InvalidName(
            f"{printable(text)!r} is not a cluster name or pattern: 1 to 63 of a-z, "
            "0-9, '-' and '*'"
        )
    return text


@attrs.frozen
class AllowRule:
    """One ``[[allow]]`` table: these users may reach these targets in these clusters.

    :param users: principals, with ``*`` for any characters.
    :param clusters: cluster names, with ``*`` for any characters.
    :param targets: see :mod:`rtunnel.trust.targets`.
    :param times: when, see :mod:`rtunnel.trust.times`; none means always.
    """

    users: tuple[str, ...]
    clusters: tuple[str, ...]
    targets: TargetPatterns
    times: tuple[TimesOfWeek, ...] = ()

    @classmethod
    def parse(
        cls,
        users: Iterable[str],
        clusters: Iterable[str],
        targets: Iterable[str],
        times: Iterable[str] = (),
    ) -> AllowRule:
        """A rule from the texts of the config file.

        :raises InvalidName: for the first text that is no pattern.
        """
        return cls(
            tuple(check_user_pattern(user) for user in users),
            tuple(check_cluster_pattern(cluster) for cluster in clusters),
            TargetPatterns.parse(targets),
            tuple(map(TimesOfWeek.parse, times)),
        )

    def covers_user(self, user: Person) -> bool:
        """Whether the rule speaks of ``user``."""
        return any(_any_matches(self.users, name) for name in user.principals)

    def covers_cluster(self, cluster: str) -> bool:
        """Whether the rule speaks of ``cluster``."""
        return _any_matches(self.clusters, cluster)

    def holds(self, now: float) -> bool:
        """Whether the rule says anything at this time.

        :param now: POSIX time.
        """
        return not self.times or any(times.holds(now) for times in self.times)


@attrs.frozen
class Allow:
    """Access granted.

    :param rule: index of the first rule that grants it, for the log.
    """

    rule: int


@attrs.frozen
class Deny:
    """Access refused.

    :param reason: one sentence, fit to be shown to the user.
    :param other_times: whether a rule grants it at other times.
    """

    reason: str
    other_times: bool = False


@attrs.frozen
class Policy:
    """All rules of a proxy, in the order of the file."""

    rules: tuple[AllowRule, ...] = ()

    @property
    def is_timed(self) -> bool:
        """Whether an answer may change with time alone."""
        return any(rule.times for rule in self.rules)

    def decide(
        self, user: Person, cluster: str, host: str, port: int, now: float
    ) -> Allow | Deny:
        """May ``user`` open a connection to this target?

        :param user: an identity that authentication has proven.
        :param cluster: cluster name in lower case.
        :param host: name or IP literal as asked for; "" counts as ``localhost``.
        :param port: TCP port.
        :param now: POSIX time.
        """
        other_times = False
        try:
            for index, rule in enumerate(self.rules):
                if (
                    rule.covers_user(user)
                    and rule.covers_cluster(cluster)
                    and rule.targets.matches(host, port)
                ):
                    if rule.holds(now):
                        return Allow(index)
                    other_times = True
        except InvalidName as error:
            return Deny(str(error))
        target = f"{printable(host)}.{cluster}" if host else cluster
        return Deny(
            f"no rule of this proxy lets {printable(user.name)} reach {target}:{port}"
            + (" at this time" if other_times else ""),
            other_times,
        )

    def reaches_cluster(self, user: Person, cluster: str) -> bool:
        """Whether ``user`` may ever reach anything in ``cluster``, for lists of them.

        :param user: an identity that authentication has proven.
        :param cluster: cluster name in lower case.
        """
        return any(
            rule.targets.patterns
            and rule.covers_user(user)
            and rule.covers_cluster(cluster)
            for rule in self.rules
        )


def _any_matches(patterns: Iterable[str], name: str) -> bool:
    # The patterns' characters leave fnmatch nothing but "*" to interpret.
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
