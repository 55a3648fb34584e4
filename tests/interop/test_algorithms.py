"""Every algorithm on our lists, with the real OpenSSH at the other end.

The tables are our lists: what is added to them is tried here.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.trial.unittest import TestCase

from rtunnel.ssh.factory import ClientFactory
from rtunnel.ssh.transport import ClientTransport
from rtunnel.testing import RecordingHandler, RecordingReceiver
from rtunnel.wire.algorithms import (
    CIPHERS,
    HOST_KEY_ALGORITHMS,
    MACS,
    USER_KEY_ALGORITHMS,
    Algorithms,
    signature_algorithm,
)
from rtunnel.wire.certificate import CERTIFICATE_ALGORITHMS, Certificate
from rtunnel.wire.data_types import string
from rtunnel.wire.key_exchange import KEY_EXCHANGES
from rtunnel.wire.keys import PrivateKey, PublicKey
from tests.interop.deployment import Layout
from tests.interop.openssh import OpenSSH
from tests.interop.peers import require_peer
from tests.interop.processes import LOOPBACK, run
from tests.interop.sharing import DeploymentTestCase
from tests.interop.ssh_agent import SecurityKeyAgent
from tests.interop.sshd import Sshd, make_key
from tests.wire.examples import SecurityKey

# The module is typed as the module it replaces.
reactor: Any = global_reactor

#: With more than one ssh at a time the table is done sooner.
AT_ONCE = 4

#: What OpenSSH calls the keys that sign with each of our algorithms.
KEY_TYPES = {
    b"ssh-ed25519": "ed25519",
    b"ecdsa-sha2-nistp256": "ecdsa",
    b"rsa-sha2-512": "rsa",
    b"rsa-sha2-256": "rsa",
}

#: 20 MB, no multiple of any block or packet.
DATA = os.urandom(20_000_003)

#: Cipher and, where it needs one, MAC.
PROTECTIONS = [
    (cipher, mac)
    for cipher, algorithm in CIPHERS.items()
    for mac in (MACS if algorithm.needs_mac else [b""])
]

#: One proxy that takes whatever there is.
EVERYTHING = Layout(
    proxies=1,
    proxy_settings=(f"ssh.ciphers={json.dumps([name.decode() for name in CIPHERS])}",),
)


def digest(data: bytes | bytearray) -> tuple[int, str]:
    """What two equal strings have in common, short enough for a failure."""
    return len(data), hashlib.sha256(data).hexdigest()


#: What has to come back.
EXPECTED = digest(DATA)


def key_type_of(algorithm: bytes) -> str | None:
    """The key type for ``ssh-keygen``; None for those that need a security key."""
    return KEY_TYPES.get(signature_algorithm(algorithm))


def accepting(name: bytes) -> str:
    """The option that leaves ssh no other user key algorithm.

    It signs for a certificate with the key, so that has to be accepted too.
    """
    names = dict.fromkeys([name, signature_algorithm(name)])
    return f"PubkeyAcceptedAlgorithms={b','.join(names).decode()}"


def known_to(ssh: str | Path, names: Iterable[bytes], query: str) -> list[bytes]:
    """Those of ``names`` that an OpenSSH has."""
    known = run([ssh, "-Q", query]).stdout.encode().split()
    return [name for name in names if name in known]


def sign(key: Path, ca: Path, *words: str, principals: str) -> None:
    """Certify a key for an hour with ``ssh-keygen -s``.

    :param words: further options.
    """
    command = [require_peer("ssh-keygen"), "-q", "-s", str(ca), "-V", "-5m:+1h"]
    run([*command, "-n", principals, *words, f"{key}.pub"])


def known_hosts_lines(state: Path) -> str:
    """What believes a proxy's host key, plain or certified."""
    host_key = (state / "host_key.pub").read_text()
    host_ca = (state / "host_ca.pub").read_text()
    return f"* {host_key}@cert-authority * {host_ca}"


class OpenSSHClientTests(DeploymentTestCase):
    """Stock ``ssh`` at our proxy."""

    layout = EVERYTHING

    def setUp(self) -> None:
        """Where data is sent back from."""
        require_peer("ssh")
        self.echo = self.deployment.target("echo")

    def programs(self) -> Path | None:
        """The directory of ``ssh``; None is the system's."""
        return None

    @property
    def ssh(self) -> OpenSSH:
        """As the person of the deployment."""
        return self.deployment.ssh.of(self.programs())

    def each(
        self, table: Iterable[tuple[bytes, ...]], attempt: Callable[..., str]
    ) -> None:
        """Make every attempt, and fail with what each complained of.

        :param attempt: gives "" when all is well.
        """
        rows = list(table)
        self.assertTrue(rows)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            complaints = list(pool.map(lambda row: attempt(*row), rows))
        self.assertEqual(
            [], [pair for pair in zip(rows, complaints, strict=True) if pair[1]]
        )

    def moves_data(self, ssh: OpenSSH, *options: str) -> str:
        """Log in with some options, and move data there and back; what went wrong."""
        words = [word for option in options for word in ("-o", option)]
        done = ssh.run(
            *("ssh", *words, "-W", f"web1.b:{self.echo}", "proxy-1"),
            data=DATA,
            timeout=60,
        )
        if (done.returncode, digest(done.stdout)) == (0, EXPECTED):
            return ""
        came = f"exit code {done.returncode}, {len(done.stdout)} bytes came back"
        return f"{came}: {done.stderr.decode(errors='replace')}"

    def test_every_cipher_and_mac_carries_data_through_the_tunnel(self) -> None:
        """To a target and back, the end of it too."""

        def attempt(cipher: bytes, mac: bytes) -> str:
            options = [f"Ciphers={cipher.decode()}"]
            if mac:
                options.append(f"MACs={mac.decode()}")
            return self.moves_data(self.ssh, *options)

        self.each(PROTECTIONS, attempt)

    def test_every_key_exchange(self) -> None:
        """That this OpenSSH has; the hybrid one came with 9.9."""
        names = known_to(self.ssh.command("ssh")[0], KEY_EXCHANGES, "kex")
        self.assertIn(b"curve25519-sha256", names)
        self.each(
            [(name,) for name in names],
            lambda name: self.moves_data(self.ssh, f"KexAlgorithms={name.decode()}"),
        )

    def test_the_host_key_that_rtunnel_makes_plain_and_certified(self) -> None:
        """The other kinds are below, each in a proxy of its own."""
        state = self.deployment.proxies[0].state
        known_hosts = self.directory() / "known_hosts"
        known_hosts.write_text(known_hosts_lines(state))
        self.each(
            [(name,) for name in HOST_KEY_ALGORITHMS if key_type_of(name) == "ed25519"],
            lambda name: self.moves_data(
                self.ssh,
                f"UserKnownHostsFile={known_hosts}",
                f"HostKeyAlgorithms={name.decode()}",
            ),
        )

    def person(self, key: PublicKey, name: bytes, directory: Path) -> OpenSSH:
        """Let somebody in by a certificate for a key, or by the key; never by both.

        :param name: the user key algorithm that is to be used.
        :param directory: holds ``id.pub``.
        """
        state = self.deployment.proxies[0].state
        if name not in CERTIFICATE_ALGORITHMS:
            with (state / "authorized_keys").open("a") as file:
                file.write(key.to_openssh("ops") + "\n")
            return self.deployment.client(directory, None).of(self.programs())
        sign(directory / "id", state / "user_ca", "-I", "ops", principals="ops")
        certificate = directory / "id-cert.pub"
        return self.deployment.client(directory, certificate).of(self.programs())

    def directory(self) -> Path:
        """A new directory for one person's files."""
        path = self.deployment.directory / f"person-{uuid.uuid4().hex[:8]}"
        path.mkdir()
        return path

    def test_every_kind_of_user_key_plain_and_certified(self) -> None:
        """RSA with either hash, as the client chooses."""

        def attempt(name: bytes) -> str:
            key_type = key_type_of(name)
            assert key_type is not None
            directory = self.directory()
            key, _ = PublicKey.from_openssh(make_key(directory / "id", key_type))
            return self.moves_data(self.person(key, name, directory), accepting(name))

        self.each(
            [(name,) for name in USER_KEY_ALGORITHMS if key_type_of(name)], attempt
        )

    def test_security_keys_plain_and_certified(self) -> None:
        """Touched they let their owner in, untouched they do not."""
        names = [name for name in USER_KEY_ALGORITHMS if not key_type_of(name)]
        self.assertEqual(len(names), 4)

        def attempt(name: bytes) -> str:
            key = SecurityKey(signature_algorithm(name))
            directory = self.directory()
            (directory / "id.pub").write_text(key.public.to_openssh() + "\n")
            ssh = self.person(key.public, name, directory)
            complaints = []
            for flags in (1, 0):
                agent = SecurityKeyAgent(directory / f"agent-{flags}", key, flags)
                self.addCleanup(agent.close)
                complaints.append(
                    self.moves_data(ssh, f"IdentityAgent={agent.path}", accepting(name))
                )
            touched, untouched = complaints
            if "Permission denied (publickey)" in untouched:
                return touched
            return f"untouched: {untouched}"

        self.each([(name,) for name in names], attempt)


class OurClientTests(TestCase):
    """Our client, as agents and proxies use it, at a real ``sshd``.

    Unlike the rest of this package it has a reactor: the client is what is tested.
    """

    timeout = 120

    def programs(self) -> Path | None:
        """The directory of ``sshd``; None is the system's."""
        return None

    def setUp(self) -> None:
        """An sshd with keys and certificates of every kind."""
        directory = tempfile.TemporaryDirectory(prefix="rtunnel-")
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        require_peer("sshd")
        for name in ("host_ca", "user_ca"):
            make_key(self.directory / name)
        lines = [f"TrustedUserCAKeys {self.directory}/user_ca.pub"]
        for key_type in sorted(set(KEY_TYPES.values())):
            host = self.make_certified(f"host_{key_type}", key_type, "host_ca", "-h")
            lines += [f"HostKey {host}", f"HostCertificate {host}-cert.pub"]
        person = self.directory / "person"
        self.sshd = Sshd(
            self.directory / "sshd",
            make_key(person),
            settings=lines,
            programs=self.programs(),
        )
        self.addCleanup(self.sshd.process.kill)
        self.key = PrivateKey.from_openssh(person.read_bytes())

    def make_certified(
        self, name: str, key_type: str, ca: str, *words: str, principal: str = "host"
    ) -> Path:
        """Make a key and a certificate for it."""
        path = self.directory / name
        make_key(path, key_type)
        sign(path, self.directory / ca, "-I", name, *words, principals=principal)
        return path

    async def attempt(
        self,
        algorithms: Algorithms,
        key: PrivateKey | None = None,
        certificate: Certificate | None = None,
    ) -> tuple[bytes, tuple[int, str]]:
        """Log in and have ``cat`` send all data back.

        :return: the host key algorithm in use, and the digest of what came back.
        """
        shown: list[bytes] = []

        def check_host(algorithm: bytes, blob: bytes) -> Certificate:
            shown.append(algorithm)
            return cast(Certificate, None)

        factory = ClientFactory(
            clock=reactor,
            username=self.sshd.user,
            key=key or self.key,
            certificate=certificate,
            check_host=check_host,
            handler=RecordingHandler(),
            algorithms=algorithms,
        )
        endpoint = TCP4ClientEndpoint(reactor, LOOPBACK, self.sshd.port)
        transport = cast(ClientTransport, await endpoint.connect(factory))
        connection = await transport.ready
        self.assertTrue(transport.exchanges.strict)
        channel = await connection.open_channel(b"session")
        ended: Deferred[None] = Deferred()

        class Receiver(RecordingReceiver):
            def closed(self, reason: str | None) -> None:
                ended.callback(None)

        receiver = Receiver()
        channel.start(receiver)
        await channel.send_request(b"exec", string(b"cat"))
        channel.write(DATA)
        channel.write_eof()
        await ended
        connection.close()
        return shown[0], digest(receiver.data)

    async def test_every_cipher_and_mac(self) -> None:
        """Both ways."""
        for cipher, mac in PROTECTIONS:
            algorithms = Algorithms(ciphers=(cipher,), macs=(mac or next(iter(MACS)),))
            _, found = await self.attempt(algorithms)
            self.assertEqual(found, EXPECTED, (cipher, mac))

    async def test_every_key_exchange_and_host_key(self) -> None:
        """That this sshd has."""
        programs = self.programs()
        ssh = require_peer("ssh") if programs is None else programs / "ssh"
        for name in known_to(ssh, KEY_EXCHANGES, "kex"):
            _, found = await self.attempt(Algorithms(key_exchanges=(name,)))
            self.assertEqual(found, EXPECTED, name)
        for name in HOST_KEY_ALGORITHMS:
            shown, found = await self.attempt(Algorithms(host_keys=(name,)))
            self.assertEqual((shown, found), (name, EXPECTED))

    async def test_every_kind_of_user_key_plain_and_certified(self) -> None:
        """What an agent may have."""
        for key_type in sorted(set(KEY_TYPES.values())):
            path = self.make_certified(
                f"user_{key_type}", key_type, "user_ca", principal=self.sshd.user
            )
            key = PrivateKey.from_openssh(path.read_bytes())
            self.sshd.authorize(key.public.to_openssh())
            line = Path(f"{path}-cert.pub").read_text()
            certificate, _ = Certificate.from_openssh(line)
            for name in USER_KEY_ALGORITHMS:
                if key_type_of(name) == key_type:
                    _, found = await self.attempt(
                        Algorithms(user_keys=(name,)),
                        key,
                        certificate if name in CERTIFICATE_ALGORITHMS else None,
                    )
                    self.assertEqual(found, EXPECTED, name)
