"""Whatever text a peer sends a proxy, each line of log and audit stays one line.

Real programs with both log formats, and peers that are ours to misbehave. The limits on
lines of strangers are wide enough for all that is sent here.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import attrs
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.errors import ProtocolError
from rtunnel.state_directory import load_certificate, load_private_key
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.data_types import boolean, string, uint32
from rtunnel.wire.keys import PrivateKey
from rtunnel.wire.numbers import (
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_OPEN_FAILURE,
    MSG_CHANNEL_REQUEST,
    MSG_DEBUG,
    MSG_DISCONNECT,
    MSG_GLOBAL_REQUEST,
    MSG_KEXINIT,
    MSG_USERAUTH_REQUEST,
)
from tests.interop import targets
from tests.interop.processes import LOOPBACK, Process, free_port, wait_until
from tests.interop.programs import Agent, Proxy, rtunnel_here, settings
from tests.interop.socket_client import SocketClient
from tests.interop.sshd import make_key
from tests.interop.strangers import addresses
from tests.interop.unbroken import NASTY, check_audit, check_log
from tests.wire.examples import RawCertificate


def disconnect(text: bytes) -> bytes:
    """The payload of a DISCONNECT."""
    return uint32(11) + string(text) + string(b"")


class ProxyTextLogTests(SynchronousTestCase):
    """A proxy, clients and agents that are strangers or have logged in."""

    log_format: ClassVar[str] = "text"

    def setUp(self) -> None:
        directory = Path(tempfile.mkdtemp(prefix="rtunnel-"))
        self.addCleanup(shutil.rmtree, directory)
        self.directory = directory
        self.proxy = Proxy("proxy-1", directory, LOOPBACK)
        rtunnel_here(
            *("init", "--state", self.proxy.state, "--cluster", "a"),
            *("--public", f"{LOOPBACK}:{self.proxy.port}"),
            # All that strangers say is to be there.
            *settings(["audit.refused_logins_burst=10000"]),
            *settings(self.proxy.settings(advertise=False)),
        )
        self.proxy.options = (
            *("--log-format", self.log_format, "--log-level", "debug"),
        )
        self.echo = free_port()
        echo = Process(
            "echo",
            [sys.executable, targets.__file__, "echo", str(self.echo)],
            directory,
        )
        self.addCleanup(echo.kill)
        echo.wait_for_port(self.echo)
        self.agent = Agent("agent-1", directory)
        rtunnel_here(
            *("agent", "sign", "b", "--state", self.proxy.state),
            *("--out", self.agent.state, "--set", 'allow=["127.0.0.1:*"]'),
        )
        self.agent.options = self.proxy.options
        make_key(directory / "id")
        self.key = load_private_key(directory / "id")
        rtunnel_here(
            *("user", "sign", "alice", "--state", self.proxy.state),
            *("--key", directory / "id.pub", "--principal", "ops"),
        )
        self.certificate = load_certificate(directory / "id-cert.pub")
        with (self.proxy.state / "authorized_keys").open("ab") as keys:
            for text in NASTY[:11]:
                line = PrivateKey.generate().public.to_openssh().encode()
                keys.write(line + b" " + text + b"\n")
        self.proxy.start()
        self.addCleanup(lambda: self.proxy.process.kill())
        self.proxy.wait_ready()
        self.agent.start()
        self.addCleanup(lambda: self.agent.process.kill())
        wait_until(self.proxy.tunnels, 20, self.agent.process.tail)

    @contextlib.contextmanager
    def client(
        self,
        key: PrivateKey | None = None,
        certificate: Certificate | None = None,
        *,
        version: bytes = b"SSH-2.0-test",
    ) -> Iterator[SocketClient]:
        """A connection, hung up on afterwards; the proxy may do so before."""
        # Each from somewhere else, or they would wait for one another.
        client = SocketClient(
            self.proxy.port, key or self.key, certificate, source=next(self.sources)
        )
        client.version = version
        try:
            yield client
            client.socket.shutdown(socket.SHUT_WR)
            client.wait_closed()
        except (AssertionError, OSError, ProtocolError) as error:
            # Sent away in the middle of it; that is for other tests to judge.
            self.sent_away.append(str(error))
        finally:
            client.close()

    def logged_in(self) -> contextlib.AbstractContextManager[SocketClient]:
        """Alice's connection, not logged in yet."""
        return self.client(self.key, self.certificate)

    def everything(self) -> None:
        """Every text in every place."""
        self.sent_away: list[str] = []
        self.sources = iter(addresses(2000))
        for text in NASTY:
            for act in (
                self.strangers_version,
                self.strangers_algorithms,
                self.login_names,
                self.certificates,
                self.channels,
                self.disconnect_with_open_channels,
                self.agents,
                self.http,
            ):
                act(text)

    def strangers_version(self, text: bytes) -> None:
        """Before there are packets; and a DISCONNECT and a DEBUG right after."""
        with self.client(version=b"SSH-2.0-" + text) as client:
            client.send_version()
        with self.client() as client:
            client.send_bytes(text + b"\r\n")
        with self.client() as client:
            client.send_version()
            client.send(MSG_DISCONNECT, disconnect(text[:30000]))
        with self.client() as client:
            client.connect()
            client.send(MSG_DEBUG, boolean(True) + string(text[:30000]) + string(b""))
            client.send(MSG_DISCONNECT, disconnect(text[:30000]))

    def strangers_algorithms(self, text: bytes) -> None:
        """Name lists that have nothing in common with ours."""
        with self.client() as client:
            client.send_version()
            lists = string(text[:15000]) + string(b"") * 9
            client.send(MSG_KEXINIT, bytes(16) + lists + boolean(False) + uint32(0))

    def login_names(self, text: bytes) -> None:
        """User, service, method, algorithm and key, all of them short enough."""
        short = text[:200]
        with self.client() as client:
            client.start_userauth()
            for fields in (
                (short, b"ssh-connection", b"none"),
                (b"root", short, b"publickey"),
                (b"root", b"ssh-connection", short),
            ):
                client.send(MSG_USERAUTH_REQUEST, b"".join(map(string, fields)))
            client.send(
                MSG_USERAUTH_REQUEST,
                client.auth_request(PrivateKey.generate(), username=short),
            )
            fields = (short, b"ssh-connection", b"publickey")
            client.send(
                MSG_USERAUTH_REQUEST,
                b"".join(map(string, fields))
                + boolean(False)
                + string(short[:64])
                + string(text[:30000]),
            )

    def certificates(self, text: bytes) -> None:
        """Names in certificates of the right and of a wrong authority."""
        name = text[:200]
        now = int(time.time())
        good = RawCertificate(
            key_fields=self.key.public.blob[15:],
            valid_after=now - 60,
            valid_before=now + 600,
        )
        for ca in (
            load_private_key(self.proxy.state / "user_ca"),
            PrivateKey.generate(),
        ):
            with self.client() as client:
                client.start_userauth()
                for spoilt in (
                    attrs.evolve(good, key_id=name),
                    attrs.evolve(good, principals=(name,)),
                    attrs.evolve(good, critical_options=string(name) + string(b"")),
                    attrs.evolve(
                        good,
                        critical_options=string(b"source-address")
                        + string(string(name)),
                    ),
                ):
                    signed = attrs.evolve(spoilt, ca_blob=ca.public.blob, sign=ca.sign)
                    request = client.auth_request(
                        blob=signed.blob(),
                        algorithm=signed.algorithm,
                        username=name,
                    )
                    client.send(MSG_USERAUTH_REQUEST, request)

    def channels(self, text: bytes) -> None:
        """Targets, types, commands, subsystems, requests."""
        with self.logged_in() as client:
            client.log_in()
            short = text[:255]
            for host in (short, short + b".b", b"web1." + short):
                client.send(
                    MSG_CHANNEL_OPEN,
                    string(b"direct-tcpip")
                    + uint32(99) + uint32(2**20) + uint32(2**15)
                    + string(host) + uint32(22) + string(short) + uint32(1),
                )  # fmt: skip
                client.answer_to_open()
            client.send(
                MSG_CHANNEL_OPEN,
                string(text[:60]) + uint32(98) + uint32(2**20) + uint32(2**15),
            )
            client.answer_to_open()
            for name in (b"exec", b"subsystem", text[:60]):
                channel = client.open_channel()
                client.send(
                    MSG_CHANNEL_REQUEST,
                    uint32(channel)
                    + string(name)
                    + boolean(True)
                    + string(text[:9000]),
                )
            client.send(
                MSG_GLOBAL_REQUEST, string(text[:60]) + boolean(True) + text[:9000]
            )
            client.still_works()

    def disconnect_with_open_channels(self, text: bytes) -> None:
        """It is the reason why the connection to the target has ended."""
        with self.logged_in() as client:
            client.log_in()
            channel = client.open_target("127.0.0.1.b", self.echo)
            client.send(MSG_CHANNEL_DATA, uint32(channel) + string(b"x"))
            client.send(MSG_DISCONNECT, disconnect(text[:30000]))

    def agents(self, text: bytes) -> None:
        """What a tunnel says of itself, and of targets that it does not reach."""
        state = self.directory / "agent-of-c"
        if not state.exists():
            rtunnel_here(
                *("agent", "sign", "c", "--state", self.proxy.state),
                *("--out", state),
            )
        certificate = load_certificate(state / "agent_key-cert.pub")
        key = load_private_key(state / "agent_key")
        spoken = text[:255].decode("utf-8", "replace")
        hello = {
            "version": "1",
            "instance": certificate.key_id,
            "announces": [],
            "limits": {},
        }
        for message in (
            hello,
            hello | {"version": spoken},
            hello | {"instance": spoken},
        ):
            with self.client(key, certificate) as agent:
                agent.log_in()
                channel = agent.open_channel(b"control@rtunnel")
                self.say(agent, channel, text[:60], {})
                self.say(agent, channel, b"hello", message)
                if message is hello:
                    self.refuse_a_target(agent, text)
                else:
                    self.say(agent, channel, b"drain", {"reason": spoken, "seconds": 1})
                agent.send(MSG_DISCONNECT, disconnect(text[:30000]))

    def say(
        self, agent: SocketClient, channel: int, name: bytes, message: object
    ) -> None:
        """A control message."""
        agent.send(
            MSG_CHANNEL_REQUEST,
            uint32(channel)
            + string(name)
            + boolean(False)
            + json.dumps(message).encode(),
        )

    def refuse_a_target(self, agent: SocketClient, text: bytes) -> None:
        """Alice hears the agent's own sentence, and the audit file has it."""
        with self.logged_in() as client:
            client.log_in()
            wait_until(lambda: self.proxy.tunnels("c"), 10, "a tunnel in service")
            client.request_channel(
                b"direct-tcpip",
                string(b"web1.c") + uint32(22) + string(b"x") + uint32(1),
            )
            request = agent.take(MSG_CHANNEL_OPEN)
            number = request[4 + len(b"transport@rtunnel") :][:4]
            agent.send(
                MSG_CHANNEL_OPEN_FAILURE,
                number + uint32(2) + string(text[:30000]) + string(b""),
            )
            _, sentence = client.answer_to_open()
            self.assertTrue(str(sentence).isprintable())

    def http(self, text: bytes) -> None:
        """Paths, methods and headers on the web listener."""
        for request in (
            b"GET /" + text + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            text + b" / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /readyz HTTP/1.1\r\nHost: " + text + b"\r\nX-Forwarded-For: "
            + text + b"\r\n\r\n",
        ):  # fmt: skip
            with (
                contextlib.suppress(OSError),
                socket.create_connection((LOOPBACK, self.proxy.web_port), 10) as web,
            ):
                web.sendall(request)
                web.shutdown(socket.SHUT_WR)
                while web.recv(65536):
                    pass

    def test_every_line_is_one_line(self) -> None:
        """Of the proxy's log, of its audit file, and of the agent's log."""
        self.everything()
        # Everything that was written before this is there when this is.
        with self.logged_in() as client:
            client.log_in()
            client.still_works()
        for program in (self.proxy, self.agent):
            self.assertTrue(program.process.is_alive, program.process.tail())
            self.assertEqual(program.process.stop(40), 0)
            messages = check_log(program.process.output(), self.log_format)
            self.assertFalse([each for each in messages if "Traceback" in each])
            if program is self.proxy:
                said = "\n".join(messages)
        report, events = check_audit(self.proxy.state / "audit.jsonl")
        self.assertEqual(report.notes, ())

        def heard(event: str, word: str) -> int:
            return sum(
                each["event"] == event and word in json.dumps(each) for each in events
            )

        # Else this would test nothing: what was sent is there, escaped.
        self.assertGreaterEqual(heard("login_refused", "x1b[2J"), 5)
        self.assertGreaterEqual(heard("login_refused", "u202e"), 5)
        self.assertGreaterEqual(heard("connection_refused", "x1b[2J"), 1)
        self.assertGreaterEqual(heard("connection_closed", "x1b[2J"), 1)
        self.assertGreaterEqual(heard("connection_closed", "u2028"), 1)
        self.assertGreaterEqual(heard("tunnel_down", "x1b[2J"), 1)
        self.assertIn("x1b[2J", said)
        self.assertIn("u202e", said)


class ProxyJsonLogTests(ProxyTextLogTests):
    """The same, for programs that read logs."""

    log_format = "json"
