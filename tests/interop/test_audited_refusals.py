"""Strangers from many addresses, and what is left of them in the audit file."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

from rtunnel.wire.keys import PrivateKey
from rtunnel.wire.numbers import MSG_USERAUTH_FAILURE, MSG_USERAUTH_REQUEST
from tests.interop.deployment import Layout
from tests.interop.processes import run
from tests.interop.programs import rtunnel
from tests.interop.sharing import DeploymentTestCase
from tests.interop.socket_client import SocketClient
from tests.interop.strangers import addresses

SOURCES = 60


class AuditedRefusalsTests(DeploymentTestCase):
    """One line a second, five at once."""

    layout: ClassVar[Layout] = Layout(
        proxies=1,
        proxy_settings=(
            "audit.refused_logins_per_second=1",
            "audit.refused_logins_burst=5",
            # All of 127.0.0.0/8 is this machine.
            "limits.penalties_exempt=[]",
        ),
    )

    def refuse(self, port: int, key: PrivateKey, source: str) -> None:
        """A login by a key that nobody knows."""
        client = SocketClient(port, key, source=source)
        try:
            client.start_userauth()
            client.send(MSG_USERAUTH_REQUEST, client.auth_request())
            client.take(MSG_USERAUTH_FAILURE)
        finally:
            client.close()

    def test_a_storm_from_many_addresses_is_counted_and_hides_nobody(self) -> None:
        """What a person does meanwhile has all its lines, and the chain holds."""
        deployment = self.deploy(self.layout)
        deployment.wait_tunnels()
        (proxy,) = deployment.proxies
        key = PrivateKey.generate()
        connections = 3
        sources = addresses(SOURCES, block=77)
        for number, source in enumerate(sources):
            self.refuse(proxy.port, key, source)
            if number % (SOURCES // connections) == SOURCES // connections - 1:
                said = deployment.ssh.output("web1.b", "echo", "hello")
                self.assertEqual(said, "hello\n")
        left_out = proxy.status()["audit"]["left_out"]
        self.assertEqual(proxy.process.stop(), 0)

        events = proxy.audit()
        counts = Counter(str(event["event"]) for event in events)
        written = counts["login_refused"]
        self.assertEqual(written + left_out, SOURCES)
        self.assertGreaterEqual(written, 5)
        told = [e for e in events if e["event"] == "audit_left_out"]
        self.assertEqual(
            sum(int(str(each["reason"]).split()[0]) for each in told), left_out
        )
        people = Counter(
            str(event["event"]) for event in events if event["user"] == "alice"
        )
        for name in ("login_accepted", "connection_opened", "connection_closed"):
            self.assertEqual(people[name], connections, name)
        verified = run(rtunnel("audit", "verify", "--state", proxy.state)).stdout
        self.assertIn("OK: ", verified)
        self.assertIn("login_refused since ", verified)
