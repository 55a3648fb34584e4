"""A certificate with any byte of it changed, shown to sshd and to our proxy.

Both are asked whether the certificate would do (RFC 4252 section 7), which takes no
signature, many times on one connection.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import attrs
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.state_directory import load_private_key
from rtunnel.wire.certificate import MAX_CERTIFICATE_LENGTH
from rtunnel.wire.data_types import boolean, string
from rtunnel.wire.keys import ED25519
from rtunnel.wire.numbers import (
    MSG_SERVICE_ACCEPT,
    MSG_SERVICE_REQUEST,
    MSG_USERAUTH_FAILURE,
    MSG_USERAUTH_PK_OK,
    MSG_USERAUTH_REQUEST,
)
from tests.interop.processes import LOOPBACK
from tests.interop.programs import Proxy, rtunnel_here, settings
from tests.interop.socket_client import SocketClient
from tests.interop.sshd import Sshd
from tests.wire.examples import RawCertificate, option, private_key

ALGORITHM = b"ssh-ed25519-cert-v01@openssh.com"

#: Certificates to ask about on one connection to our proxy.
ATTEMPTS = 5


class TamperingTests(SynchronousTestCase):
    """Both servers trust the same authority, and let alice in with it."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="rtunnel-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.proxy = Proxy("proxy-1", self.directory, LOOPBACK)
        rtunnel_here(
            *("init", "--state", self.proxy.state, "--cluster", "a"),
            *("--public", f"{LOOPBACK}:{self.proxy.port}"),
            *settings(self.proxy.settings(advertise=False)),
        )
        ca = load_private_key(self.proxy.state / "user_ca")
        line = f'cert-authority,principals="alice" {ca.public.to_openssh()}'
        # As many questions as we have.
        patience = ("MaxAuthTries 100000", "LoginGraceTime 600")
        self.sshd = Sshd(self.directory / "sshd", line, settings=patience)
        self.addCleanup(self.sshd.process.kill)
        self.proxy.start()
        self.addCleanup(lambda: self.proxy.process.kill())
        self.proxy.wait_ready()
        now = int(time.time())
        self.certificate = RawCertificate(
            valid_after=now - 60,
            valid_before=now + 3600,
            extensions=option("permit-port-forwarding"),
            ca_blob=ca.public.blob,
            sign=ca.sign,
        )
        self.key = private_key(ED25519)
        self._sshd_client: SocketClient | None = None
        self._our_client: SocketClient | None = None
        self._asked = 0
        self._count = 0

    def client(self, port: int) -> SocketClient:
        """A connection on which can be asked."""
        # Each from somewhere else, or they would wait for one another.
        self._count += 1
        source = f"127.3.{self._count // 250}.{self._count % 250 + 1}"
        client = SocketClient(port, self.key, source=source)
        client.server_version = None
        self.addCleanup(client.close)
        client.connect()
        client.send(MSG_SERVICE_REQUEST, string(b"ssh-userauth"))
        client.take(MSG_SERVICE_ACCEPT)
        return client

    def ask(self, client: SocketClient, username: str, blob: bytes) -> bool:
        """Whether the server would take that certificate."""
        fields = (username.encode(), b"ssh-connection", b"publickey")
        client.send(
            MSG_USERAUTH_REQUEST,
            b"".join(map(string, fields))
            + boolean(False)
            + string(ALGORITHM)
            + string(blob),
        )

        def verdict() -> bool | None:
            if client.taken(MSG_USERAUTH_PK_OK) is not None:
                return True
            return None if client.taken(MSG_USERAUTH_FAILURE) is None else False

        answer = client.wait_for(verdict, "an answer to a certificate")
        assert isinstance(answer, bool)
        return answer

    def sshd_takes(self, blob: bytes) -> bool:
        """sshd's verdict."""
        if self._sshd_client is None:
            self._sshd_client = self.client(self.sshd.port)
        return self.ask(self._sshd_client, self.sshd.user, blob)

    def we_take(self, blob: bytes) -> bool:
        """Our proxy's verdict."""
        if self._our_client is None or self._asked == ATTEMPTS:
            if self._our_client is not None:
                self._our_client.close()
            self._our_client = self.client(self.proxy.port)
            self._asked = 0
        self._asked += 1
        return self.ask(self._our_client, "whoever", blob)

    def test_every_byte_counts(self) -> None:
        """One bit at a time, at every offset; the untouched one is good for both."""
        blob = self.certificate.blob()
        self.assertTrue(self.we_take(blob))
        self.assertTrue(self.sshd_takes(blob))
        taken = []
        for offset in range(len(blob)):
            spoilt = bytearray(blob)
            spoilt[offset] ^= 1 << offset % 8
            if self.we_take(bytes(spoilt)):
                taken.append(("ours", offset))
            if self.sshd_takes(bytes(spoilt)):
                taken.append(("sshd", offset))
        self.assertEqual(taken, [])
        self.assertTrue(self.we_take(blob))
        self.assertTrue(self.sshd_takes(blob))

    def test_what_is_cut_off_or_added(self) -> None:
        """At every tenth length, and with something behind it."""
        blob = self.certificate.blob()
        for spoilt in (
            *(blob[:length] for length in range(0, len(blob), 10)),
            blob[:-1],
            blob + b"\0",
            blob + blob,
        ):
            self.assertFalse(self.we_take(spoilt), len(spoilt))
            self.assertFalse(self.sshd_takes(spoilt), len(spoilt))

    def test_sizes(self) -> None:
        """We hang up on one of 64 KiB; sshd goes by the length of a packet only."""
        for size, ours in ((60_000, True), (MAX_CERTIFICATE_LENGTH, False)):
            blob = self.padded(size)
            self.assertEqual(len(blob), size)
            if ours:
                self.assertTrue(self.we_take(blob))
            else:
                self.assertRaises(AssertionError, self.we_take, blob)
                assert self._our_client is not None
                self.assertTrue(self._our_client.is_closed)
            self.assertTrue(self.sshd_takes(blob), size)

    def padded(self, size: int) -> bytes:
        """A certificate of so many bytes, with an extension that nobody knows."""

        def blob(length: int) -> bytes:
            pad = string(b"pad@example.com") + string(bytes(length))
            known = option("permit-port-forwarding")
            return attrs.evolve(self.certificate, extensions=pad + known).blob()

        return blob(size - len(blob(0)))
