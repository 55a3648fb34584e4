"""A real HAProxy says whom connections are from, and the proxy goes by that."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from typing import ClassVar

from tests.interop.deployment import USER, Layout
from tests.interop.peers import require_peer
from tests.interop.processes import LOOPBACK, run, wait_until
from tests.interop.programs import Proxy
from tests.interop.sharing import DeploymentTestCase
from tests.interop.sshd import make_key

#: Somebody, somebody else, and a stranger: all of 127.0.0.0/8 is this machine.
ALICE, BOB, STRANGER = "127.0.0.9", "127.0.0.10", "127.0.0.11"


def _layout(send_proxy: str) -> Layout:
    return Layout(
        proxies=1,
        send_proxy=send_proxy,
        proxy_settings=(
            f'ssh.proxy_protocol_from=["{LOOPBACK}"]',
            # Everybody comes from this machine here.
            "limits.penalties_exempt=[]",
        ),
    )


class HeaderVersion1Tests(DeploymentTestCase):
    """``send-proxy``: a line of text."""

    layout: ClassVar[Layout] = _layout("send-proxy")

    @property
    def proxy(self) -> Proxy:
        """The only one."""
        return self.deployment.proxies[0]

    def ssh(
        self, source: str, *arguments: str, host: str = "lb"
    ) -> subprocess.CompletedProcess[bytes]:
        """``ssh lb`` from an address."""
        return self.deployment.ssh.run("ssh", "-b", source, *arguments, host, "ls")

    def test_real_source_is_audited(self) -> None:
        """The person's address, not the balancer's, in logins and in connections."""
        done = self.ssh(ALICE)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(b"online", done.stdout)
        logins = [
            event["source"]
            for event in self.proxy.audit()
            if event["event"] == "login_accepted" and event["user"] == USER
        ]
        self.assertEqual(logins[-1], ALICE)

    def test_connections_through_the_balancer_work_as_ever(self) -> None:
        """The tunnel of the agent is up, through the balancer as well."""
        self.assertEqual(
            self.deployment.ssh.output("web1.b", "echo", "hello"), "hello\n"
        )

    def test_certificates_for_one_address_are_for_that_address(self) -> None:
        """``source-address`` is held against the real source."""
        person = self.person("bound")
        run(
            [
                *(require_peer("ssh-keygen"), "-q"),
                *("-s", self.proxy.state / "user_ca", "-I", "bound"),
                *("-n", "bound,ops", "-V", "-5m:+1h"),
                *("-O", f"source-address={BOB}", person / "id.pub"),
            ]
        )
        ssh = self.deployment.client(person, person / "id-cert.pub")
        refused = ssh.run("ssh", "-b", ALICE, "lb", "ls")
        self.assertIn(b"Permission denied", refused.stderr)
        accepted = ssh.run("ssh", "-b", BOB, "lb", "ls")
        self.assertEqual(accepted.returncode, 0, accepted.stderr)

    def test_penalties_are_for_the_real_source(self) -> None:
        """Three refused logins, and the stranger is out; nobody else is."""
        stranger = self.deployment.client(self.person("stranger"), None)

        def answer() -> bytes:
            return stranger.run("ssh", "-b", STRANGER, "lb", "ls").stderr

        for _ in range(3):
            self.assertIn(b"Permission denied", answer())
        # A connection counts when it is gone, a moment after ssh is.
        wait_until(
            lambda: b"came to nothing" in answer(), 5, "the stranger to be refused"
        )
        self.assertEqual(self.ssh(ALICE).returncode, 0)

    def person(self, name: str) -> Path:
        """The directory of somebody with a key."""
        directory = self.deployment.directory / name
        if not directory.exists():
            directory.mkdir()
            make_key(directory / "id")
        return directory

    def test_a_balancer_that_does_not_say_is_sent_away(self) -> None:
        """From its address a header is a must, and ssh alone sends none."""
        done = self.ssh(LOOPBACK, host=self.proxy.name)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(b"no PROXY header", done.stderr)

    def test_others_need_no_header_and_may_send_none(self) -> None:
        """What they say of themselves is not believed."""
        done = self.ssh(BOB, host=self.proxy.name)
        self.assertEqual(done.returncode, 0, done.stderr)
        with socket.create_connection(
            (LOOPBACK, self.proxy.port), 5, source_address=(BOB, 0)
        ) as liar:
            liar.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nSSH-2.0-x\r\n")
            heard = b""
            while data := liar.recv(4096):
                heard += data
        self.assertIn(b"not listed in ssh.proxy_protocol_from", heard)


class HeaderVersion2Tests(HeaderVersion1Tests):
    """``send-proxy-v2``: a binary header."""

    layout: ClassVar[Layout] = _layout("send-proxy-v2")
