"""The paths of ``rtunnel ca`` on the admin socket."""

from __future__ import annotations

from typing import Any

from rtunnel.admin_client import AUTHORITIES_PATH
from rtunnel.errors import RotationRefused
from rtunnel.web.rotation import rotation_routes
from rtunnel.web.server import Response, WithBody
from tests.proxy.running import ProxyTestCase


class RotationRoutesTests(ProxyTestCase):
    """At a proxy that holds the authorities."""

    async def ask(self, method: str, **body: object) -> Response:
        """One request."""
        handler = rotation_routes(self.proxy.rotation)[AUTHORITIES_PATH][method]
        assert isinstance(handler, WithBody)
        return await handler.answer(body)

    async def test_the_status_has_every_authority(self) -> None:
        """Before any rotation, too."""
        body: Any = (await self.ask("GET")).body
        self.assertEqual(set(body["authorities"]), {"host", "agent", "user"})
        host = body["authorities"]["host"]
        self.assertEqual((host["phase"], host["generation"]), ("steady", 0))
        self.assertEqual(host["trusted"], [host["signs"]])
        self.assertTrue(host["can_sign_here"])

    async def test_a_step_is_taken_and_one_back(self) -> None:
        """The answer says from where to where."""
        body: Any = (await self.ask("POST", role="user")).body
        self.assertEqual(body["before"], "steady")
        self.assertEqual(body["authority"]["phase"], "trusted")
        body = (await self.ask("POST", role="user", back=True)).body
        self.assertEqual(
            (body["before"], body["authority"]["phase"]), ("trusted", "steady")
        )

    async def test_what_is_no_step_is_refused(self) -> None:
        """With a sentence that names what there is."""
        for body, said in (
            ({}, "host, agent, user"),
            ({"role": ["host"]}, "host, agent, user"),
            ({"role": "guest"}, "host, agent, user"),
            ({"role": "host", "to": "done"}, "retired"),
            ({"role": "host", "to": "retired"}, "not one step"),
            ({"role": "host", "back": True}, "nothing to roll back"),
        ):
            with self.assertRaisesRegex(RotationRefused, said):
                await self.ask("POST", **body)
        self.assertFalse((self.state / "host_ca.next").exists())

    async def test_who_is_connected_is_not_forgotten(self) -> None:
        """The proxy itself, least of all; nor who is not known."""
        for body, said in (
            ({}, "the id of a proxy or an agent that a rotation waits for is"),
            ({"id": "x"}, "x is not the id of a proxy or an agent"),
            ({"id": self.proxy.parts.credentials.proxy_id}, "is connected"),
        ):
            with self.assertRaisesRegex(RotationRefused, said):
                await self.ask("DELETE", **body)
