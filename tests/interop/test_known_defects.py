"""Defects that other programs of this kind had, each tried on a real proxy.

What is a limit as well is in :mod:`tests.interop.test_limits_before_login` and
:mod:`tests.interop.test_limits_of_channels`:

==================================  ==============================================
CVE-2025-22869, CVE-2025-26466      ``test_c13_...``: a key exchange that stalls
CVE-2026-42508                      ``test_a_revoked_authority_is_none``, below
CVE-2024-45337                      ``test_a1_the_key_that_was_asked_about_...``
CVE-2018-7749, CVE-2023-46446,      ``test_p4_...``, ``test_p1_...before_newkeys``,
CVE-2018-10933, CVE-2025-32433      ``test_a2_...``: what may come when
CVE-2023-46445                      ``test_p1_extensions_before_newkeys``
CVE-2023-48795                      :mod:`tests.interop.test_handshake_integrity`
CVE-2026-39831                      ``test_a6_presence_of_a_person``
CVE-2026-39834                      ``test_c6_windows_and_packets_without_bounds``
CVE-2024-43798, no login at all     ``test_p8_methods_that_there_are_not``
RSA keys of any size                ``test_p9_sizes_of_rsa_keys``, and below
channels refused and not forgotten  ``test_c10_opens_per_second``
answers that nobody asked for       ``test_c11_...``
a login in part                     ``refused`` in test_limits_before_login
CVE-2023-51385, CVE-2025-61984      ``tests.cli.test_ssh_config``: names in its lines
==================================  ==============================================
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

import attrs
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.config import load_proxy
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.data_types import boolean, mpint, string, uint32
from rtunnel.wire.keys import ED25519, RSA, PrivateKey
from rtunnel.wire.numbers import (
    MSG_CHANNEL_REQUEST,
    MSG_USERAUTH_FAILURE,
    MSG_USERAUTH_PK_OK,
    MSG_USERAUTH_REQUEST,
)
from tests.interop.deployment import Deployment, Layout
from tests.interop.limit_testing import EXACT_MEMORY, Act, LimitTestCase
from tests.interop.peers import require_peer
from tests.interop.processes import run, wait_until
from tests.interop.programs import rtunnel_here, twistd
from tests.interop.revocation_lists import empty_krl
from tests.interop.scripted_agent import ScriptedAgent
from tests.interop.sharing import shared
from tests.interop.socket_client import SocketClient, target
from tests.interop.test_limits_before_login import is_let_in, refused
from tests.wire.examples import RawCertificate, option

ED25519_CERTIFICATE = b"ssh-ed25519-cert-v01@openssh.com"


class CertificateCase(LimitTestCase):
    """Makes certificates, and shows them."""

    def setUp(self) -> None:
        """The authority that signs for people."""
        super().setUp()
        self.user_ca = PrivateKey.from_openssh(
            (self.proxy.state / "user_ca").read_bytes()
        )

    def limited(self, name: str, value: str | None) -> bytes:
        """A certificate with one critical option, right but for that."""
        return self.raw(critical_options=option(name, value)).blob()

    def show(self, blob: bytes, algorithm: bytes, signed: bool) -> Act:
        """Ask about a certificate, or log in with it."""

        def act(client: SocketClient) -> None:
            request = client.auth_request(
                self.key, blob=blob, algorithm=algorithm, signed=signed
            )
            client.send(MSG_USERAUTH_REQUEST, request)

        return act

    def show_each(self, *blobs: bytes, outcome: Act = refused) -> None:
        """See what becomes of each, when it is asked about and when it is used."""
        self.pass_each(
            [
                (self.show(blob, ED25519_CERTIFICATE, signed), outcome)
                for blob in blobs
                for signed in ((True,) if outcome is is_let_in else (False, True))
            ],
            self.ask_to_log_in,
        )

    def raw(self, **fields: Any) -> RawCertificate:
        """A certificate byte by byte, signed by the authority for people."""
        now = int(time.time())
        return attrs.evolve(
            RawCertificate(
                key_fields=self.key.public.blob[len(string(ED25519)) :],
                valid_after=now - 60,
                valid_before=now + 600,
                extensions=option("permit-port-forwarding"),
                ca_blob=self.user_ca.public.blob,
                sign=self.user_ca.sign,
            ),
            **fields,
        )


class CertificateTests(CertificateCase):
    """What a certificate says is checked, whatever it is used for."""

    def test_source_addresses_hold_for_every_request(self) -> None:
        """Of another network, of none, of what is no address; ours does."""
        values = ("192.0.2.0/24", "::1", "127.0.0.1/33", "localhost", ",")
        self.show_each(*(self.limited("source-address", each) for each in values))
        ours = self.limited("source-address", "192.0.2.0/24,127.0.0.0/8")
        self.show_each(ours, outcome=is_let_in)

    def test_a_source_address_that_is_empty_allows_nothing(self) -> None:
        """It is not the same as none."""
        self.show_each(self.limited("source-address", ""))

    def test_no_principals_are_not_all(self) -> None:
        """Whoever signed that meant nobody, for all we know."""
        self.show_each(self.raw(principals=()).blob())

    def test_unknown_critical_options_forbid(self) -> None:
        """Those that are known elsewhere, too."""
        self.show_each(
            self.limited("force-command", "true"),
            self.limited("verify-required", None),
            self.limited("novelty@example.com", None),
        )

    def test_a_certificate_is_no_authority(self) -> None:
        """Nor is one inside another, as deep as there is room for."""
        self.show_each(self.raw().blob(), outcome=is_let_in)
        nested = [self.raw().blob()]
        while len(nested[-1]) < 55_000:
            nested.append(self.raw(ca_blob=nested[-1]).blob())
        self.show_each(nested[1], nested[10], nested[-1])
        # In place of the key, too.
        self.show_each(self.raw(key_fields=string(nested[0])).blob())

    def test_keys_of_authorities_have_bounds(self) -> None:
        """No signature is looked at that would take long, and none by SHA-1."""
        for bits in (1024, 16_384):
            large = string(RSA) + mpint(65537) + mpint(2**bits - 1)
            signature = string(b"rsa-sha2-512") + string(bytes(bits // 8))
            blob = self.raw(ca_blob=large, sign=lambda data, s=signature: s).blob()
            self.show_each(blob)
        old = string(b"ssh-rsa") + string(bytes(256))
        large = string(RSA) + mpint(65537) + mpint(2**2048 - 1)
        self.show_each(self.raw(ca_blob=large, sign=lambda data: old).blob())

    def test_an_authority_that_nobody_named_is_none(self) -> None:
        """Whatever it signed, and whatever its key looks like."""
        stranger = PrivateKey.generate()
        self.show_each(
            self.raw(ca_blob=stranger.public.blob, sign=stranger.sign).blob(),
            self.raw(ca_blob=b"").blob(),
            self.raw(ca_blob=string(b"none")).blob(),
            self.raw(sign=lambda data: b"").blob(),
            self.raw(sign=lambda data: string(ED25519) + string(bytes(64))).blob(),
        )

    def test_authorities_of_other_roles_are_none(self) -> None:
        """What the proxies' and agents' authorities sign is nobody."""
        for name in ("host_ca", "agent_ca"):
            other = PrivateKey.from_openssh((self.proxy.state / name).read_bytes())
            self.show_each(self.raw(ca_blob=other.public.blob, sign=other.sign).blob())


@functools.cache
def revoking_layout() -> Layout:
    """A proxy that reads a key revocation list, which is empty at first."""
    krl = empty_krl()
    return Layout(
        proxies=1,
        proxy_environment=EXACT_MEMORY,
        proxy_settings=(f'revocation.krl=["{krl}"]',),
    )


class RevokedAuthorityTests(CertificateCase):
    """An authority that is trusted, and revoked."""

    @property
    def deployment(self) -> Deployment:
        """The shared deployment."""
        return shared(revoking_layout())

    def test_a_revoked_authority_is_none(self) -> None:
        """What it has signed is refused, from the moment that it is on the list."""
        other = PrivateKey.generate()
        anchors = self.proxy.state / "user_ca.pub"
        anchors.write_text(anchors.read_text() + other.public.to_openssh() + "\n")
        self.proxy.process.signal(signal.SIGHUP)
        theirs = self.raw(ca_blob=other.public.blob, sign=other.sign).blob()
        wait_until(lambda: self.is_known(theirs), 10, "another authority")
        self.show_each(theirs, outcome=is_let_in)
        krl = load_proxy(self.proxy.state / "proxy.toml").revocation.krl[0]
        public = krl.with_name("other.pub")
        public.write_text(other.public.to_openssh() + "\n")
        run([require_peer("ssh-keygen"), "-q", "-k", "-u", "-f", krl, public])
        wait_until(lambda: not self.is_known(theirs), 20, "its end")
        self.show_each(theirs)
        self.show_each(self.raw().blob(), outcome=is_let_in)

    def is_known(self, blob: bytes) -> bool:
        """Whether a certificate would do."""
        client = self.ask_to_log_in()
        self.show(blob, ED25519_CERTIFICATE, signed=False)(client)
        client.wait_for(
            lambda: (
                True
                if {MSG_USERAUTH_FAILURE, MSG_USERAUTH_PK_OK} & set(client.numbers())
                else None
            ),
            "an answer",
        )
        return MSG_USERAUTH_PK_OK in client.numbers()


class RouteTests(LimitTestCase):
    """Who may reach one target reaches that one."""

    layout: ClassVar[Layout] = Layout(
        proxies=1,
        proxy_environment=EXACT_MEMORY,
        proxy_settings=(
            'allow=[{users=["ops"], clusters=["b"], targets=["web1:22"]}]',
        ),
    )

    #: Names of what somebody may not reach who may reach web1.b:22.
    SPELLINGS = (
        *(("web1.b", 23), ("web1.a", 22), ("web1.c", 22), ("b", 22), ("a", 22)),
        *(("localhost.b", 22), ("127.0.0.1.b", 22), ("web1.b.b", 22), ("x.web1.b", 22)),
        *(("web1.b.a", 22), ("web1..b", 22), (".web1.b", 22), ("web1.b..", 22)),
        *(("web1 .b", 22), ("web1%.b", 22), ("web1\x00.b", 22), ("web1.b\x00", 22)),
        *(("web1.b:22", 23), ("[web1].b", 22), ("::ffff:127.0.0.1.b", 22)),
        *(("web1/../c.b", 22), ("web1@c.b", 22), ("web1,c.b", 22), ("*.b", 22)),
    )

    def _make_buffers(self) -> None:
        """Nothing is reached here that moves data."""

    def forbidden(self, client: SocketClient) -> None:
        """An outcome: refused, and not because of anything that was tried."""
        code, said = client.answer_to_open()
        assert isinstance(said, str) and code == 1, (code, said)
        client.still_works()

    def test_no_other_spelling_leads_elsewhere(self) -> None:
        """Each channel is decided on by itself, and dialled as it was decided on."""

        def act(client: SocketClient) -> None:
            for host, port in self.SPELLINGS:
                client.request_channel(b"direct-tcpip", target(host, port))

        def outcome(client: SocketClient) -> None:
            for _ in self.SPELLINGS:
                self.forbidden(client)

        self.pass_limit(act, outcome, count=4)

    def test_no_subsystem_leads_elsewhere(self) -> None:
        """The same by the other way to ask."""
        names = ("web1:23@b", "web1.b:23", "@b", "web1:22@a", "web1@c", "b:22@b")

        def act(client: SocketClient) -> None:
            for name in names:
                channel = client.open_channel()
                request = string(b"subsystem") + boolean(True)
                request += string(f"proxy:{name}".encode())
                client.send(MSG_CHANNEL_REQUEST, uint32(channel) + request)

        def outcome(client: SocketClient) -> None:
            for _ in names:
                client.take(100)
            client.still_works()

        self.pass_limit(act, outcome, count=4)

    def test_what_is_allowed_is_dialled(self) -> None:
        """In the spellings that it has: so the test would notice."""
        for host in ("web1.b", "WEB1.b", "web1.B", "web1.b."):
            client = self.log_in()
            client.request_channel(b"direct-tcpip", target(host, 22))
            code, said = client.answer_to_open()
            # Something listens on port 22 of this machine, or nothing does.
            self.assertTrue(isinstance(said, int) or code == 2, (code, said))

    def test_who_may_reach_nothing_reaches_nothing(self) -> None:
        """However often it is tried on one connection."""
        self.deployment.person("mallory", "dev")
        person = self.deployment.directory / "mallory"
        key = PrivateKey.from_openssh((person / "id").read_bytes())
        certificate, _ = Certificate.from_openssh((person / "id-cert.pub").read_text())

        def act(client: SocketClient) -> None:
            for _ in range(50):
                client.request_channel(b"direct-tcpip", target("web1.b", 22))

        def outcome(client: SocketClient) -> None:
            for _ in range(50):
                self.forbidden(client)

        self.pass_limit(
            act,
            outcome,
            lambda: self.log_in(key=key, certificate=certificate),
            count=4,
        )


class ReplacementTests(LimitTestCase):
    """A tunnel that another takes the place of."""

    def test_agents_that_come_again_leave_nothing_behind(self) -> None:
        """One tunnel at a time, and as many files and connections as before."""
        agent = self.deployment.add_agent("c", "returning-agent")
        files = Path(f"/proc/{self.proxy.process.pid}/fd")

        def one_tunnel() -> bool:
            return len(self.proxy.tunnels("c")) == 1

        def start() -> ScriptedAgent:
            scripted = ScriptedAgent(self.proxy.port, agent.state, "c", {})
            wait_until(one_tunnel, 20, "a tunnel")
            return scripted

        scripted = start()
        before = len(os.listdir(files))
        for _ in range(20):
            scripted.stop()
            wait_until(lambda: not self.proxy.tunnels("c"), 20, "no tunnel")
            scripted = start()
        wait_until(lambda: len(os.listdir(files)) <= before, 10, "files that are open")
        scripted.stop()

    def test_second_control_channels_are_refused(self) -> None:
        """Neither gives the tunnel another identity, nor ends it."""
        agent = self.deployment.add_agent("c", "doubling-agent")
        scripted = ScriptedAgent(self.proxy.port, agent.state, "c", {})
        wait_until(lambda: self.proxy.tunnels("c"), 20, "a tunnel")
        (before,) = self.proxy.tunnels("c")
        for _ in range(5):
            scripted.request_channel(b"control@rtunnel")
        (after,) = self.proxy.tunnels("c")
        self.assertEqual(before["since"], after["since"])
        self.assertFalse(scripted.is_closed)
        scripted.stop()
        wait_until(lambda: not self.proxy.tunnels("c"), 20, "no tunnel")


class StartTests(SynchronousTestCase):
    """Nothing starts that anybody could enter."""

    def setUp(self) -> None:
        """A new cluster."""
        self.directory = Path(tempfile.mkdtemp(prefix="rtunnel-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.state = self.directory / "proxy"
        words = ("--cluster", "a", "--public", "127.0.0.1:3023")
        rtunnel_here("init", "--state", self.state, *words)

    def test_no_proxy_starts_without_its_authorities(self) -> None:
        """Missing or empty, the line says which."""
        for name in ("user_ca.pub", "agent_ca.pub", "host_ca.pub"):
            path = self.state / name
            text = path.read_text()
            path.unlink()
            self.assert_complains_of(name)
            path.write_text(text)
        (self.state / "user_ca.pub").write_text("")
        self.assert_complains_of("user_ca.pub")

    def assert_complains_of(self, name: str) -> None:
        """It does not start, and says which file is the reason."""
        done = run(twistd("rtunnel-proxy", self.state / "proxy.toml"), check=False)
        said = done.stdout + done.stderr
        self.assertEqual(done.returncode, 1, said)
        self.assertIn(name, said)
        self.assertNotIn("Traceback", said)
