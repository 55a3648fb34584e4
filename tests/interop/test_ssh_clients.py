"""SSH clients of other makes: a connection through proxy and tunnel, 20 MB each way.

What they send is sent back by the target, so it crosses everything twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import threading
import uuid
from pathlib import Path
from typing import Any

from tests.interop.deployment import USER
from tests.interop.peers import require_module, require_peer
from tests.interop.processes import LOOPBACK, environment, run
from tests.interop.sharing import DeploymentTestCase
from tests.interop.sshd import make_key
from tests.interop.test_algorithms import EVERYTHING, known_hosts_lines

#: Bytes that go there and come back.
SIZE = 20_000_000

#: Seconds for all of it.
TIMEOUT = 60.0

_BLOCK = 65536


class SshClientTests(DeploymentTestCase):
    """Each logs in at the proxy and asks for a host behind the agent."""

    layout = EVERYTHING

    def setUp(self) -> None:
        """Where to go, and what to send."""
        require_peer("ssh")
        self.echo = self.deployment.target("echo")
        self.data = os.urandom(SIZE)
        self.proxy = self.deployment.proxies[0]
        #: A person's key and certificate.
        self.key = self.deployment.directory / USER / "id"
        self.certificate = self.key.with_name("id-cert.pub")
        self.directory = self.deployment.directory / f"client-{uuid.uuid4().hex[:8]}"
        self.directory.mkdir()

    def check(self, received: bytes | bytearray) -> None:
        """What came back is what was sent."""
        self.assertEqual(
            (len(received), hashlib.sha256(received).hexdigest()),
            (len(self.data), hashlib.sha256(self.data).hexdigest()),
        )

    def run_client(self, *command: str | Path) -> None:
        """Run a program that joins the connection to its input and output."""
        done = subprocess.run(
            list(map(str, command)),
            input=self.data,
            capture_output=True,
            timeout=TIMEOUT,
            env=environment() | {"HOME": str(self.directory)},
            cwd=self.directory,
        )
        self.assertEqual(done.returncode, 0, done.stderr.decode(errors="replace"))
        self.check(done.stdout)

    def test_putty_plink(self) -> None:
        """With a user certificate, and the host key by its fingerprint."""
        plink, puttygen = require_peer("plink"), require_peer("puttygen")
        keygen = require_peer("ssh-keygen")
        converted = self.directory / "id.ppk"
        run([puttygen, self.key, "-O", "private", "-o", converted])
        public = self.proxy.state / "host_key.pub"
        fingerprint = run([keygen, "-l", "-f", public]).stdout.split()[1]
        self.run_client(
            *(plink, "-batch", "-noagent", "-hostkey", fingerprint),
            *("-i", converted, "-cert", self.certificate, "-P", str(self.proxy.port)),
            *("-nc", f"web1.b:{self.echo}", f"anybody@{LOOPBACK}"),
        )

    def test_dropbear_dbclient(self) -> None:
        """With a plain key; its AEAD is ChaCha20, which it wants the proxy to have."""
        dbclient, convert = require_peer("dbclient"), require_peer("dropbearconvert")
        key = self.directory / "id"
        kind, blob, *_ = make_key(key).split()
        with (self.proxy.state / "authorized_keys").open("a") as file:
            file.write(f"{kind} {blob} ops\n")
        converted = self.directory / "id.dropbear"
        run([convert, "openssh", "dropbear", key, converted])
        # It would look for the host key in the user's own files, whatever HOME says.
        # And it looks whether a channel is left before it closes one, not after: when
        # CLOSE came while its standard output was full, it sleeps until something else
        # wakes it, here a keepalive. Without -K it stays for ever, at sshd as well.
        self.run_client(
            *(dbclient, "-y", "-y", "-i", converted, "-p", str(self.proxy.port)),
            *("-W", "1000000", "-K", "1"),
            *("-B", f"web1.b:{self.echo}", f"anybody@{LOOPBACK}"),
        )

    def test_paramiko(self) -> None:
        """With a user certificate, over a channel that it opens itself."""
        paramiko = require_module("paramiko")
        key = paramiko.Ed25519Key.from_private_key_file(str(self.key))
        key.load_certificate(str(self.certificate))
        transport = paramiko.Transport((LOOPBACK, self.proxy.port))
        self.addCleanup(transport.close)
        transport.start_client(timeout=TIMEOUT)
        shown = transport.get_remote_server_key()
        host_key = (self.proxy.state / "host_key.pub").read_text().split()[1]
        self.assertEqual(shown.get_base64(), host_key)
        transport.auth_publickey("anybody", key)
        channel = transport.open_channel(
            "direct-tcpip", ("web1.b", self.echo), (LOOPBACK, 1), timeout=TIMEOUT
        )
        channel.settimeout(TIMEOUT)

        def send() -> None:
            channel.sendall(self.data)
            channel.shutdown_write()

        sending = threading.Thread(target=send, daemon=True)
        sending.start()
        received = bytearray()
        while block := channel.recv(_BLOCK):
            received += block
        sending.join(TIMEOUT)
        self.check(received)

    def test_asyncssh(self) -> None:
        """With certificates on both sides and the hybrid key exchange."""
        asyncssh = require_module("asyncssh")
        known_hosts = self.directory / "known_hosts"
        known_hosts.write_text(known_hosts_lines(self.proxy.state))
        received = asyncio.run(
            asyncio.wait_for(self.through_asyncssh(asyncssh, known_hosts), TIMEOUT)
        )
        self.check(received)

    async def through_asyncssh(self, asyncssh: Any, known_hosts: Path) -> bytes:
        """Send the data and return what comes back."""
        async with asyncssh.connect(
            LOOPBACK,
            self.proxy.port,
            username="anybody",
            config=None,
            client_keys=[(str(self.key), str(self.certificate))],
            known_hosts=str(known_hosts),
            kex_algs=["mlkem768x25519-sha256"],
            server_host_key_algs=["ssh-ed25519-cert-v01@openssh.com"],
        ) as connection:
            reader, writer = await connection.open_connection("web1.b", self.echo)

            async def send() -> None:
                for start in range(0, SIZE, _BLOCK):
                    writer.write(self.data[start : start + _BLOCK])
                    await writer.drain()
                writer.write_eof()

            sending = asyncio.create_task(send())
            received: bytes = await reader.read()
            await sending
            return received
