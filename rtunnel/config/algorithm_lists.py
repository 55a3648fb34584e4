"""The lists of algorithms that ``[ssh]`` of both config files may hold."""

import difflib
from collections.abc import Callable, Collection
from typing import Annotated

import attrs

from rtunnel.config.checks import Check, text_check
from rtunnel.errors import InvalidName
from rtunnel.wire.algorithms import (
    AGENT_HOST_KEY_ALGORITHMS,
    CIPHERS,
    DEFAULT_ALGORITHMS,
    HOST_KEY_ALGORITHMS,
    MACS,
    USER_KEY_ALGORITHMS,
    Algorithms,
)
from rtunnel.wire.key_exchange import KEY_EXCHANGES


def _one_of(known: Collection[bytes]) -> Check:
    """A check for the name of an algorithm that there is."""
    names = [name.decode("ascii") for name in known]
    return text_check(f"one of {', '.join(names)}", _reader(names))


def _reader(names: Collection[str]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in names:
            close = difflib.get_close_matches(text, names, n=1)
            raise InvalidName(f"did you mean {close[0]}?" if close else "")
        return text

    return read


CipherName = Annotated[str, _one_of(CIPHERS)]
MacName = Annotated[str, _one_of(MACS)]
KeyExchangeName = Annotated[str, _one_of(KEY_EXCHANGES)]
HostKeyAlgorithm = Annotated[str, _one_of(HOST_KEY_ALGORITHMS)]
UserKeyAlgorithm = Annotated[str, _one_of(USER_KEY_ALGORITHMS)]


@attrs.frozen
class AlgorithmLists:
    """What SSH connections may use, best first; an empty list stands for the default.

    :param ciphers: of :data:`~rtunnel.wire.algorithms.CIPHERS`.
    :param macs: beside a cipher that needs one.
    :param key_exchanges: of :data:`~rtunnel.wire.key_exchange.KEY_EXCHANGES`.
    :param host_key_algorithms: what proxies prove themselves with.
    :param user_key_algorithms: what people and agents log in with.
    """

    ciphers: tuple[CipherName, ...] = ()
    macs: tuple[MacName, ...] = ()
    key_exchanges: tuple[KeyExchangeName, ...] = ()
    host_key_algorithms: tuple[HostKeyAlgorithm, ...] = ()
    user_key_algorithms: tuple[UserKeyAlgorithm, ...] = ()

    @property
    def algorithms(self) -> Algorithms:
        """As the SSH layer takes them."""
        default = self._defaults()
        return Algorithms(
            key_exchanges=_encoded(self.key_exchanges) or default.key_exchanges,
            host_keys=_encoded(self.host_key_algorithms) or default.host_keys,
            user_keys=_encoded(self.user_key_algorithms) or default.user_keys,
            ciphers=_encoded(self.ciphers) or default.ciphers,
            macs=_encoded(self.macs) or default.macs,
        )

    def _defaults(self) -> Algorithms:
        """What empty lists stand for."""
        return DEFAULT_ALGORITHMS


@attrs.frozen
class AgentSshConfig(AlgorithmLists):
    """``[ssh]`` of an agent: its connections to proxies."""

    def _defaults(self) -> Algorithms:
        return Algorithms(host_keys=AGENT_HOST_KEY_ALGORITHMS)


def _encoded(names: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(name.encode("ascii") for name in names)


def _listed(names: Collection[bytes]) -> str:
    return b", ".join(names).decode("ascii")


#: What is written beside the keys.
PROXY_ALGORITHM_COMMENTS = {
    "ssh.ciphers": f"best first; default: {_listed(DEFAULT_ALGORITHMS.ciphers)}; "
    "chacha20-poly1305@openssh.com only if it is listed",
    "ssh.macs": f"beside aes*-ctr; default: {_listed(DEFAULT_ALGORITHMS.macs)}",
    "ssh.key_exchanges": f"default: {_listed(DEFAULT_ALGORITHMS.key_exchanges)}",
    "ssh.host_key_algorithms": "of proxies; default: certificates, then plain keys, of "
    "ssh-ed25519, ecdsa-sha2-nistp256, rsa-sha2-512, rsa-sha2-256",
    "ssh.user_key_algorithms": "to log in with; default: the same, and FIDO keys (sk-)",
}

#: The same for agents.
AGENT_ALGORITHM_COMMENTS = PROXY_ALGORITHM_COMMENTS | {
    "ssh.host_key_algorithms": "of proxies; default: certificates, then plain keys, of "
    "ssh-ed25519, rsa-sha2-512, rsa-sha2-256; ecdsa-sha2-nistp256 only if it is listed",
    "ssh.user_key_algorithms": "to log in with; default: whatever the agent's key is",
}
