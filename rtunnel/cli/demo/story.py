"""What the demo shows, step by step.

Two proxies behind one address, an agent of cluster ``b``, stock ``ssh`` through them;
then the proxy that the agent met first is killed and the same command works again.
Everything lives in one temporary directory and on free ports of 127.0.0.1.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.task import deferLater

from rtunnel.admin_client import get_status
from rtunnel.cli.demo.agent import ANNOUNCEMENT, HOST
from rtunnel.cli.demo.balancer import Balancer
from rtunnel.cli.demo.children import AGENT, TWISTD, Child, rtunnel, run, spawn
from rtunnel.cli.demo.client import ask_target
from rtunnel.errors import RtunnelError
from rtunnel.state_directory import (
    ADMIN_SOCKET,
    load_trust_anchors,
    public_path,
    write_key_pair,
    write_public,
)
from rtunnel.wire.keys import PrivateKey

CLUSTER = "b"
COMMAND = "hello, is anybody there?"

#: Seconds for the proxies to start, and for the tunnels to come up.
PATIENCE = 20.0

#: Seconds between two looks at the proxies' status.
LOOK_INTERVAL = 0.1

#: Seconds for one run of ssh.
SSH_TIMEOUT = 15.0


class Demo:
    """One run of the demo.

    :param say: prints a line for the person who watches.
    """

    def __init__(self, reactor: Any, say: Callable[[str], None]) -> None:
        self._reactor = reactor
        self._say = say
        self._directory = Path(tempfile.mkdtemp(prefix="rtunnel-demo-"))
        self._children: list[Child] = []
        self._proxies: dict[int, Child] = {}
        self._first_port: int | None = None
        self._balancer = Balancer(reactor, [], self._backend_chosen)
        self._front: Any = None
        self._target_port: Deferred[int] = Deferred()

    async def run(self) -> None:
        """Set everything up and show it.

        :raises RtunnelError: when a step fails; says which.
        """
        self._front = await self._balancer.listen()
        public = f"127.0.0.1:{self._front.getHost().port}"
        self._say("Making throw-away keys and certificates ...")
        await self._make_states(public)
        self._say(f"Starting two proxies behind one address, {public} ...")
        for number in (1, 2):
            await self._start_proxy(number)
        self._balancer.ports = list(self._proxies)
        self._say(f"Starting an agent of cluster {CLUSTER!r} with an SSH target ...")
        target_port = await self._start_agent()
        await self._tunnels_everywhere()
        self._say("Both proxies hold a tunnel.")
        self._write_ssh_config(public, target_port)
        await self._show()
        assert self._first_port is not None
        name = f"proxy-{1 + list(self._proxies).index(self._first_port)}"
        self._say(f"\nKilling {name}, the proxy that the agent met first ...")
        first = self._proxies[self._first_port]
        first.signal("KILL")
        await first.ended
        self._say("The same command again:")
        await self._show()

    @property
    def ssh_line(self) -> str:
        """The command that reaches the target."""
        return shlex.join(self._ssh())

    @property
    def has_ssh(self) -> bool:
        """Whether this machine has a stock ``ssh``."""
        return shutil.which("ssh") is not None

    async def clean_up(self) -> None:
        """Stop every process and remove every file."""
        for child in reversed(self._children):
            await child.stop(self._reactor)
        if self._front is not None:
            await self._front.stopListening()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _state(self, name: str) -> str:
        return str(self._directory / name)

    async def _make_states(self, public: str) -> None:
        settings = [
            "ssh.listen=['tcp:0:interface=127.0.0.1']",
            "web.listen=[]",
            "drain.timeout=1",
            f"allow=[{{users=['*'], clusters=['*'], targets=['{HOST}:*']}}]",
        ]
        options = [f"--set={setting}" for setting in settings]
        one, two = self._state("proxy-1"), self._state("proxy-2")
        user = self._directory / "user"
        write_key_pair(user, PrivateKey.generate(), "demo")
        write_key_pair(self._directory / "target", PrivateKey.generate(), HOST)
        await rtunnel(
            self._reactor,
            *("init", "--state", one, "--cluster", "a", "--public", public),
            *("--set", "name='proxy-1'"),
            *options,
        )
        await rtunnel(
            self._reactor,
            *("proxy", "sign", "proxy-2", "--state", one, "--out", two),
            *options,
        )
        await rtunnel(
            self._reactor,
            *("agent", "sign", CLUSTER, "--state", one, "--out", self._state("agent")),
        )
        await rtunnel(
            self._reactor,
            *("user", "sign", "demo", "--state", one, "--key", f"{user}.pub"),
        )

    async def _start_proxy(self, number: int) -> None:
        name = f"proxy-{number}"
        child = self._spawn(
            name,
            [*TWISTD, "rtunnel-proxy", "--config", self._state(f"{name}/proxy.toml")],
        )

        def listens_on() -> int | None:
            listen = self._status(number)["proxy"]["listen"]
            return int(listen[0].rpartition(":")[2]) if listen else None

        self._proxies[await self._eventually(name, child, listens_on)] = child

    async def _start_agent(self) -> int:
        state = self._directory / "agent"
        self._agent = self._spawn(
            "agent",
            [
                *AGENT,
                str(state / "agent.toml"),
                self._state("target"),
                self._state("user.pub"),
            ],
            self._agent_said,
        )
        self._target_port.addTimeout(PATIENCE, self._reactor)
        try:
            return await self._target_port
        except TimeoutError:
            raise RtunnelError(self._died("agent")) from None

    def _agent_said(self, line: str) -> None:
        if line.startswith(ANNOUNCEMENT) and not self._target_port.called:
            self._target_port.callback(int(line.removeprefix(ANNOUNCEMENT)))

    async def _tunnels_everywhere(self) -> None:
        def everywhere() -> bool | None:
            clusters = self._status(1)["clusters"]
            tunnels = [t for c in clusters for t in c["tunnels"]]
            return len({t["proxy"] for t in tunnels}) == 2 or None

        await self._eventually("agent", self._agent, everywhere)

    def _status(self, number: int) -> dict[str, Any]:
        socket = self._directory / f"proxy-{number}" / ADMIN_SOCKET
        status: dict[str, Any] = get_status(socket)
        return status

    def _backend_chosen(self, port: int) -> None:
        if self._first_port is None:
            self._first_port = port

    def _write_ssh_config(self, public: str, target_port: int) -> None:
        host, _, port = public.rpartition(":")
        anchors = load_trust_anchors(public_path(self._directory / "proxy-1/host_ca"))
        target = (self._directory / "target.pub").read_text().split()
        hosts = [
            f"@cert-authority [{host}]:{port} {anchor.to_openssh()}"
            for anchor in anchors
        ]
        hosts.append(f"[{HOST}.{CLUSTER}]:{target_port} {target[0]} {target[1]}")
        write_public(self._directory / "known_hosts", "\n".join(hosts) + "\n")
        config = f"""\
Host demo
    HostName {host}
    Port {port}
Host *.{CLUSTER}
    Port {target_port}
Host *
    User demo
    IdentityFile {self._directory / "user"}
    CertificateFile {self._directory / "user-cert.pub"}
    IdentitiesOnly yes
    UserKnownHostsFile {self._directory / "known_hosts"}
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    BatchMode yes
    LogLevel ERROR
"""
        write_public(self._directory / "ssh_config", config)
        self._target = target_port
        self._public = (host, int(port))

    def _ssh(self) -> list[str]:
        config = str(self._directory / "ssh_config")
        return ["ssh", "-F", config, "-J", "demo", f"{HOST}.{CLUSTER}", COMMAND]

    async def _show(self) -> None:
        if self.has_ssh:
            self._say(f"\n$ {self.ssh_line}")
            running = Deferred.fromCoroutine(run(self._reactor, self._ssh()))
        else:
            self._say("\nThere is no ssh on this machine; the demo's own client asks:")
            running = Deferred.fromCoroutine(
                ask_target(
                    self._reactor,
                    proxy=self._public,
                    target=(f"{HOST}.{CLUSTER}", self._target),
                    directory=self._directory,
                    command=COMMAND,
                    now=time.time,
                )
            )
        running.addTimeout(SSH_TIMEOUT, self._reactor)
        try:
            out, err, code = await running
        except TimeoutError:
            raise RtunnelError(f"no answer within {SSH_TIMEOUT:g} seconds") from None
        if code:
            raise RtunnelError(f"ssh failed with exit code {code}: {err.strip()}")
        self._say(out.rstrip())

    def _spawn(
        self,
        name: str,
        command: list[str],
        line_received: Callable[[str], None] = lambda line: None,
    ) -> Child:
        child = Child(self._directory / f"{name}.log", line_received)
        spawn(self._reactor, child, command)
        self._children.append(child)
        return child

    async def _eventually(
        self, name: str, child: Child, look: Callable[[], Any]
    ) -> Any:
        """What ``look`` returns, as soon as it returns something."""
        deadline = self._reactor.seconds() + PATIENCE
        while child.running and self._reactor.seconds() < deadline:
            try:
                seen = look()
            except RtunnelError:
                seen = None
            if seen is not None:
                return seen
            await deferLater(self._reactor, LOOK_INTERVAL)
        raise RtunnelError(self._died(name))

    def _died(self, name: str) -> str:
        log = (self._directory / f"{name}.log").read_text("utf-8", "replace")
        tail = "\n".join(log.splitlines()[-10:])
        return f"the {name} did not come up within {PATIENCE:g} seconds:\n{tail}"
