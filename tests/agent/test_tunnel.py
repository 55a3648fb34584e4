"""One tunnel, over real sockets, to proxies of all manners."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import LogEvent, capturedLogs

from rtunnel.agent.machine import Deadlines
from rtunnel.agent.service import AgentService
from rtunnel.agent.tunnel import REPLACE_TIMEOUT
from rtunnel.config import Address
from rtunnel.discovery.messages import Drain, Hello
from rtunnel.errors import OpenRefused
from rtunnel.ssh.channel import Channel
from rtunnel.testing import RecordingReceiver
from rtunnel.wire.certificate import CertificateKind, sign_certificate
from rtunnel.wire.keys import PrivateKey
from tests.agent.proxies import (
    INSTANCE,
    NOW,
    AgentTestCase,
    FakeProxy,
    Side,
    authority,
    reactor,
)

SHORT = Deadlines(tcp=0.2, login=0.2, hello=0.2, close=0.2)


def reasons(logs: Sequence[LogEvent]) -> list[str]:
    """Why dials of the agent failed, as it has logged them."""
    return [
        event["reason"]
        for event in logs
        if event["log_format"].startswith("no tunnel through")
    ]


class TunnelTestCase(AgentTestCase):
    """An agent of one proxy."""

    async def in_service(self, **agent: object) -> tuple[FakeProxy, AgentService, Side]:
        """A proxy, an agent, and the tunnel between them."""
        proxy = self.make_proxy()
        service = self.start_agent(proxy.address, **agent)  # type: ignore[arg-type]
        await self.until(lambda: service.status().held == 1)
        return proxy, service, proxy.sides[0]


class GreetingTests(TunnelTestCase):
    """From the dial to the service."""

    async def test_tunnel_comes_into_service(self) -> None:
        """The hello has version and instance; the status shows the tunnel."""
        proxy, service, side = await self.in_service()
        hello = side.received[0]
        assert isinstance(hello, Hello)
        self.assertEqual(hello.instance, INSTANCE)
        self.assertEqual(hello.limits, {"channels": 1000})
        await self.until(lambda: service.status().tunnels[0].rtt_seconds is not None)
        (tunnel,) = service.status().tunnels
        rtt = tunnel.rtt_seconds
        assert rtt is not None
        self.assertLess(rtt, 5.0)
        self.assertEqual(
            attrs.evolve(tunnel, rtt_seconds=None),
            type(tunnel)(proxy.address, proxy.id, "in service", NOW, None, 0, False),
        )

    async def test_progress_is_logged(self) -> None:
        """Which proxy, through which address, and how many there are."""
        with capturedLogs() as logs:
            proxy, _, _ = await self.in_service()
            await deferLater(reactor, 0.05)
        lines = [event["log_format"].format(**event) for event in logs]
        self.assertIn(
            f"tunnel to proxy {proxy.id} ({proxy.address}) is in service", lines
        )
        self.assertIn("1 of 1 proxies have a tunnel", lines)
        self.assertNotIn("0 of 0 proxies have a tunnel", lines)

    async def refused(self, proxy: FakeProxy, **agent: object) -> str:
        """The reason for which no tunnel came up, as it was logged."""
        with capturedLogs() as logs:
            service = self.start_agent(
                proxy.address,
                **agent,  # type: ignore[arg-type]
            )
            await self.until(lambda: reasons(logs))
        self.assertEqual(service.status().held, 0)
        await service.stopService()
        return reasons(logs)[0]

    async def test_certificate_of_another_authority_is_refused(self) -> None:
        """Before the agent has said who it is."""
        proxy = FakeProxy(authority(), self.agent_ca)
        self.addCleanup(lambda: Deferred.fromCoroutine(proxy.stop()))
        self.assertIn("is not trusted here", await self.refused(proxy))
        self.assertEqual(proxy.sides, [])

    async def test_key_without_certificate_is_refused(self) -> None:
        """Known keys do not count, certificates do."""
        proxy = self.make_proxy(certificate=None)
        self.assertIn("no host certificate", await self.refused(proxy))
        self.assertEqual(proxy.sides, [])

    async def test_certificate_of_another_kind_or_time_is_refused(self) -> None:
        """A user's is no proxy's, and yesterday's is over."""
        for kind, begin, sentence in (
            (CertificateKind.USER, 0, "user certificate"),
            (CertificateKind.HOST, -9000, "expired"),
        ):
            proxy = self.make_proxy()
            proxy.certificate = sign_certificate(
                self.host_ca._key,
                proxy.key.public,
                kind=kind,
                key_id=proxy.id,
                principals=[proxy.id],
                valid_after=int(NOW) + begin,
                valid_before=int(NOW) + begin + 3600,
                serial=1,
            )
            self.assertIn(sentence, await self.refused(proxy))
            self.assertEqual(proxy.sides, [])

    async def test_certificate_without_a_proxy_id_is_refused(self) -> None:
        """Its first principal has to be a UUID."""
        proxy = self.make_proxy()
        proxy.certificate = sign_certificate(
            self.host_ca._key,
            proxy.key.public,
            kind=CertificateKind.HOST,
            key_id="proxy",
            principals=["lb.example.com", proxy.id],
            valid_after=int(NOW),
            valid_before=int(NOW) + 3600,
            serial=1,
        )
        self.assertIn("no proxy id", await self.refused(proxy))

    async def test_agent_that_the_proxy_does_not_let_in(self) -> None:
        """Its certificate is of an authority that the proxy does not know."""
        proxy = self.make_proxy()
        key = PrivateKey.generate()
        certificate = authority().sign_agent(
            key.public, cluster="b", instance=INSTANCE, validity=3600
        )
        self.credentials = attrs.evolve(
            self.credentials, key=key, certificate=certificate
        )
        self.assertIn("did not accept", await self.refused(proxy))

    async def test_hello_that_is_refused(self) -> None:
        """There may be a live tunnel of this instance."""
        proxy = self.make_proxy(answer_hello=lambda: False)
        self.assertIn("does not take the tunnel", await self.refused(proxy))
        await self.until(lambda: proxy.sides[0].lost)

    async def test_control_channel_that_is_refused(self) -> None:
        """The proxy's own sentence is logged."""
        proxy = self.make_proxy(takes_control=False)
        self.assertIn("no such channel here", await self.refused(proxy))


class DeadlineTests(TunnelTestCase):
    """Each step that takes too long is given up with a line of its own."""

    async def reason(self, address: str) -> str:
        """Why a dial there was given up."""
        with capturedLogs() as logs:
            service = self.start_agent(address, deadlines=SHORT)
            await self.until(lambda: reasons(logs))
        await service.stopService()
        return reasons(logs)[0]

    async def test_proxy_that_accepts_and_says_nothing(self) -> None:
        """A silent peer pins nothing."""
        port = self.listen_silently()
        self.assertEqual(
            await self.reason(f"127.0.0.1:{port}"), "no SSH login within 0.2 s"
        )

    async def test_proxy_that_does_not_answer_hello(self) -> None:
        """It is logged in, and no further."""
        waiting: Deferred[bool] = Deferred()
        proxy = self.make_proxy(answer_hello=lambda: waiting)
        self.assertEqual(
            await self.reason(proxy.address), "no answer to hello within 0.2 s"
        )

    async def test_network_that_swallows_everything(self) -> None:
        """No answer at all to the dial."""

        class Nowhere:
            async def connect(self, *args: object) -> object:
                return await Deferred()

        with capturedLogs() as logs:
            service = self.start_agent(
                "192.0.2.1:3023", deadlines=SHORT, connector=Nowhere()
            )
            await self.until(lambda: reasons(logs))
        await service.stopService()
        self.assertEqual(reasons(logs)[0], "no connection within 0.2 s")

    async def test_nobody_listens(self) -> None:
        """TCP's own reason is logged."""
        proxy = self.make_proxy()
        await proxy.stop()
        self.assertIn("refused", await self.reason(proxy.address))


class ServingTests(TunnelTestCase):
    """Connections through the tunnel."""

    async def open(self, side: Side, port: int) -> tuple[Channel, RecordingReceiver]:
        """A connection to a port of this host, and what comes from it."""
        channel = await side.open("", port)
        receiver = RecordingReceiver()
        channel.start(receiver)
        return channel, receiver

    async def test_bytes_pass(self) -> None:
        """Both ways, and end of data ends it in order."""
        port = self.listen_echoing()
        _, service, side = await self.in_service(allow=[f"localhost:{port}"])
        channel, receiver = await self.open(side, port)
        self.assertEqual(service.status().tunnels[0].channels, 1)
        channel.write(b"hello" * 20_000)
        await self.until(lambda: len(receiver.data) == 100_000)
        channel.write_eof()
        await self.until(lambda: receiver.is_closed)
        self.assertEqual(receiver.reasons, [None])
        await self.until(lambda: service.status().tunnels[0].channels == 0)

    async def test_refusals_reach_the_proxy(self) -> None:
        """With the code and the sentence, and nothing stays open."""
        proxy = self.make_proxy()
        closed = self.make_proxy()
        await closed.stop()
        service = self.start_agent(
            proxy.address, allow=[f"localhost:{closed.port}", "10.0.0.0/8:22"]
        )
        await self.until(lambda: service.status().held)
        (side,) = proxy.sides
        for host, port, code, sentence in (
            ("", 22, 1, "not on the allow list"),
            ("", closed.port, 2, "refused"),
        ):
            with self.assertRaises(OpenRefused) as caught:
                await side.open(host, port)
            self.assertEqual(caught.exception.reason_code, code)
            self.assertIn(sentence, caught.exception.text)
        self.assertEqual(service.status().tunnels[0].channels, 0)

    async def test_targets_that_do_not_answer_lock_nobody_out(self) -> None:
        """200 dials wait for a host that takes none, and one more is served."""
        full = socket.socket()
        self.addCleanup(full.close)
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        place = full.getsockname()
        for _ in range(4):
            filling = socket.socket()
            self.addCleanup(filling.close)
            filling.setblocking(False)
            filling.connect_ex(place)
        port = self.listen_echoing()
        _, service, side = await self.in_service(
            allow=[f"localhost:{port}", f"localhost:{place[1]}"]
        )
        waiting = [
            Deferred.fromCoroutine(side.open("", place[1])).addErrback(lambda _: None)
            for _ in range(200)
        ]
        await self.until(lambda: service.status().tunnels[0].channels == 200)
        channel, receiver = await self.open(side, port)
        channel.write(b"hello")
        await self.until(lambda: bytes(receiver.data) == b"hello")
        for each in waiting:
            each.cancel()

    async def test_other_channels_are_refused(self) -> None:
        """An agent serves one type."""
        _, _, side = await self.in_service()
        for kind in (b"session", b"direct-tcpip", b"control@rtunnel"):
            with self.assertRaises(OpenRefused) as caught:
                await side.open("", 22, kind)
            self.assertEqual(caught.exception.reason_code, 3)

    async def test_global_requests_are_refused_and_answered(self) -> None:
        """OpenSSH's keepalive is content with that."""
        _, service, side = await self.in_service()
        assert side.connection is not None
        request = side.connection.send_global_request(b"keepalive@openssh.com")
        await request.addErrback(lambda failure: b"refused")
        self.assertEqual(service.status().held, 1)

    async def test_lost_tunnel_ends_its_connections(self) -> None:
        """The target's side is closed, and the count is right afterwards."""
        port = self.listen_echoing()
        _, service, side = await self.in_service(allow=[f"localhost:{port}"])
        await self.open(side, port)
        assert side.connection is not None
        side.connection.close("going away")
        await self.until(
            lambda: [t.channels for t in service.status().tunnels] in ([], [0])
        )

    async def test_silent_proxy_is_found_dead(self) -> None:
        """Nothing is lost or reset, it just says nothing more."""
        _, service, side = await self.in_service(heartbeat=0.1)
        with capturedLogs() as logs:
            assert side.connection is not None
            transport = side.connection.transport.transport  # type: ignore[attr-defined]
            transport.pauseProducing()
            await self.until(lambda: service.status().held == 0, 5)
        ended = [event for event in logs if "has ended" in event["log_format"]]
        self.assertIn("nothing was heard for", ended[0]["reason"])

    async def test_malformed_discovery_ends_the_tunnel(self) -> None:
        """And that tunnel only: the agent dials again."""
        proxy, _, side = await self.in_service()
        assert side.control is not None
        sent = side.control._channel.send_request(b"discovery", b'{"proxies": 7}')
        sent.addErrback(lambda failure: None)
        await self.until(lambda: side.lost)
        self.assertIn("malformed control message", side.lost or "")
        await self.until(lambda: len(proxy.tunnels) == 1)


class DrainTests(TunnelTestCase):
    """Leaving without losing anything."""

    async def test_proxy_that_drains_keeps_what_is_open(self) -> None:
        """New channels are refused; the tunnel goes with the last connection."""
        port = self.listen_echoing()
        _, service, side = await self.in_service(allow=[f"localhost:{port}"])
        channel = await side.open("", port)
        receiver = RecordingReceiver()
        channel.start(receiver)
        side.send(Drain("an upgrade", 20.0))
        await self.until(lambda: service.status().tunnels[0].state == "draining")
        with self.assertRaises(OpenRefused) as caught:
            await side.open("", port)
        self.assertEqual(caught.exception.reason_code, 4)
        await deferLater(reactor, REPLACE_TIMEOUT + 0.1)
        channel.write(b"still here")
        await self.until(lambda: receiver.data == b"still here")
        channel.write_eof()
        await self.until(lambda: side.lost)
        self.assertIn("drained", side.lost or "")

    async def test_idle_tunnel_of_a_draining_proxy_is_let_go(self) -> None:
        """After a moment, there being no other proxy."""
        _, _, side = await self.in_service()
        side.send(Drain("an upgrade", 20.0))
        await self.until(lambda: side.lost, REPLACE_TIMEOUT + 3)

    async def test_leaving_is_logged_once_however_often_it_is_said(self) -> None:
        """Else a proxy could fill the disk of its agents."""
        port = self.listen_echoing()
        _, _, side = await self.in_service(allow=[f"localhost:{port}"])
        await side.open("", port)
        assert side.control is not None
        with capturedLogs() as logs:
            for _ in range(10):
                await side.control.send(Drain("an upgrade", 20.0))
        said = [e for e in logs if "is leaving" in (e.get("log_format") or "")]
        self.assertEqual(len(said), 1)

    async def test_stopping_agent_tells_the_proxy_and_waits(self) -> None:
        """What is open may finish; then the service has stopped."""
        port = self.listen_echoing()
        _, service, side = await self.in_service(
            allow=[f"localhost:{port}"], drain_timeout=20.0
        )
        channel = await side.open("", port)
        receiver = RecordingReceiver()
        channel.start(receiver)
        stopping = service.stopService()
        await self.until(lambda: any(isinstance(m, Drain) for m in side.received))
        with self.assertRaises(OpenRefused):
            await side.open("", port)
        self.assertFalse(stopping.called)
        self.assertTrue(service.status().stopping)
        channel.write(b"last words")
        await self.until(lambda: receiver.data == b"last words")
        channel.write_eof()
        await stopping
        await self.until(lambda: side.lost)

    async def test_stopping_agent_does_not_wait_for_ever(self) -> None:
        """A connection that stays open is cut when the time is over."""
        port = self.listen_echoing()
        _, service, side = await self.in_service(
            allow=[f"localhost:{port}"], drain_timeout=0.1
        )
        await side.open("", port)
        await service.stopService()
        await self.until(lambda: side.lost)

    async def test_stopping_while_dialling(self) -> None:
        """Nothing is waited for."""
        service = self.start_agent(f"127.0.0.1:{self.listen_silently()}")
        await self.until(lambda: service.status().tunnels)
        await deferLater(reactor, 0.05)
        await service.stopService()
        self.assertEqual(service.status().tunnels, ())


class AddressTests(TunnelTestCase):
    """A name in place of an address."""

    async def test_localhost(self) -> None:
        """IPv4 first, and what refuses is passed over."""
        proxy = self.make_proxy()
        service = self.start_agent(f"localhost:{proxy.port}")
        await self.until(lambda: service.status().held == 1)
        address = Address.parse(service.status().tunnels[0].address)
        self.assertEqual(address.host, "localhost")
