"""``rtunnel revoke`` at the admin socket."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet import reactor

from rtunnel.admin_client import ask
from rtunnel.audit.events import Event, RevocationRemoved, Revoked
from rtunnel.proxy.host_revoking import HostRevoking
from rtunnel.proxy.revoking import Revoking
from rtunnel.registry.memory import MemoryRegistry
from rtunnel.state_directory import write_public
from rtunnel.trust.revocation import Revocation, RevocationKind
from rtunnel.web.admin import listen_admin
from rtunnel.web.revocations import PATH, revocation_routes
from rtunnel.wire.keys import PrivateKey
from tests.web.test_admin import AdminCase

ALICE = Revocation.make(
    RevocationKind.USER, "alice", reason="laptop lost", created=1_800_000_000
)


class RevocationRouteTests(AdminCase):
    """Questions as the command asks them."""

    def setUp(self) -> None:
        super().setUp()
        self.events: list[Event] = []
        registry = MemoryRegistry(reactor)
        directory = Path(self.mktemp())
        directory.mkdir()
        ca = PrivateKey.generate().public
        write_public(directory / "host_ca.pub", ca.to_openssh() + "\n")
        hosts = HostRevoking(registry, directory, lambda: 0.0)
        port = listen_admin(
            reactor,
            self.path,
            status=dict,
            drain=self.drain,
            more=revocation_routes(Revoking(registry, self.events.append, "p", hosts)),
        )
        self.addCleanup(port.stopListening)

    async def call(
        self, method: str, body: Mapping[str, object] | None = None
    ) -> dict[str, Any]:
        """The answer."""
        return await self.ask(lambda path: ask(path, method, PATH, body))

    async def test_revoked_listed_and_taken_back(self) -> None:
        """Each change is audited, with what and why."""
        self.assertEqual(await self.call("GET"), {"revocations": []})
        document = {"id": ALICE.id, **json.loads(ALICE.to_json())}
        added = await self.call("POST", json.loads(ALICE.to_json()))
        self.assertEqual(added, document | {"agents_not_told": None})
        self.assertEqual(await self.call("GET"), {"revocations": [document]})
        self.assertEqual(await self.call("DELETE", {"id": ALICE.id}), document)
        self.assertEqual(await self.call("GET"), {"revocations": []})
        target, reason = "user:alice", "laptop lost"
        self.assertEqual(
            self.events,
            [
                Revoked(proxy="p", target=target, reason=reason),
                RevocationRemoved(proxy="p", target=target, reason=reason),
            ],
        )

    async def test_nonsense_is_refused(self) -> None:
        """With a sentence, and without an audit line."""
        for method, body, reason in (
            ("POST", {}, "not a revocation"),
            ("POST", {**json.loads(ALICE.to_json()), "value": "%h"}, "user name"),
            ("DELETE", {}, "the id of a revocation is missing"),
            ("DELETE", {"id": "0"}, "0 is not the id of a revocation"),
            ("DELETE", {"id": ["x"]}, "is not the id of a revocation"),
        ):
            refusal = await self.refusal(
                lambda path, method=method, body=body: ask(path, method, PATH, body)  # type: ignore[misc]
            )
            self.assertIn(reason, refusal)
        self.assertEqual(self.events, [])
