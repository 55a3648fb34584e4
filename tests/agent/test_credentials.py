"""An agent's credentials while it runs."""

from __future__ import annotations

import attrs
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.agent.credentials import CREDENTIALS_AGE, LiveCredentials
from rtunnel.errors import KeyFileError
from rtunnel.state_directory import AgentCredentials
from rtunnel.trust.authority import CertificateAuthority
from rtunnel.wire.keys import PrivateKey

INSTANCE = "0b0e0ad2-5a4c-4d4e-9d5c-0f6a3c1c7d11"


class LiveCredentialsTests(SynchronousTestCase):
    """What a dial gets."""

    def setUp(self) -> None:
        key, self.ca = PrivateKey.generate(), PrivateKey.generate()
        authority = CertificateAuthority(self.ca, now=lambda: 1e9)
        certificate = authority.sign_agent(
            key.public, cluster="b", instance=INSTANCE, validity=60
        )
        self.stored = AgentCredentials(key, certificate, (self.ca.public,))
        self.problem: KeyFileError | None = None
        self.clock = Clock()
        self.live = LiveCredentials(self.load, self.clock)

    def load(self) -> AgentCredentials:
        """Read the state directory."""
        if self.problem is not None:
            raise self.problem
        return self.stored

    def test_files_are_read_again_after_a_while(self) -> None:
        """So a certificate that was renewed by hand counts without a restart."""
        before = self.live.fresh()
        self.stored = attrs.evolve(self.stored, host_cas=())
        self.assertEqual(self.live.fresh(), before)
        self.clock.advance(CREDENTIALS_AGE)
        self.assertEqual(self.live.fresh(), self.stored)
        self.assertEqual(self.live.present, self.stored)

    def test_files_that_cannot_be_read_change_nothing_for_a_dial(self) -> None:
        """It goes on with what was read before, and says so once for each age."""
        self.problem = KeyFileError("agent_key: gone")
        self.clock.advance(CREDENTIALS_AGE)
        with capturedLogs() as logs:
            self.assertEqual(self.live.fresh(), self.stored)
            self.assertEqual(self.live.fresh(), self.stored)
        self.assertEqual([each["log_level"] for each in logs], [LogLevel.error])
        self.assertIn("gone", logs[0]["reason"])

    def test_a_reload_says_what_is_wrong(self) -> None:
        """To whoever asked for it, and keeps what there was."""
        self.problem = KeyFileError("agent_key: gone")
        with self.assertRaisesRegex(KeyFileError, "gone"):
            self.live.reload()
        self.assertEqual(self.live.present, self.stored)
