"""Agents with a state directory, and proxies that answer what they ask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from rtunnel.agent.service import AgentService
from rtunnel.config import AgentConfig
from rtunnel.discovery.messages import Message
from rtunnel.discovery.trust_messages import Renew, Renewed
from rtunnel.state_directory import (
    AGENT_KEY,
    load_certificate,
    load_private_key,
    load_trust_anchors,
    write_key_pair,
    write_public,
)
from rtunnel.trust.authority import CertificateAuthority
from rtunnel.trust_files import load_revoked_hosts
from rtunnel.wire.certificate import Certificate
from tests.agent.proxies import INSTANCE, NOW, AgentTestCase, FakeProxy, Side


class TrustTestCase(AgentTestCase):
    """An agent with a state directory, and proxies that answer as the test says."""

    def setUp(self) -> None:
        """Write the files."""
        super().setUp()
        self.state = Path(self.mktemp())
        self.state.mkdir()
        self.path = self.state / AGENT_KEY
        own = self.credentials
        write_key_pair(self.path, own.key, "agent")
        self.write_certificate(own.certificate)
        self.anchors = self.state / "host_ca.pub"
        write_public(self.anchors, self.host_ca.public.to_openssh() + "\n")
        #: What comes of a request; None leaves it without an answer.
        self.answer: Callable[[Renew], Message | None] = self.renewed

    def write_certificate(self, certificate: Certificate) -> None:
        """Put it beside the key."""
        path = self.path.with_name("agent_key-cert.pub")
        write_public(path, certificate.to_openssh() + "\n", force=True)

    def load(self, config: AgentConfig, now: float) -> Any:
        """Read the files."""
        self.loads += 1
        return attrs.evolve(
            self.credentials,
            key=load_private_key(self.path),
            certificate=self.stored,
            host_cas=load_trust_anchors(self.anchors),
            revoked=load_revoked_hosts(self.state, load_trust_anchors(self.anchors)),
        )

    @property
    def stored(self) -> Certificate:
        """The certificate in the directory."""
        return load_certificate(self.path.with_name("agent_key-cert.pub"))

    def start(self, *proxies: FakeProxy, **changes: Any) -> AgentService:
        """The agent."""
        for proxy in proxies:
            proxy.on_message = self.message_received
        return self.start_agent(
            *(proxy.address for proxy in proxies),
            state=self.state,
            chance=lambda: 0.5,
            **changes,
        )

    def message_received(self, side: Side, message: Message) -> bool:
        """What the proxy makes of it."""
        if not isinstance(message, Renew):
            return True
        answer = self.answer(message)
        if answer is not None:
            side.send(answer)
        return True

    def renewed(
        self, asked: Renew, authority: CertificateAuthority | None = None
    ) -> Renewed:
        """As a proxy that can sign does it."""
        asked.request.check(NOW)
        return Renewed(
            (authority or self.agent_ca).sign_agent(
                asked.request.key, cluster="b", instance=INSTANCE, validity=3600
            )
        )

    def asked(self, *proxies: FakeProxy) -> list[Renew]:
        """Requests that came."""
        return [
            message
            for proxy in proxies
            for side in proxy.sides
            for message in side.received
            if isinstance(message, Renew)
        ]
