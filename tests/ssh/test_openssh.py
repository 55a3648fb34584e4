"""Our two ends against a real ssh and a real sshd."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import ProcessProtocol, Protocol
from twisted.internet.task import deferLater
from twisted.internet.utils import getProcessOutputAndValue
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from rtunnel.errors import AuthenticationFailed, AuthenticationRefused, OpenRefused
from rtunnel.ssh.channel import Channel
from rtunnel.ssh.connection import Attach, Connection, OpenRequest
from rtunnel.ssh.factory import ClientFactory, ServerFactory
from rtunnel.ssh.limits import DEFAULT_LIMITS, TransportLimits
from rtunnel.ssh.transport import ClientTransport, ServerTransport
from rtunnel.testing import RecordingHandler, RecordingReceiver
from rtunnel.trust.identity import Identity
from rtunnel.wire.algorithms import DEFAULT_ALGORITHMS, Algorithms
from rtunnel.wire.certificate import (
    Certificate,
    CertificateKind,
    parse_public_key,
    sign_certificate,
)
from rtunnel.wire.keys import ECDSA_P256, ED25519, RSA, PrivateKey, PublicKey
from tests.interop.peers import require_peer, require_sshd
from tests.interop.processes import LOOPBACK, environment, free_port
from tests.ssh.listening import listen
from tests.ssh.transports import certified, identity
from tests.wire.examples import private_key

# The module is typed as the module it replaces.
reactor: Any = global_reactor

KEY_TYPES = (ED25519, ECDSA_P256, RSA)

#: What OpenSSH 9.2 does not have.
NOT_IN_OPENSSH = {b"mlkem768x25519-sha256"}


def user_certificate(key: PublicKey, ca: PrivateKey, principal: str) -> Certificate:
    """A user certificate that is valid for long enough."""
    return sign_certificate(
        ca,
        key,
        kind=CertificateKind.USER,
        key_id=principal,
        principals=[principal],
        valid_after=0,
        valid_before=2**40,
        serial=1,
    )


def write_key(path: Path, key: PrivateKey) -> Path:
    """Write a private key and its public half as ssh wants them."""
    path.write_bytes(key.to_openssh())
    path.chmod(0o600)
    path.with_name(path.name + ".pub").write_text(key.public.to_openssh() + "\n")
    return path


def echo(channel: Channel) -> None:
    """Send everything back, and the end of it."""

    class Echo(RecordingReceiver):
        def data_received(self, data: bytes) -> None:
            channel.write(data)

        def eof_received(self) -> None:
            channel.close()

    channel.start(Echo())


class OpenSSHClientTests(TestCase):
    """A stock ``ssh`` against our server."""

    timeout = 60

    async def setUp(self) -> None:  # type: ignore[override]
        """Keys and a directory."""
        self.ssh_path = require_peer("ssh")
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.host_keys = [certified(private_key(kind)) for kind in KEY_TYPES]
        self.only_certificates = False
        self.shown: list[tuple[bytes, bytes]] = []
        self.transports: list[ServerTransport] = []
        self.key = write_key(self.directory / "id", private_key(ED25519))
        self.accepted = {private_key(kind).public.blob for kind in KEY_TYPES}
        hosts = [
            "@cert-authority * " + key.certificate.ca_key.to_openssh()
            for key in self.host_keys
            if key.certificate is not None
        ]
        hosts += ["* " + key.private.public.to_openssh() for key in self.host_keys]
        self.known_hosts = self.directory / "known_hosts"
        self.known_hosts.write_text("\n".join(hosts) + "\n")

    def identify(self, algorithm: bytes, blob: bytes, source: str) -> Identity:
        """Let everybody in, and keep what they showed; or only who has certificates."""
        if self.only_certificates and not algorithm.endswith(b"-cert-v01@openssh.com"):
            raise AuthenticationRefused("no certificate")
        self.shown.append((algorithm, blob))
        return identity()

    def make_handler(self, who: Identity) -> RecordingHandler:
        """Echo to whom asks for the host echo, refuse everything else."""

        async def opener(request: OpenRequest) -> Attach:
            if b"echo" in request.data:
                return echo
            raise OpenRefused(2, "you are logged in")

        return RecordingHandler(opener)

    async def listen(
        self,
        limits: TransportLimits = DEFAULT_LIMITS,
        algorithms: Algorithms = DEFAULT_ALGORITHMS,
    ) -> int:
        """Listen and return the port."""
        factory = ServerFactory(
            clock=reactor,
            host_keys=self.host_keys,
            identify=self.identify,
            make_handler=self.make_handler,
            limits=limits,
            algorithms=algorithms,
        )
        return await listen(self, factory, self.transports)

    async def ssh(
        self,
        port: int,
        *options: str,
        key: Path | None = None,
        target: str = "nowhere:1",
        stdin: bytes = b"",
    ) -> tuple[bytes, str]:
        """Run ``ssh -W`` to its end: its output, and what it complained of."""
        arguments = ["-F", "none", "-p", str(port), "-i", str(key or self.key)]
        for option in (
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "StrictHostKeyChecking=yes",
            f"UserKnownHostsFile={self.known_hosts}",
            "GlobalKnownHostsFile=/dev/null",
            *options,
        ):
            arguments += ["-o", option]
        out, err, code = await getProcessOutputAndValue(
            self.ssh_path,
            [*arguments, "-W", target, f"alice@{LOOPBACK}"],
            env=environment(),
            stdinBytes=stdin,
        )
        return out, err.decode("utf-8", "replace") + f"(exit code {code})"

    async def log_in(self, port: int, *options: str, key: Path | None = None) -> str:
        """Log in, and nothing more."""
        _, errors = await self.ssh(port, *options, key=key)
        self.assertIn("connect failed: you are logged in", errors)
        return errors

    async def test_every_cipher_and_mac(self) -> None:
        """Whichever the client insists on."""
        port = await self.listen()
        for cipher in DEFAULT_ALGORITHMS.ciphers:
            for mac in DEFAULT_ALGORITHMS.macs if cipher.endswith(b"ctr") else [b""]:
                options = [f"Ciphers={cipher.decode()}"]
                if mac:
                    options.append(f"MACs={mac.decode()}")
                await self.log_in(port, *options)
        for transport in self.transports:
            self.assertTrue(transport.exchanges.strict)

    async def test_every_key_exchange(self) -> None:
        """That both have."""
        port = await self.listen()
        for name in DEFAULT_ALGORITHMS.key_exchanges:
            if name not in NOT_IN_OPENSSH:
                await self.log_in(port, f"KexAlgorithms={name.decode()}")

    async def test_every_host_key_algorithm(self) -> None:
        """Plain keys by their line in known_hosts, certificates by their CA's."""
        port = await self.listen()
        for name in DEFAULT_ALGORITHMS.host_keys:
            await self.log_in(port, f"HostKeyAlgorithms={name.decode()}")

    async def test_known_hosts_without_authority(self) -> None:
        """A client that only knows the plain key is not troubled by a certificate."""
        self.known_hosts.write_text(f"* {private_key(ED25519).public.to_openssh()}\n")
        await self.log_in(await self.listen())

    async def test_every_kind_of_user_key_plain_and_certified(self) -> None:
        """As ``id`` and ``id-cert.pub``, which ssh finds by itself."""
        port = await self.listen()
        ca = PrivateKey.generate()
        for kind in KEY_TYPES:
            key = private_key(kind)
            path = write_key(self.directory / kind.decode(), key)
            self.shown.clear()
            await self.log_in(port, key=path)
            self.assertEqual({blob for _, blob in self.shown}, {key.public.blob})
            signed = user_certificate(key.public, ca, "alice")
            path.with_name(path.name + "-cert.pub").write_text(
                signed.to_openssh() + "\n"
            )
            self.shown.clear()
            # ssh shows the plain key first.
            self.only_certificates = True
            await self.log_in(port, key=path)
            self.only_certificates = False
            self.assertEqual({blob for _, blob in self.shown}, {signed.blob})

    async def test_server_sig_algs_are_heeded(self) -> None:
        """A server that takes SHA-256 only gets it."""
        port = await self.listen(algorithms=Algorithms(user_keys=(b"rsa-sha2-256",)))
        path = write_key(self.directory / "rsa", private_key(RSA))
        await self.log_in(port, key=path)
        self.assertEqual({name for name, _ in self.shown}, {b"rsa-sha2-256"})

    async def test_nobody_is_told_permission_denied(self) -> None:
        """In the words that ssh has for it."""
        port = await self.listen(algorithms=Algorithms(user_keys=(b"rsa-sha2-512",)))
        _, errors = await self.ssh(port)
        self.assertIn("Permission denied (publickey)", errors)

    async def test_a_refusal_before_key_exchange_is_shown(self) -> None:
        """Why there is no room is what the user sees."""
        port = await self.listen(TransportLimits(unauthenticated_per_source=1))
        silent = await connectProtocol(
            TCP4ClientEndpoint(reactor, LOOPBACK, port), Protocol()
        )
        self.addCleanup(cast(Any, silent.transport).abortConnection)
        _, errors = await self.ssh(port)
        self.assertIn("too many connections that are not authenticated", errors)

    async def check_echo(
        self,
        limits: TransportLimits,
        *options: str,
        cipher: str = "aes128-gcm@openssh.com",
    ) -> int:
        """Send 12 MiB there and back; how many key exchanges that took."""
        data = os.urandom(2**20) * 12
        # Nothing else to choose: what is asked for is what runs.
        port = await self.listen(limits, Algorithms(ciphers=(cipher.encode(),)))
        out, errors = await self.ssh(
            port,
            *options,
            target="echo:1",
            stdin=data,
        )
        self.assertIn("(exit code 0)", errors)
        self.assertEqual(len(out), len(data))
        self.assertTrue(out == data)
        return self.transports[0].exchanges.completed

    async def test_keys_are_renewed_by_the_client_under_load(self) -> None:
        """``RekeyLimit 1M``, both ways at full speed."""
        count = await self.check_echo(DEFAULT_LIMITS, "RekeyLimit=1M")
        self.assertGreaterEqual(count, 10)

    async def test_keys_are_renewed_by_the_server_under_load(self) -> None:
        """After each megabyte in one direction."""
        count = await self.check_echo(TransportLimits(rekey_bytes=2**20))
        self.assertGreaterEqual(count, 10)

    async def test_keys_are_renewed_by_both_under_load(self) -> None:
        """Each when it thinks it is time, now and then at once."""
        limits = TransportLimits(rekey_bytes=2**20)
        for cipher in ("aes128-gcm@openssh.com", "aes256-ctr"):
            self.transports.clear()
            count = await self.check_echo(limits, "RekeyLimit=1M", cipher=cipher)
            self.assertGreaterEqual(count, 10)


_SSHD_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
{host_keys}
TrustedUserCAKeys {directory}/user_ca.pub
AuthorizedKeysFile {directory}/authorized_keys
PidFile none
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
MaxStartups 100
LogLevel VERBOSE
Banner {directory}/banner
{extra}
"""


class _Sshd(ProcessProtocol):
    """Collects what sshd logs."""

    def __init__(self) -> None:
        self.log = ""
        self.listening: Deferred[None] = Deferred()
        self.ended: Deferred[None] = Deferred()

    def errReceived(self, data: bytes) -> None:
        """One or more lines."""
        self.log += data.decode("utf-8", "replace")
        if "Server listening" in self.log and not self.listening.called:
            self.listening.callback(None)

    def processEnded(self, reason: Failure) -> None:
        """Tell."""
        if not self.listening.called:
            self.listening.errback(AssertionError(f"sshd: {self.log}"))
        self.ended.callback(None)


class OpenSSHServerTests(TestCase):
    """Our client against a stock ``sshd``."""

    timeout = 60

    async def setUp(self) -> None:  # type: ignore[override]
        """Keys, certificates, and an sshd that trusts them."""
        self.sshd_path = require_sshd()
        self.user = "root" if os.geteuid() == 0 else os.environ.get("USER", "nobody")
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.user_ca = PrivateKey.generate()
        (self.directory / "user_ca.pub").write_text(self.user_ca.public.to_openssh())
        (self.directory / "banner").write_text("welcome\n")
        (self.directory / "authorized_keys").write_text(
            "".join(private_key(kind).public.to_openssh() + "\n" for kind in KEY_TYPES)
        )
        self.host_keys = [certified(private_key(kind)) for kind in KEY_TYPES]
        self.asked: list[bytes] = []
        self.sshd = _Sshd()

    async def start(self, extra: str = "") -> int:
        """Start sshd and return its port."""
        lines = []
        for index, host_key in enumerate(self.host_keys):
            path = write_key(self.directory / f"host_key_{index}", host_key.private)
            assert host_key.certificate is not None
            certificate = path.with_name(path.name + "-cert.pub")
            certificate.write_text(host_key.certificate.to_openssh() + "\n")
            lines += [f"HostKey {path}", f"HostCertificate {certificate}"]
        port = free_port()
        config = self.directory / "sshd_config"
        config.write_text(
            _SSHD_CONFIG.format(
                port=port,
                directory=self.directory,
                host_keys="\n".join(lines),
                extra=extra,
            )
        )
        process = reactor.spawnProcess(
            self.sshd,
            self.sshd_path,
            [self.sshd_path, "-D", "-e", "-f", str(config)],
            env=environment(),
        )

        def stop() -> Deferred[None]:
            if process.pid is not None:
                process.signalProcess("TERM")
            return self.sshd.ended

        self.addCleanup(stop)
        await self.sshd.listening
        return port

    def check_host(self, algorithm: bytes, blob: bytes) -> Certificate | PublicKey:
        """Believe the host keys that there are, by their certificates' CAs."""
        self.asked.append(algorithm)
        shown = parse_public_key(algorithm, blob)
        if isinstance(shown, Certificate):
            shown.check(
                kind=CertificateKind.HOST,
                trusted=[
                    key.certificate.ca_key for key in self.host_keys if key.certificate
                ],
                now=1_800_000_000.0,
                principal="example.com",
            )
        return shown

    async def connect(
        self,
        port: int,
        *,
        algorithms: Algorithms = DEFAULT_ALGORITHMS,
        key: PrivateKey | None = None,
        certificate: Certificate | None = None,
        limits: TransportLimits = DEFAULT_LIMITS,
    ) -> Connection:
        """Log in."""
        factory = ClientFactory(
            clock=reactor,
            username=self.user,
            key=key or private_key(ED25519),
            certificate=certificate,
            check_host=self.check_host,
            handler=RecordingHandler(),
            algorithms=algorithms,
            limits=limits,
        )
        endpoint = TCP4ClientEndpoint(reactor, LOOPBACK, port)
        transport = cast(ClientTransport, await endpoint.connect(factory))
        connection = await transport.ready
        self.addCleanup(connection.close)
        return connection

    async def test_every_algorithm(self) -> None:
        """Ciphers, MACs, key exchanges and host keys, whichever we insist on."""
        port = await self.start()
        defaults = DEFAULT_ALGORITHMS
        for algorithms in (
            *(Algorithms(ciphers=(name,)) for name in defaults.ciphers),
            *(
                Algorithms(ciphers=(b"aes128-ctr",), macs=(name,))
                for name in defaults.macs
            ),
            *(
                Algorithms(key_exchanges=(name,))
                for name in defaults.key_exchanges
                if name not in NOT_IN_OPENSSH
            ),
            *(Algorithms(host_keys=(name,)) for name in defaults.host_keys),
        ):
            connection = await self.connect(port, algorithms=algorithms)
            transport = cast(ClientTransport, connection.transport)
            self.assertTrue(transport.exchanges.strict)
            connection.close()
        self.assertEqual(
            self.asked[-len(DEFAULT_ALGORITHMS.host_keys) :],
            list(DEFAULT_ALGORITHMS.host_keys),
        )

    async def test_the_host_certificate_is_asked_for_first(self) -> None:
        """And is what the connection then knows its peer by."""
        connection = await self.connect(await self.start())
        transport = cast(ClientTransport, connection.transport)
        self.assertEqual(self.asked, [b"ssh-ed25519-cert-v01@openssh.com"])
        assert transport.host_certificate is not None
        self.assertEqual(transport.host_certificate.principals, ("example.com",))

    async def test_every_kind_of_user_key_plain_and_certified(self) -> None:
        """sshd says which it was."""
        port = await self.start()
        for kind in KEY_TYPES:
            await self.connect(port, key=private_key(kind))
            stranger = private_key(kind, "stranger")
            signed = user_certificate(stranger.public, self.user_ca, self.user)
            await self.connect(port, key=stranger, certificate=signed)
        await self.logged("Accepted publickey", 6)
        await self.logged("Accepted certificate ID", 3)

    async def logged(self, words: str, count: int) -> None:
        """Wait until sshd's log, which comes through a pipe, has it so many times."""
        while self.sshd.log.count(words) < count:
            await deferLater(global_reactor, 0.02, lambda: None)
        self.assertEqual(self.sshd.log.count(words), count)

    async def test_a_stranger_is_refused(self) -> None:
        """And hears what the server takes."""
        port = await self.start()
        with self.assertRaisesRegex(AuthenticationFailed, "publickey"):
            await self.connect(port, key=PrivateKey.generate())

    async def test_keys_are_renewed_by_both(self) -> None:
        """By sshd after 1 MiB, by us after as much, with data both ways."""
        port = await self.start("RekeyLimit 1M")
        limits = TransportLimits(rekey_bytes=2**20)
        connection = await self.connect(port, limits=limits)
        transport = cast(ClientTransport, connection.transport)
        channel = await connection.open_channel(b"session")
        receiver = RecordingReceiver()
        channel.start(receiver)
        await channel.send_request(b"exec", b"\0\0\0\x03cat")
        data = os.urandom(2**20) * 6
        for index in range(0, len(data), 2**15):
            channel.write(data[index : index + 2**15])
        channel.write_eof()
        closed: Deferred[None] = Deferred()
        receiver.closed = lambda reason: closed.callback(None)  # type: ignore[method-assign]
        await closed
        self.assertTrue(bytes(receiver.data) == data)
        self.assertGreaterEqual(transport.exchanges.completed, 5)
