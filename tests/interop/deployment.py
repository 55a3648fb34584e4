"""A whole deployment on this machine, made only by what users type.

Cluster ``a`` has proxies behind HAProxy; agents of cluster ``b`` dial the balancer; at
their side is a real sshd. Everything is a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import attrs

from tests.interop import targets
from tests.interop.haproxy import HAProxy, Server
from tests.interop.openssh import OpenSSH
from tests.interop.peers import require_peer
from tests.interop.processes import LOOPBACK, Process, free_port, wait_until
from tests.interop.programs import Agent, Program, Proxy, rtunnel_here, settings
from tests.interop.sshd import Sshd, make_key
from tests.interop.tls import TlsAuthority

#: What the proxies' TLS certificate is for.
TLS_NAME = "lb.example.com"

#: Who the tests log in as, unless they say otherwise.
USER = "alice"

#: How long certificates last at first, whatever the config file says of later ones.
TTL = ("--ttl", "1h")


@attrs.frozen
class Layout:
    """What to deploy.

    :param proxies: how many proxies run behind the balancer.
    :param spare: further ones, known to the balancer but not in rotation, not started.
    :param agents: how many agents of cluster b run.
    :param balance: HAProxy's algorithm.
    :param advertise: whether each proxy tells agents its own address.
    :param address: where proxies and balancer listen.
    :param tls: whether proxies listen with TLS as well, as :data:`TLS_NAME`.
    :param send_proxy: how the balancer says whom connections are from, see
        :class:`~tests.interop.haproxy.HAProxy`.
    :param namespace: the network namespace of agents and targets, "" for our own.
    :param proxy_settings: further ``--set`` values of every proxy.
    :param agent_settings: further ``--set`` values of every agent.
    :param proxy_environment: names and values of variables that every proxy has.
    """

    proxies: int = 2
    spare: int = 0
    agents: int = 1
    balance: str = "roundrobin"
    advertise: bool = False
    address: str = LOOPBACK
    tls: bool = False
    send_proxy: str = ""
    namespace: str = ""
    proxy_settings: tuple[str, ...] = ()
    agent_settings: tuple[str, ...] = ()
    proxy_environment: tuple[tuple[str, str], ...] = ()


class Deployment:
    """The parts of one :class:`Layout`, running.

    :ivar proxies: the proxies that the layout starts.
    :ivar spares: those that it does not.
    :ivar agents: the agents of cluster b that the layout starts.
    :ivar tls_authority: of the proxies' TLS certificate.
    :ivar ssh: the OpenSSH programs as :data:`USER`, ``lb`` and each proxy's name being
        jump hosts.
    """

    def __init__(self, layout: Layout) -> None:
        require_peer("ssh")
        require_peer("sshd")
        require_peer("haproxy")
        self.layout = layout
        self.directory = Path(tempfile.mkdtemp(prefix="rtunnel-"))
        self._others: list[Process] = []
        self.tls_authority = TlsAuthority("an authority of tests")
        self.all_proxies: list[Proxy] = []
        self.agents: list[Agent] = []
        self.added_agents: list[Agent] = []
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        layout, directory = self.layout, self.directory
        person = directory / USER
        person.mkdir()
        key = make_key(person / "id")
        self.sshd = Sshd(directory / "sshd", key, layout.namespace)
        self._others.append(self.sshd.process)

        count = layout.proxies + layout.spare
        self.all_proxies = [
            Proxy(f"proxy-{n + 1}", directory, layout.address) for n in range(count)
        ]
        for proxy in self.all_proxies:
            proxy.environment = dict(layout.proxy_environment)
        self.proxies = self.all_proxies[: layout.proxies]
        self.spares = self.all_proxies[layout.proxies :]
        self.agents = [
            Agent(f"agent-{n + 1}", directory, layout.namespace)
            for n in range(layout.agents)
        ]

        self.balancer_port = free_port()
        if layout.tls:
            self.tls_authority.sign(directory / "tls", TLS_NAME)
        self._sign()
        self.balancer = HAProxy(
            directory / "haproxy",
            layout.balance,
            [
                Server(proxy.name, proxy.port, proxy.web_port, proxy in self.proxies)
                for proxy in self.all_proxies
            ],
            port=self.balancer_port,
            address=layout.address,
            send_proxy=layout.send_proxy,
        )
        self._others.append(self.balancer.process)
        for proxy in self.proxies:
            proxy.start()
        for proxy in self.proxies:
            proxy.wait_ready()
        self.balancer.wait_up({proxy.name for proxy in self.proxies})
        for agent in self.agents:
            agent.start()

    def _sign(self) -> None:
        """Make every state directory and certificate, as the operator would."""
        first, *further = self.all_proxies
        public = f"{self.layout.address}:{self.balancer_port}"
        state = ("--state", first.state)
        rtunnel_here(
            "init",
            *state,
            *("--cluster", "a", "--public", public, *TTL),
            *self._settings(first),
        )
        for proxy in further:
            rtunnel_here(
                *("proxy", "sign", proxy.name, *state, "--out", proxy.state, *TTL),
                *self._settings(proxy),
            )
        for agent in self.agents:
            self._sign_agent("b", agent)
        self.ssh = self.person(USER, "ops")

    def _sign_agent(self, cluster: str, agent: Agent) -> None:
        state = ("--state", self.all_proxies[0].state)
        rtunnel_here(
            *("agent", "sign", cluster, *state, "--out", agent.state, *TTL),
            *settings(
                [
                    'allow=["localhost:*", "127.0.0.1:*", "web1:*"]',
                    'resolve={web1="127.0.0.1"}',
                    *self.layout.agent_settings,
                ]
            ),
        )

    def add_agent(self, cluster: str, name: str) -> Agent:
        """Sign one more agent, of any cluster; the caller starts it."""
        agent = self.adopt_agent(name)
        self._sign_agent(cluster, agent)
        return agent

    def adopt_agent(self, name: str) -> Agent:
        """Make one more agent out of the state directory of that name."""
        agent = Agent(name, self.directory, self.layout.namespace)
        self.added_agents.append(agent)
        return agent

    def _settings(self, proxy: Proxy) -> list[str]:
        return settings(
            [
                *proxy.settings(
                    advertise=self.layout.advertise,
                    tls=self.directory / "tls" if self.layout.tls else None,
                ),
                *self.layout.proxy_settings,
            ]
        )

    def person(self, name: str, *principals: str) -> OpenSSH:
        """Return the OpenSSH programs with a certificate for `name`."""
        directory = self.directory / name
        if not (directory / "id").exists():
            directory.mkdir(exist_ok=True)
            make_key(directory / "id")
        state = ("--state", self.all_proxies[0].state)
        rtunnel_here(
            *("user", "sign", name, *state, "--key", directory / "id.pub"),
            *(word for each in principals for word in ("--principal", each)),
            *("--ttl", "1h", "--force"),
        )
        return self.client(directory, directory / "id-cert.pub")

    def client(self, directory: Path, certificate: Path | None) -> OpenSSH:
        """Return the OpenSSH programs with the key ``id`` of a directory.

        :param certificate: for it, None to show the bare key.
        """
        # The lines, several while the authority is rotated, are for the balancer; the
        # tests also pick a proxy by its own port.
        authorities = [
            line
            for line in self.ssh_config().splitlines()
            if line.startswith("@cert-authority ")
        ]
        lines = [*authorities]
        for authority in authorities:
            _, _, key = authority.split(" ", 2)
            lines.append(f"@cert-authority [{self.layout.address}]:* {key}")
        names = f"[b]:*,[*.b]:*,[*.a]:*,[{LOOPBACK}]:{self.sshd.port}"
        lines.append(f"{names} {self.sshd.host_key}")
        (directory / "known_hosts").write_text("".join(line + "\n" for line in lines))
        jumps = {proxy.name: proxy.port for proxy in self.all_proxies}
        return OpenSSH(
            directory,
            jumps={"lb": self.balancer_port, **jumps},
            user=self.sshd.user,
            target_port=self.sshd.port,
            certificate=certificate,
            address=self.layout.address,
        )

    def ssh_config(self) -> str:
        """Return what the operator gives to people who use cluster b."""
        state = ("--state", self.all_proxies[0].state)
        return rtunnel_here("ssh-config", *state, "--cluster", "b")

    def target(self, behaviour: str) -> int:
        """Start a target of :mod:`tests.interop.targets` and return its port."""
        port = free_port()
        process = Process(
            f"{behaviour}-{port}",
            [sys.executable, targets.__file__, behaviour, str(port)],
            self.directory,
            namespace=self.layout.namespace,
        )
        self._others.append(process)
        process.wait_for_port(port)
        return port

    def wait_tunnels(
        self,
        proxies: Sequence[Proxy] | None = None,
        seconds: float = 30,
        *,
        agents: int | None = None,
    ) -> None:
        """Wait until each proxy holds a tunnel of every agent.

        :param proxies: which ones; those of the layout by default.
        :param agents: how many agents, if not all.
        """
        waiting = list(self.proxies if proxies is None else proxies)
        expected = len(self.agents) if agents is None else agents

        def all_hold() -> bool:
            # One that has ended says nothing any more; its log says why.
            with contextlib.suppress(OSError):
                waiting[:] = [
                    each for each in waiting if len(each.tunnels()) != expected
                ]
            return not waiting

        wait_until(
            all_hold,
            seconds,
            lambda: (
                f"{expected} tunnels at {', '.join(each.name for each in waiting)}\n"
                f"{self.tails()}"
            ),
        )

    def tails(self) -> str:
        """Return the end of each log, for failures."""
        # A program that was started again goes on in the same log.
        last = {process.log: process for process in self._processes()}
        return "\n".join(process.tail() for process in last.values())

    def _processes(self) -> list[Process]:
        programs: list[Program] = [
            *self.all_proxies,
            *self.agents,
            *self.added_agents,
        ]
        return [*(one for each in programs for one in each.starts), *self._others]

    def close(self) -> None:
        """End every process and remove every file.

        With ``RTUNNEL_KEEP=1`` the files stay, logs among them.
        """
        for process in reversed(self._processes()):
            process.kill()
        if os.environ.get("RTUNNEL_KEEP") != "1":
            shutil.rmtree(self.directory, ignore_errors=True)
