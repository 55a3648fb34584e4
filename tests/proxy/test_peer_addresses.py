"""What a proxy publishes for other proxies to dial."""

from __future__ import annotations

import socket
import time

import attrs
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.config import (
    Address,
    PeerConfig,
    ProxyConfig,
    RegistryConfig,
    SshConfig,
    load_proxy,
)
from rtunnel.proxy.peer_addresses import (
    peer_addresses,
    primary_address,
    unreachable,
)
from rtunnel.proxy.service import ProxyService
from rtunnel.wire.source_address import parse_network
from tests.proxy.running import EVERYTHING, ProxyTestCase

CONFIG = ProxyConfig(cluster="a")
ETCD = attrs.evolve(CONFIG, registry=RegistryConfig("etcd:http://etcd:2379"))


def v4(host: str, port: int = 3023) -> IPv4Address:
    """Where a socket is bound."""
    return IPv4Address("TCP", host, port)


def v6(host: str, port: int = 3023) -> IPv6Address:
    """The same, for IPv6."""
    return IPv6Address("TCP", host, port)


def published(config: ProxyConfig, *listening: tuple[str, IAddress]) -> tuple[str, ...]:
    """On a host whose address is 192.0.2.5."""
    return peer_addresses(config, listening, lambda: "192.0.2.5")


class PeerAddressesTests(SynchronousTestCase):
    """From what is configured, or else from what is listened on."""

    def test_what_the_operator_says_is_published(self) -> None:
        """For peers first, then what agents are told."""
        here = ("tcp:3023", v4("127.0.0.1"))
        ssh = SshConfig(advertise=(Address("p1.example.com"),))
        peer = PeerConfig(advertise=(Address("10.0.0.1", 3024),))
        agents = attrs.evolve(CONFIG, ssh=ssh)
        self.assertEqual(published(agents, here), ("p1.example.com:3023",))
        both = attrs.evolve(CONFIG, ssh=ssh, peer=peer)
        self.assertEqual(published(both, here), ("10.0.0.1:3024",))

    def test_agents_addresses_are_not_those_of_a_listener_for_peers(self) -> None:
        """That one is published as it is."""
        config = attrs.evolve(
            CONFIG,
            ssh=SshConfig(advertise=(Address("p1.example.com"),)),
            peer=PeerConfig(listen=("tcp:3024:interface=10.0.0.1",)),
        )
        self.assertEqual(
            published(config, ("tcp:3024:interface=10.0.0.1", v4("10.0.0.1", 3024))),
            ("10.0.0.1:3024",),
        )

    def test_listeners_on_one_address_are_published_as_they_are(self) -> None:
        """Loopback addresses too, each once."""
        for config in (CONFIG, ETCD):
            self.assertEqual(
                published(
                    config,
                    ("tcp:0:interface=127.0.0.1", v4("127.0.0.1", 4711)),
                    ("tcp:0:interface=\\:\\:1", v6("::1", 4712)),
                    ("systemd:domain=INET:index=0", v4("127.0.0.1", 4711)),
                ),
                ("127.0.0.1:4711", "[::1]:4712"),
            )

    def test_listeners_on_all_addresses_get_one_that_the_others_can_use(self) -> None:
        """By where the others can be, which the registry tells."""
        listening = (("tcp:3023", v4("0.0.0.0")), ("tcp6:3024", v6("::", 3024)))
        self.assertEqual(
            published(CONFIG, *listening), ("127.0.0.1:3023", "[::1]:3024")
        )
        self.assertEqual(
            published(ETCD, *listening), ("192.0.2.5:3023", "192.0.2.5:3024")
        )

    def test_listeners_that_a_peer_cannot_simply_dial_are_left_out(self) -> None:
        """The operator has to say how they are reached, if they are."""
        self.assertEqual(
            published(
                CONFIG,
                ("haproxy:tcp:3023", v4("0.0.0.0")),
                ("ssl:443", v4("0.0.0.0", 443)),
                ("unix:/run/x", UNIXAddress("/run/x")),
                ("systemd:domain=UNIX:index=0", UNIXAddress("/run/x")),
            ),
            (),
        )

    def test_listeners_that_take_a_peer_for_a_balancer_are_left_out(self) -> None:
        """Who dials an address of this host comes from it."""
        balancers = ("127.0.0.1", "10.0.0.0/8")
        ssh = SshConfig(proxy_protocol_from=tuple(map(parse_network, balancers)))
        config = attrs.evolve(CONFIG, ssh=ssh)
        taken = (
            ("tcp:3023", v4("0.0.0.0")),
            ("tcp:1:interface=10.0.0.1", v4("10.0.0.1", 1)),
            ("tcp6:2:interface=\\:\\:ffff\\:127.0.0.1", v6("::ffff:127.0.0.1", 2)),
        )
        self.assertEqual(published(config, *taken), ())
        other = ("tcp:4:interface=127.0.0.2", v4("127.0.0.2", 4))
        self.assertEqual(published(config, *taken, other), ("127.0.0.2:4",))
        apart = attrs.evolve(config, peer=PeerConfig(listen=("tcp:3024",)))
        self.assertEqual(
            published(apart, ("tcp:3024", v4("0.0.0.0", 3024))), ("127.0.0.1:3024",)
        )

    def test_says_when_no_peer_can_come_and_what_to_do(self) -> None:
        """A listener for them alone; or addresses that only the operator knows."""
        networks = (parse_network("127.0.0.0/8"),)
        behind = attrs.evolve(CONFIG, ssh=SshConfig(proxy_protocol_from=networks))
        for addresses in ((), ("127.0.0.1:3023",), ("127.0.0.1:1", "127.0.0.2:1")):
            said = unreachable(behind, addresses)
            self.assertIn("ssh.proxy_protocol_from", said or "")
            self.assertIn("peer.listen = ", said or "")
        for addresses in (("10.0.0.1:1", "127.0.0.1:1"), ("lb.example.com:1",)):
            self.assertIsNone(unreachable(behind, addresses))
        apart = attrs.evolve(behind, peer=PeerConfig(listen=("tcp:3024",)))
        self.assertIsNone(unreachable(apart, ("127.0.0.1:3024",)))
        self.assertIn("peer.advertise", unreachable(apart, ()) or "")
        self.assertIn("peer.advertise", unreachable(CONFIG, ()) or "")
        alone = attrs.evolve(behind, registry=RegistryConfig("memory:"))
        self.assertIsNone(unreachable(alone, ()))

    def test_this_host_has_an_address_or_a_name(self) -> None:
        """Whatever network there is."""
        found = primary_address()
        if found != socket.gethostname():
            socket.inet_aton(found)
            self.assertNotEqual(found, "0.0.0.0")


class BehindBalancerTests(ProxyTestCase):
    """A proxy that takes whoever comes from this host for a balancer."""

    settings = (EVERYTHING, "ssh.proxy_protocol_from=['127.0.0.1']")

    async def warnings(self) -> list[str]:
        """What it warns of when it starts."""
        await self.proxy.stopService()
        config = load_proxy(self.state / "proxy.toml")
        with capturedLogs() as events:
            self.proxy = ProxyService(config, self.reactor, now=time.time)
            self.proxy.startService()
            await self.proxy.started
        return [
            formatEvent(event)
            for event in events
            if event["log_level"] is LogLevel.warn
        ]

    async def test_it_says_at_start_that_no_other_proxy_can_come(self) -> None:
        """And what to do, which helps."""
        path = self.state / "proxy.toml"
        (warning,) = await self.warnings()
        self.assertIn(f"{path}: other proxies cannot pass connections on", warning)
        self.assertIn("peer.listen = [", warning)
        text = path.read_text()
        path.write_text(
            text.replace(
                "[peer]\nlisten = []",
                '[peer]\nlisten = ["tcp:0:interface=127.0.0.1"]',
            )
        )
        self.assertEqual(await self.warnings(), [])
