"""``ssh`` learns of further host keys, and is left alone where certificates do."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import ClassVar

from twisted.trial.unittest import SynchronousTestCase

from tests.interop.deployment import Layout
from tests.interop.peers import require_peer
from tests.interop.processes import (
    LOOPBACK,
    Process,
    environment,
    free_port,
    wait_until,
)
from tests.interop.sharing import DeploymentTestCase
from tests.interop.sshd import make_key

#: A server with the host keys that it is given, which lets one key in.
SERVER = """
import sys
from pathlib import Path
from twisted.internet import reactor
from rtunnel.ssh.factory import ServerFactory
from rtunnel.ssh.host_key import HostKey
from rtunnel.testing import AcceptingHandler
from rtunnel.trust.identity import UserIdentity
from rtunnel.wire.keys import PrivateKey
keys = [HostKey(PrivateKey.from_openssh(Path(p).read_bytes())) for p in sys.argv[2:]]
alice = UserIdentity("alice", ("alice",), "alice", "", "", None, None)
factory = ServerFactory(
    clock=reactor,
    host_keys=keys,
    identify=lambda algorithm, blob, source: alice,
    make_handler=lambda who: AcceptingHandler(),
)
reactor.listenTCP(int(sys.argv[1]), factory, interface="127.0.0.1")
reactor.run()
"""


class SeveralHostKeysTests(SynchronousTestCase):
    """Plain keys, of which the client knows the first."""

    def setUp(self) -> None:
        """Three host keys, and a person."""
        self.directory = Path(tempfile.mkdtemp(prefix="rtunnel-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.keys = []
        for kind in ("ed25519", "ecdsa", "rsa"):
            path = self.directory / kind
            keygen = require_peer("ssh-keygen")
            subprocess.run(
                [keygen, "-q", "-t", kind, "-N", "", "-C", "", "-f", path], check=True
            )
            self.keys.append(path)
        make_key(self.directory / "id")
        self.known_hosts = self.directory / "known_hosts"

    def learned(
        self, server_keys: list[Path], known: list[Path], *options: str
    ) -> set[str]:
        """The keys in known_hosts once ssh has changed it, or 10 s have passed.

        :param known: the keys that are there before.
        """
        port = free_port()
        server = Process(
            "server",
            [sys.executable, "-c", SERVER, str(port), *server_keys],
            self.directory,
        )
        self.addCleanup(server.kill)
        server.wait_for_port(port)
        lines = [f"[{LOOPBACK}]:{port} {self.public(key)}\n" for key in known]
        self.known_hosts.write_text("".join(lines))
        ssh = subprocess.Popen(
            [
                *(require_peer("ssh"), "-F", "none", "-N", "-p", str(port)),
                *("-i", self.directory / "id", "-o", "IdentitiesOnly=yes"),
                *("-o", "IdentityAgent=none", "-o", "BatchMode=yes"),
                *("-o", f"UserKnownHostsFile={self.known_hosts}"),
                *("-o", "UpdateHostKeys=yes", "-o", "StrictHostKeyChecking=yes"),
                *(*options, f"alice@{LOOPBACK}"),
            ],
            env=environment() | {"HOME": str(self.directory)},
        )
        self.addCleanup(ssh.wait)
        self.addCleanup(ssh.kill)
        before = self.known()
        with contextlib.suppress(AssertionError):
            wait_until(lambda: self.known() != before, 10, "known_hosts to change")
        return self.known()

    def public(self, path: Path) -> str:
        """Type and key, as in known_hosts."""
        return " ".join(path.with_name(path.name + ".pub").read_text().split()[:2])

    def known(self) -> set[str]:
        """The keys in known_hosts."""
        lines = self.known_hosts.read_text().splitlines()
        return {line.split(" ", 1)[1] for line in lines}

    def test_ssh_learns_every_key_that_is_proven(self) -> None:
        """Of each kind, RSA as well."""
        learned = self.learned(self.keys, self.keys[:1])
        self.assertEqual(learned, set(map(self.public, self.keys)))

    def test_ssh_learns_them_when_rsa_was_in_the_key_exchange(self) -> None:
        """With SHA-256, by which the proof has to be signed then, too."""
        self.keys.reverse()
        order = "HostKeyAlgorithms=rsa-sha2-256,ssh-ed25519,ecdsa-sha2-nistp256"
        learned = self.learned(self.keys, self.keys[:1], "-o", order)
        self.assertEqual(learned, set(map(self.public, self.keys)))

    def test_ssh_forgets_a_key_that_is_gone(self) -> None:
        """And learns the one that has come."""
        kept, new, gone = self.keys
        learned = self.learned([kept, new], [kept, gone])
        self.assertEqual(learned, set(map(self.public, [kept, new])))


class CertificateTests(DeploymentTestCase):
    """A proxy as it is set up: one key, with its certificate."""

    layout: ClassVar[Layout] = Layout(proxies=1)

    def test_ssh_has_nothing_to_say_about_it(self) -> None:
        """No warning, and known_hosts stays as it was, to the byte."""
        deployment = self.deployment
        known_hosts = deployment.ssh.directory / "known_hosts"
        before = known_hosts.read_bytes()
        done = deployment.ssh.run(
            *("ssh", "-o", "UpdateHostKeys=yes", "-o", "LogLevel=VERBOSE"),
            *(deployment.proxies[0].name, "ls"),
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(known_hosts.read_bytes(), before)
        for word in (b"arning", b"hostkeys", b"pdate"):
            self.assertNotIn(word, done.stderr)
