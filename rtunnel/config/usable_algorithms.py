"""Whether lists of algorithms leave a way to log in, found out before anybody tries."""

from collections.abc import Collection
from pathlib import Path

from rtunnel.config.algorithm_lists import AlgorithmLists
from rtunnel.config.structuring import describe_problem
from rtunnel.errors import ConfigError


def check_usable(
    source: Path,
    lists: AlgorithmLists,
    *,
    host: Collection[bytes],
    user: Collection[bytes],
) -> None:
    """Refuse lists under which no tunnel could ever come up.

    :param source: the config file.
    :param host: host key algorithms, one of which is needed.
    :param user: user key algorithms, likewise.
    :raises ConfigError: naming the keys, and what each needs.
    """
    algorithms = lists.algorithms
    problems = [
        describe_problem(
            source,
            key,
            b", ".join(listed).decode("ascii"),
            f"one of {b', '.join(needed).decode('ascii')} among them",
            "tunnels need a certificate of a kind that is listed",
        )
        for key, listed, needed in (
            ("ssh.host_key_algorithms", algorithms.host_keys, host),
            ("ssh.user_key_algorithms", algorithms.user_keys, user),
        )
        if not set(listed) & set(needed)
    ]
    if problems:
        raise ConfigError(problems)
