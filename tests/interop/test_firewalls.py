"""Agents in networks that let out nothing but TLS, or nothing but an HTTP proxy.

Real proxies of ours with a TLS listener, a real HTTP proxy, and stock ssh through the
tunnels that come up.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from tests.interop.deployment import TLS_NAME, Layout
from tests.interop.peers import require_mount_namespaces
from tests.interop.processes import LOOPBACK, free_port, run, tcp_sockets, wait_until
from tests.interop.programs import Agent, Proxy, rtunnel
from tests.interop.sharing import DeploymentTestCase
from tests.interop.tinyproxy import Tinyproxy, with_hosts
from tests.interop.tls import TlsAuthority

#: Another name of the same address, which the certificate is not for.
OTHER_NAME = "other.example.com"

_PROXIES = re.compile(r"^proxies = .*$", re.MULTILINE)
_AUTHORITIES = re.compile(r"^tls_authorities = .*$", re.MULTILINE)


def only_tls_1_1(context: ssl.SSLContext) -> ssl.SSLContext:
    """Speak nothing later, as old equipment does."""
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


class FirewallTests(DeploymentTestCase):
    """One proxy of ours, and agents that reach it in different ways."""

    layout: ClassVar[Layout] = Layout(proxies=1, agents=0, tls=True)
    count = 0

    def setUp(self) -> None:
        """Names that lead to this machine, without being its own."""
        require_mount_namespaces()
        self.directory = self.deployment.directory
        self.hosts = self.directory / "hosts"
        self.hosts.write_text(f"{LOOPBACK} localhost {TLS_NAME} {OTHER_NAME}\n")
        self.authority = self.directory / "authority.pem"
        self.authority.write_bytes(self.deployment.tls_authority.pem)
        wait_until(lambda: not self.proxy.tunnels(), 20, "the last agent to be gone")

    @property
    def proxy(self) -> Proxy:
        """The only one."""
        return self.deployment.proxies[0]

    @property
    def tls_address(self) -> str:
        """Where it speaks TLS."""
        return f"tls:{TLS_NAME}:{self.proxy.tls_port}"

    def tinyproxy(self) -> Tinyproxy:
        """An HTTP proxy that wants a password."""
        FirewallTests.count += 1
        proxy = Tinyproxy(self.directory / f"tinyproxy-{self.count}", self.hosts)
        self.addCleanup(proxy.process.kill)
        return proxy

    def agent(
        self,
        *addresses: str,
        authorities: Sequence[Path] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Agent:
        """Start an agent of cluster b that knows these addresses."""
        FirewallTests.count += 1
        agent = self.deployment.add_agent("b", f"walled-{self.count}")
        config = agent.state / "agent.toml"
        if authorities is None:
            authorities = [self.authority]
        text = _PROXIES.sub(f"proxies = {json.dumps(addresses)}", config.read_text())
        files = json.dumps([str(path) for path in authorities])
        config.write_text(_AUTHORITIES.sub(f"tls_authorities = {files}", text))
        agent.wrapper = with_hosts(self.hosts)
        agent.environment = environment or {}
        agent.options = ("--log-level", "debug")
        agent.start()
        self.addCleanup(agent.process.kill)
        return agent

    def assert_works(self, agent: Agent, port: int) -> None:
        """A tunnel comes up, ssh gets through it, and all of it through one port.

        :param port: where the agent's connections lead to.
        """
        wait_until(self.proxy.tunnels, 20, agent.process.tail)
        self.assertEqual(
            self.deployment.ssh.output("web1.b", "cat", data=b"x" * 300_000),
            "x" * 300_000,
        )
        self.assertEqual(self.remote_ports(agent), {port})

    def remote_ports(self, agent: Agent) -> set[int]:
        """Where its connections lead to, but for that to the target."""
        return {
            each.remote_port
            for each in tcp_sockets(agent.process.pid)
            if each.state == "ESTABLISHED"
        } - {self.deployment.sshd.port}

    def assert_says(self, agent: Agent, *words: str) -> None:
        """The agent's log has a line with these words, and there is no tunnel."""
        wait_until(
            lambda: any(
                all(word in line for word in words)
                for line in agent.process.output().splitlines()
            ),
            20,
            lambda: f"{words}\n{agent.process.tail()}",
        )
        self.assertEqual(self.proxy.tunnels(), [])

    def logins(self) -> int:
        """Logins at the proxy so far, good or not."""
        return sum("login" in str(event["event"]) for event in self.proxy.audit())

    # TLS

    def test_ssh_inside_tls(self) -> None:
        """With an authority of the company's own."""
        agent = self.agent(self.tls_address)
        self.assert_works(agent, self.proxy.tls_port)

    def test_an_authority_of_the_operating_system(self) -> None:
        """``SSL_CERT_FILE`` stands for it here; without, nobody vouches."""
        agent = self.agent(self.tls_address, authorities=())
        self.assert_says(agent, self.tls_address, "certificate verify failed")
        agent.process.kill()
        trusting = self.agent(
            self.tls_address,
            authorities=(),
            environment={"SSL_CERT_FILE": str(self.authority)},
        )
        self.assert_works(trusting, self.proxy.tls_port)

    def test_wrong_name_stops_the_agent_before_it_logs_in(self) -> None:
        """Before it says anything of SSH even, and it says why."""
        before = self.logins()
        agent = self.agent(f"tls:{OTHER_NAME}:{self.proxy.tls_port}")
        self.assert_says(agent, "the TLS certificate of the server is not for other")
        self.assertEqual(self.logins(), before)

    def test_wrong_authority_stops_the_agent_before_it_logs_in(self) -> None:
        """Somebody in the middle, with a certificate for the right name."""
        heard: list[bytes] = []
        TlsAuthority("somebody").sign(self.directory / "middle", TLS_NAME)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(
            self.directory / "middle.pem", self.directory / "middle.key"
        )
        port = self.serve(context, heard.append)
        agent = self.agent(f"tls:{TLS_NAME}:{port}")
        self.assert_says(agent, "certificate verify failed")
        self.assertEqual(heard, [])

    def test_tls_before_1_2_is_refused_by_the_agent(self) -> None:
        """Of a server that has nothing better."""
        heard: list[bytes] = []
        context = only_tls_1_1(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        context.load_cert_chain(self.directory / "tls.pem", self.directory / "tls.key")
        port = self.serve(context, heard.append)
        agent = self.agent(f"tls:{TLS_NAME}:{port}")
        self.assert_says(agent, f"TLS with {TLS_NAME} failed", "version")
        self.assertEqual(heard, [])

    def test_tls_before_1_2_is_refused_by_the_proxy(self) -> None:
        """And 1.2 and 1.3 are taken."""
        for version, taken in (
            (ssl.TLSVersion.TLSv1_1, False),
            (ssl.TLSVersion.TLSv1_2, True),
            (ssl.TLSVersion.TLSv1_3, True),
        ):
            context = only_tls_1_1(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
            context.maximum_version = version
            context.load_verify_locations(self.authority)
            address = (LOOPBACK, self.proxy.tls_port)
            with socket.create_connection(address, timeout=10) as plain:
                try:
                    with context.wrap_socket(plain, server_hostname=TLS_NAME) as tls:
                        self.assertTrue(taken, version)
                        self.assertEqual(tls.recv(8), b"SSH-2.0-")
                except ssl.SSLError as error:
                    self.assertFalse(taken, version)
                    self.assertIn("version", str(error).lower())

    def serve(self, context: ssl.SSLContext, heard: Callable[[bytes], object]) -> int:
        """A TLS server, and the port of it; tells what comes after the handshake."""
        server = socket.create_server((LOOPBACK, 0))
        self.addCleanup(server.close)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    plain, _ = server.accept()
                    with (
                        contextlib.suppress(OSError),
                        context.wrap_socket(plain, server_side=True) as tls,
                    ):
                        heard(tls.recv(100))

        threading.Thread(target=accept, daemon=True).start()
        port: int = server.getsockname()[1]
        return port

    # HTTP proxies

    def test_through_an_http_proxy(self) -> None:
        """With its password; nothing goes by another way."""
        http = self.tinyproxy()
        address = f"{TLS_NAME}:{self.proxy.port}"
        agent = self.agent(address, environment={"HTTPS_PROXY": http.url})
        self.assert_works(agent, http.port)
        self.assertIn(f"CONNECT {address} HTTP/1.1", http.requests())

    def test_tls_through_an_http_proxy(self) -> None:
        """The HTTP proxy sees a name and TLS, as of any web site."""
        http = self.tinyproxy()
        agent = self.agent(self.tls_address, environment={"https_proxy": http.url})
        self.assert_works(agent, http.port)
        connect = f"CONNECT {TLS_NAME}:{self.proxy.tls_port} HTTP/1.1"
        self.assertIn(connect, http.requests())

    def test_joining_through_both(self) -> None:
        """The line names a ``tls:`` address; what it makes goes the same way."""
        http = self.tinyproxy()
        line = self.join_line(self.tls_address)
        agent = self.deployment.adopt_agent("joined")
        authorities = json.dumps([str(self.authority)])
        run(
            [
                *(*with_hosts(self.hosts), "env", f"HTTPS_PROXY={http.url}"),
                *rtunnel("join", line, "--state", agent.state),
                *("--set", f"tls_authorities={authorities}"),
                *("--set", 'allow=["*:*", "127.0.0.1:*"]'),
                *("--set", 'resolve={web1="127.0.0.1"}'),
            ]
        )
        connect = f"CONNECT {TLS_NAME}:{self.proxy.tls_port} HTTP/1.1"
        self.assertIn(connect, http.requests())
        agent.wrapper = with_hosts(self.hosts)
        agent.environment = {"HTTPS_PROXY": http.url}
        agent.start()
        self.addCleanup(agent.process.kill)
        self.assert_works(agent, http.port)

    def test_joining_stops_at_a_wrong_name(self) -> None:
        """Before the token is sent, so the line is good still."""
        line = self.join_line(f"tls:{OTHER_NAME}:{self.proxy.tls_port}")
        before = self.logins()
        state = self.directory / "not-joined"
        authorities = json.dumps([str(self.authority)])
        done = run(
            [
                *(*with_hosts(self.hosts), *rtunnel("join", line, "--state", state)),
                *("--set", f"tls_authorities={authorities}"),
            ],
            check=False,
        )
        self.assertEqual(done.returncode, 1)
        self.assertIn("the TLS certificate of the server is not for", done.stderr)
        self.assertFalse((state / "agent_key").exists())
        self.assertEqual(self.logins(), before)

    def join_line(self, address: str) -> str:
        """What ``token add`` prints, with an address that is TLS."""
        line = run(rtunnel("token", "add", "b", "--state", self.proxy.state)).stdout
        plain = f"{LOOPBACK}:{self.deployment.balancer_port}"
        self.assertIn(plain, line)
        return line.strip().replace(plain, address)

    def test_wrong_password_is_told_and_not_shown(self) -> None:
        """407, and the agent goes on trying."""
        http = self.tinyproxy()
        url = http.url.replace(http.password, "wr0ng")
        agent = self.agent(self.tls_address, environment={"HTTPS_PROXY": url})
        self.assert_says(agent, "the HTTP proxy answered", "40")
        self.assertNotIn("wr0ng", agent.process.output())

    def test_names_that_need_no_proxy(self) -> None:
        """``NO_PROXY`` lists them; the HTTP proxy is not asked."""
        http = self.tinyproxy()
        agent = self.agent(
            self.tls_address,
            environment={"HTTPS_PROXY": http.url, "NO_PROXY": ".example.com"},
        )
        self.assert_works(agent, self.proxy.tls_port)
        self.assertEqual(http.requests(), [])

    def test_an_http_proxy_that_never_answers(self) -> None:
        """The dial has a deadline, and the next one follows."""
        with socket.create_server((LOOPBACK, 0)) as silent:
            url = f"http://{LOOPBACK}:{silent.getsockname()[1]}"
            agent = self.agent(self.tls_address, environment={"HTTPS_PROXY": url})
            self.assert_says(agent, self.tls_address, "within")
            self.assertTrue(agent.process.is_alive)

    def test_an_http_proxy_that_is_not_there(self) -> None:
        """No other way is taken in secret."""
        url = f"http://{LOOPBACK}:{free_port()}"
        agent = self.agent(self.tls_address, environment={"HTTPS_PROXY": url})
        self.assert_says(agent, self.tls_address, "refused")
        self.assertEqual(self.remote_ports(agent), set())
