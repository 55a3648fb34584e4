"""Every user, cluster and target: nothing is opened that the rules deny.

The agents here open whatever they are asked for, so that only the proxies stand in
between; what an agent's own list says is in tests/agent/test_dial.py.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product

from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from rtunnel.errors import (
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    ConnectionClosed,
    OpenRefused,
    RequestFailed,
)
from rtunnel.ssh.connection import Connection
from tests.proxy.running import Agent, Peer
from tests.proxy.two_proxies import TwoProxiesTestCase

#: A day on which nobody runs these tests: half a week from now.
ANOTHER_DAY = (datetime.now(UTC) + timedelta(days=3)).strftime("%a").lower()

RULES = f"""allow=[
    {{users=["ops"], clusters=["b"], targets=["web1:22", "10.0.0.0/8:22"]}},
    {{users=["bob"], clusters=["c*"], targets=["*.lan:*", "db1:5432"]}},
    {{users=["carol"], clusters=["*"], targets=["*:*"], times=["{ANOTHER_DAY}"]}},
    {{users=["erin"], clusters=["a"], targets=["*:*"]}},
]"""

#: Who is in which group; Dave's are almost those that the rules speak of.
USERS = {
    "alice": ("ops",),
    "bob": (),
    "carol": ("guests",),
    "dave": ("op", "opsx", "OPS"),
    "erin": (),
}

CLUSTERS = ("a", "b", "c", "cc")

#: Ways to write what somebody may want to reach, well or badly meant.
HOSTS = (
    "",
    "localhost",
    "web1",
    "WEB1",
    "web1.lan",
    "web1.lan.evil",
    "db1",
    "10.0.0.5",
    "::ffff:10.0.0.5",
    "11.0.0.5",
    "127.0.0.1",
    "::1",
    "::ffff:127.0.0.1",
    "169.254.169.254",
    "fe80::1",
    "0",
    "0.0.0.0",
    "127.1",
    "2130706433",
    "0x7f000001",
    "017700000001",
    "0177.0.0.1",
)

PORTS = (22, 5432)


def is_allowed(user: str, cluster: str, host: str, port: int) -> bool:
    """What the rules above mean, written out by hand."""
    host = host.lower()
    if user == "alice" and cluster == "b" and port == 22:
        return host in ("web1", "10.0.0.5", "::ffff:10.0.0.5")
    if user == "bob" and cluster in ("c", "cc"):
        return host == "web1.lan" or (host, port) == ("db1", 5432)
    return False


class MatrixTestCase(TwoProxiesTestCase):
    """Agents of three clusters, each with a tunnel to one proxy only."""

    timeout = 120

    async def agents_at(self, port: int) -> dict[str, Agent]:
        """One for each cluster, and the first proxy knows of them."""
        agents = {}
        for cluster in ("b", "c", "cc"):
            agent = await self.agent_in_service(cluster, cluster=cluster, port=port)
            while not self.knows(self.proxy, agent):
                await deferLater(self.reactor, 0.01)
            agents[cluster] = agent
        return agents

    async def lets_through(
        self, client: Connection, host: str, cluster: str, port: int
    ) -> bool:
        """Whether the target can be opened; a refusal has to be one by the rules."""
        name = f"{host}.{cluster}" if host else cluster
        try:
            channel = await self.open_target(client, name, port)
        except OpenRefused as refused:
            self.assertEqual(
                refused.reason_code, OPEN_ADMINISTRATIVELY_PROHIBITED, refused.text
            )
            return False
        channel.abort()
        return True

    async def check(self, agents: dict[str, Agent]) -> None:
        """Try everything; count what reached an agent."""
        asked = 0
        for user, groups in USERS.items():
            client = await self.client(user, *groups)
            for cluster, host, port in product(CLUSTERS, HOSTS, PORTS):
                expected = is_allowed(user, cluster, host, port)
                found = await self.lets_through(client, host, cluster, port)
                self.assertEqual(found, expected, (user, host, cluster, port))
                asked += expected
            client.close("done")
        self.assertEqual(sum(len(each.dialled) for each in agents.values()), asked)
        self.assertGreater(asked, 0)


class AccessMatrixTests(MatrixTestCase):
    """Both proxies have the rules."""

    settings = (RULES,)
    other_settings = (RULES,)

    async def test_at_the_proxy_that_holds_the_tunnels(self) -> None:
        """No agent is asked for anything that is denied."""
        await self.check(await self.agents_at(self.port))

    async def test_through_a_peer(self) -> None:
        """The same by way of the proxy that holds none."""
        await self.check(await self.agents_at(self.other_port))


class PeerRulesTests(MatrixTestCase):
    """The first proxy allows everything; the one with the tunnels does not."""

    other_settings = (RULES,)

    async def test_second_proxy_decides_by_the_same_code(self) -> None:
        """Nothing gets past it because another proxy was careless."""
        await self.check(await self.agents_at(self.other_port))


class LocalSiteTests(TwoProxiesTestCase):
    """The proxies' own cluster: what [local] allows, dialled by the proxy itself."""

    settings = (
        'allow=[{users=["*"], clusters=["a"], targets=["*:*"]}]',
        'local.allow=["*:*"]',
    )

    async def test_special_addresses_are_refused_in_every_spelling(self) -> None:
        """A wildcard covers none of them, however they are written."""
        factory = Factory.forProtocol(Protocol)
        listening = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(listening.stopListening)
        port = listening.getHost().port
        client = await self.client("bob")
        for host in HOSTS:
            if host in ("web1", "WEB1", "web1.lan", "web1.lan.evil", "db1"):
                continue
            if host.endswith(("10.0.0.5", "11.0.0.5")):
                continue
            name = f"{host}.a" if host else "a"
            with self.assertRaises(OpenRefused, msg=host) as caught:
                await self.open_target(client, name, port)
            self.assertEqual(
                caught.exception.reason_code, OPEN_ADMINISTRATIVELY_PROHIBITED, host
            )


class RoleTests(TwoProxiesTestCase):
    """What an agent or a person is not, whatever they try."""

    async def test_agent_cannot_serve_another_cluster(self) -> None:
        """Its cluster is the one in its certificate; it has nowhere to say another."""
        agent = await self.agent_in_service(cluster="b")
        agent_of_c = await self.agent_in_service("c", cluster="c")
        client = await self.client("bob")
        await self.open_target(client, "web1.c")
        self.assertEqual((len(agent.dialled), len(agent_of_c.dialled)), (0, 1))
        clusters = {
            each["name"]: [tunnel["agent"] for tunnel in each["tunnels"]]
            for each in self.proxy.status()["clusters"]
        }
        self.assertEqual(clusters, {"b": [agent.instance], "c": [agent_of_c.instance]})

    async def test_agent_cannot_unseat_another_instance(self) -> None:
        """By its name in hello, at either proxy; the tunnel stays and serves."""
        victim = await self.agent_in_service("victim")
        for number, port in enumerate((self.port, self.other_port)):
            state = self.make_agent("b", f"thief-{number}")
            thief = await self.agent(state, port=port)
            with self.assertRaises((RequestFailed, ConnectionClosed)):
                await thief.greet(self.reactor, instance=victim.instance)
            self.assertIn("another instance", await thief.lost)
        client = await self.client("bob")
        await self.open_target(client, "web1.b")
        self.assertEqual(len(victim.dialled), 1)
        self.assertFalse(victim.lost.called)

    async def test_agent_is_no_user(self) -> None:
        """Its certificate opens no target and no session."""
        agent = await self.agent_in_service()
        assert agent.connection is not None
        with self.assertRaises(OpenRefused):
            await self.open_target(agent.connection, "web1.b")
        with self.assertRaises(OpenRefused):
            await agent.connection.open_channel(b"session")
        self.assertEqual(agent.dialled, [])

    async def test_user_is_no_agent(self) -> None:
        """Not even one who is named like a cluster."""
        client = await self.client("b")
        for kind in (b"control@rtunnel", b"transport@rtunnel", b"sign@rtunnel"):
            with self.assertRaises(OpenRefused):
                await client.open_channel(kind)
        self.assertEqual(self.proxy.status()["clusters"], [])
        self.assertIsInstance(self.peers[0], Peer)
