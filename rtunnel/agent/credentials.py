"""What this agent is and which proxies it trusts, at this moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rtunnel.certified_key import finish_replacing
from rtunnel.config import AgentConfig, check_usable
from rtunnel.errors import ConfigError, KeyFileError
from rtunnel.state_directory import (
    AGENT_KEY,
    AgentCredentials,
    discard_unfinished,
    load_agent_credentials,
)
from rtunnel.trust_files import load_revoked_hosts
from rtunnel.wire.algorithms import HOST_KEY_ALGORITHMS
from rtunnel.wire.certificate import CERTIFICATE_ALGORITHMS, Certificate

#: Seconds after which the files are read again for the next dial.
CREDENTIALS_AGE: Final = 10.0


class LiveCredentials:
    """The present credentials of an agent; each dial asks for them.

    :param load: reads and checks the state directory.
    :param clock: how old they are.
    :raises KeyFileError: when a file there cannot be used.
    :raises ConfigError: when the algorithms listed leave no way to use them.
    """

    _log = Logger()

    def __init__(
        self, load: Callable[[], AgentCredentials], clock: IReactorTime
    ) -> None:
        self._load = load
        self._clock = clock
        self._loaded_at = clock.seconds()
        self._present = load()
        self._changed: Callable[[], None] = lambda: None

    @property
    def present(self) -> AgentCredentials:
        """As they were read last; do not keep them."""
        return self._present

    def reload(self) -> AgentCredentials:
        """Read the files again.

        :raises KeyFileError: when one cannot be used; nothing changes then.
        :raises ConfigError: likewise.
        """
        self._loaded_at = self._clock.seconds()
        before, self._present = self._present, self._load()
        if self._present != before:
            self._changed()
        return self._present

    def when_changed(self, callback: Callable[[], None]) -> None:
        """Be told when the files held something else; from the middle of whatever had
        them read."""
        self._changed = callback

    def fresh(self) -> AgentCredentials:
        """For a dial, and now and then: what was renewed in its file counts without a
        restart."""
        if self._clock.seconds() - self._loaded_at >= CREDENTIALS_AGE:
            try:
                self.reload()
            except (ConfigError, KeyFileError) as error:
                self._log.error(
                    "{reason}; going on with what was read before", reason=str(error)
                )
        return self._present


def load_credentials(config: AgentConfig, now: float) -> AgentCredentials:
    """Read the state directory, and put away what a crash has left there.

    :param now: seconds since the epoch.
    :raises KeyFileError: when a file there cannot be used.
    :raises ConfigError: when the algorithms listed leave no way to use them.
    """
    discard_unfinished(config.state)
    finish_replacing(config.state / AGENT_KEY)
    credentials = load_agent_credentials(config.state, config.cluster, now)
    check_certificate_usable(config, credentials.certificate)
    revoked = load_revoked_hosts(config.state, credentials.host_cas)
    return attrs.evolve(credentials, revoked=revoked)


def check_certificate_usable(config: AgentConfig, certificate: Certificate) -> None:
    """Check that the algorithms listed leave a way to log in with a certificate.

    :raises ConfigError: when they do not.
    """
    check_usable(
        config.path,
        config.ssh,
        host=[name for name in HOST_KEY_ALGORITHMS if name in CERTIFICATE_ALGORITHMS],
        user=certificate.signature_algorithms,
    )
