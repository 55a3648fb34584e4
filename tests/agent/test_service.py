"""The agent as a service, with several proxies over real sockets."""

from __future__ import annotations

from pathlib import Path

import attrs
from twisted.application.service import IService
from twisted.internet.task import deferLater
from twisted.logger import LogLevel, capturedLogs
from zope.interface.verify import verifyObject

from rtunnel.agent.machine import Deadlines
from rtunnel.agent.service import AgentService
from rtunnel.agent.tunnel import REPLACE_TIMEOUT
from rtunnel.config import AgentConfig
from rtunnel.discovery.messages import Drain
from rtunnel.errors import ConfigError, KeyFileError, OpenRefused
from rtunnel.state_directory import AgentCredentials
from rtunnel.trust.identity import AgentIdentity
from tests.agent.proxies import INSTANCE, AgentTestCase, Balancer, FakeProxy, reactor

CONFIG = """
cluster = "b"
proxies = ["{address}"]
allow = {allow}
"""


class MeshTests(AgentTestCase):
    """A tunnel to each proxy, and one only."""

    def served(self, proxies: list[FakeProxy]) -> bool:
        """Whether each of the proxies has its tunnel."""
        return all(len(proxy.tunnels) == 1 for proxy in proxies)

    async def test_every_proxy_behind_a_balancer_is_found(self) -> None:
        """Dials that land on a claimed proxy hang up before they log in."""
        proxies = self.make_proxies(3)
        choices = iter([0, 0, 0, 1, 0, 1, 0, 1])
        balancer = Balancer(proxies, lambda: next(choices, 2))
        service = self.start_agent(Balancer.ADDRESS, connector=balancer)
        await self.until(lambda: self.served(proxies))
        await self.until(lambda: service.status().held == 3)
        self.assertEqual(service.status().wanted, 3)
        self.assertEqual([len(proxy.sides) for proxy in proxies], [1, 1, 1])
        self.assertGreater(sum(proxy.connections for proxy in proxies), 3)

    async def test_advertised_addresses_are_dialled_directly(self) -> None:
        """The balancer leads to one proxy and is asked once."""
        proxies = self.make_proxies(4, direct=True)
        balancer = Balancer(proxies, lambda: 0)
        self.start_agent(Balancer.ADDRESS, connector=balancer)
        await self.until(lambda: self.served(proxies))
        self.assertEqual(balancer.dials, 1)
        self.assertEqual([proxy.connections for proxy in proxies], [1, 1, 1, 1])

    async def test_advertised_address_of_another_proxy_gets_no_login(self) -> None:
        """Only the certificate that names the expected id counts."""
        first, second, impostor = self.make_proxies(3)
        lie = attrs.evolve(second.advert(), addresses=(impostor.address,))
        first.adverts = lambda: [first.advert(), lie]
        with capturedLogs() as logs:
            self.start_agent(first.address)
            await self.until(lambda: impostor.connections)
            await self.until(
                lambda: any(
                    f"leads to proxy {impostor.id}" in event.get("reason", "")
                    for event in logs
                )
            )
        self.assertEqual(impostor.sides, [])

    async def test_advertised_address_that_means_nothing_is_passed_over(self) -> None:
        """A newer proxy may know more forms; the balancer leads there as well."""
        proxies = self.make_proxies(2)
        strange = ("quic:p.example.com:1", "p.example.com:notaport", "1.2.3.4.5:1")
        proxies[0].adverts = lambda: [
            proxies[0].advert(),
            attrs.evolve(proxies[1].advert(), addresses=strange),
        ]
        balancer = Balancer(proxies)
        self.start_agent(Balancer.ADDRESS, connector=balancer)
        await self.until(lambda: self.served(proxies))

    async def test_number_of_tunnels_is_kept_to(self) -> None:
        """Two of four; a lost one is replaced."""
        proxies = self.make_proxies(4, direct=True)
        service = self.start_agent(proxies[0].address, tunnels=2)
        await self.until(lambda: service.status().held == 2)
        await deferLater(reactor, 0.3)
        self.assertEqual(sum(len(proxy.tunnels) for proxy in proxies), 2)
        self.assertEqual(service.status().wanted, 2)
        other = next(proxy for proxy in proxies[1:] if proxy.tunnels)
        proxies[0].adverts = lambda: [p.advert(direct=True) for p in proxies[:4]]
        await other.stop()
        await self.until(lambda: sum(len(proxy.tunnels) for proxy in proxies) == 2)


class RecoveryTests(AgentTestCase):
    """Proxies that go and come back."""

    async def test_restarted_proxy_is_found_again(self) -> None:
        """At the same address, some time later."""
        proxy = self.make_proxy()
        service = self.start_agent(proxy.address)
        await self.until(lambda: service.status().held == 1)
        await proxy.stop()
        await self.until(lambda: service.status().held == 0)
        await deferLater(reactor, 0.2)
        proxy.start()
        await self.until(lambda: service.status().held == 1, 7)

    async def test_proxy_that_starts_after_the_agent_is_found(self) -> None:
        """The agent does not mind who is first."""
        proxy = self.make_proxy()
        await proxy.stop()
        service = self.start_agent(proxy.address)
        await deferLater(reactor, 0.1)
        proxy.start()
        await self.until(lambda: service.status().held == 1, 7)

    async def test_draining_proxy_is_left_for_another(self) -> None:
        """The other tunnel is there before the first is gone."""
        first, second = self.make_proxies(2, direct=True)
        service = self.start_agent(first.address, tunnels=1)
        await self.until(lambda: service.status().held == 1)
        (leaving,) = first.tunnels
        leaving.send(Drain("an upgrade", 20.0))
        await self.until(lambda: second.tunnels)
        await self.until(lambda: leaving.lost, REPLACE_TIMEOUT + 3)
        self.assertEqual(service.status().held, 1)
        await deferLater(reactor, 0.3)
        self.assertEqual(len(first.sides), 1)


class CredentialsTests(AgentTestCase):
    """Key and certificate."""

    def test_what_cannot_be_used_is_an_error_at_start(self) -> None:
        """Before anything is dialled."""

        def load(config: AgentConfig, now: float) -> AgentCredentials:
            raise KeyFileError("agent_key: no such file")

        self.load = load  # type: ignore[method-assign]
        self.assertRaises(KeyFileError, self.start_agent, "127.0.0.1:1")

    async def test_each_dial_asks_for_the_present_credentials(self) -> None:
        """What the files held at the last dial does not count for ever."""
        proxy = self.make_proxy()
        service = self.start_agent(proxy.address)
        await self.until(lambda: service.status().held == 1)
        renewed = self.agent_ca.sign_agent(
            self.credentials.key.public, cluster="b", instance=INSTANCE, validity=60
        )
        self.credentials = attrs.evolve(self.credentials, certificate=renewed)
        service._credentials.reload()
        proxy.sides[0].connection.close()  # type: ignore[union-attr]
        await self.until(lambda: len(proxy.tunnels) == 1 and len(proxy.sides) == 2)
        identity = proxy.sides[1].connection.identity  # type: ignore[union-attr]
        assert isinstance(identity, AgentIdentity)
        self.assertEqual(identity.certificate, renewed)


class ReloadTests(AgentTestCase):
    """SIGHUP."""

    def write(self, path: Path, address: str, allow: str, more: str = "") -> None:
        """The agent's config file."""
        path.write_text(CONFIG.format(address=address, allow=allow) + more)

    async def test_new_allow_list_holds_at_once(self) -> None:
        """The tunnel stays."""
        port = self.listen_echoing()
        proxy = self.make_proxy()
        path = Path(self.mktemp())
        service = self.start_agent(proxy.address, allow=(), path=path)
        await self.until(lambda: service.status().held == 1)
        (side,) = proxy.tunnels
        with self.assertRaises(OpenRefused):
            await side.open("", port)
        self.write(path, proxy.address, f'["localhost:{port}"]')
        service.reload()
        (await side.open("", port)).close()
        self.assertEqual(len(proxy.sides), 1)

    async def test_what_needs_a_restart_is_said(self) -> None:
        """And does not change anything until then."""
        path = Path(self.mktemp())
        self.write(path, "other.example.com:3023", '["localhost:22"]')
        service = self.start_agent(self.make_proxy().address, path=path)
        with capturedLogs() as logs:
            service.reload()
        self.assertEqual([event.get("key") for event in logs], ["proxies", None])

    async def test_file_that_cannot_be_used_changes_nothing(self) -> None:
        """The error names it; the agent runs on."""
        path = Path(self.mktemp())
        path.write_text("cluster = 7")
        service = self.start_agent(self.make_proxy().address, path=path)
        self.assertRaises(ConfigError, service.reload)
        await self.until(lambda: service.status().held == 1)


class ServiceTests(AgentTestCase):
    """The service's own life."""

    async def test_it_is_a_service(self) -> None:
        """As Twisted has it."""
        service = self.start_agent(self.make_proxy().address)
        verifyObject(IService, service)
        self.assertTrue(service.running)

    async def test_it_stops_before_it_has_started_to_dial(self) -> None:
        """And leaves nothing behind."""
        service = self.start_agent(self.make_proxy().address)
        await service.stopService()
        self.assertEqual(service.status().tunnels, ())

    async def test_it_can_be_started_again(self) -> None:
        """A service may be."""
        proxy = self.make_proxy()
        service = self.start_agent(proxy.address)
        await self.until(lambda: service.status().held == 1)
        await service.stopService()
        await self.until(lambda: not proxy.tunnels)
        service.startService()
        await self.until(lambda: len(proxy.tunnels) == 1)

    async def test_every_stop_waits(self) -> None:
        """The second as long as the first."""
        proxy = self.make_proxy()
        service = self.start_agent(proxy.address)
        await self.until(lambda: service.status().held == 1)
        first, second = service.stopService(), service.stopService()
        await first
        await second
        self.assertEqual(service.status().tunnels, ())

    async def test_status_tells_who_it_is(self) -> None:
        """Cluster and instance, from the certificate."""
        service = self.start_agent(self.make_proxy().address)
        status = service.status()
        self.assertEqual((status.cluster, status.instance), ("b", INSTANCE))
        self.assertFalse(status.stopping)

    async def test_failed_dials_are_warnings_and_landings_are_not(self) -> None:
        """Nobody wants to read of what is as it should be."""
        proxies = self.make_proxies(2)
        choices = iter([0, 0, 0])
        balancer = Balancer(proxies, lambda: next(choices, 1))
        with capturedLogs() as logs:
            service: AgentService = self.start_agent(
                Balancer.ADDRESS, connector=balancer, deadlines=Deadlines()
            )
            await self.until(lambda: service.status().held == 2)
        levels = {
            event["log_level"]
            for event in logs
            if event["log_format"].startswith("no tunnel through")
        }
        self.assertEqual(levels, {LogLevel.debug})
