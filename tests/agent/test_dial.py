"""The site side of a dial: what an agent connects to, and what it does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.agent.dial import Site
from rtunnel.discovery.transport_request import TransportRequest
from rtunnel.errors import (
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_CONNECT_FAILED,
    OpenRefused,
)
from rtunnel.happy_eyeballs import ATTEMPT_DELAY
from rtunnel.ssh.connection import Attach
from rtunnel.target_dialer import DIAL_TIMEOUT, MAX_ATTEMPTS
from rtunnel.tcp_stream import TcpStream
from rtunnel.testing import MemoryStream
from rtunnel.trust.targets import TargetPatterns
from tests.agent.reactors import MemoryReactor

NAMES = {
    "web1": ["10.0.0.5"],
    "dual": ["fd00::5", "10.0.0.5"],
    "mixed": ["127.0.0.1", "10.0.0.7"],
    "evil": ["169.254.169.254"],
    "many": [f"10.0.1.{n}" for n in range(1, 21)],
}


class SiteTestCase(SynchronousTestCase):
    """A site in memory."""

    def setUp(self) -> None:
        """A reactor that knows some names."""
        self.reactor = MemoryReactor(NAMES)

    def dial(
        self,
        host: str,
        port: int = 22,
        *,
        allow: tuple[str, ...] = ("*:22",),
        pinned: dict[str, str] | None = None,
    ) -> Deferred[TcpStream]:
        """Begin a dial at a site with that allow list and resolve table."""
        patterns = TargetPatterns.parse(allow)
        site = Site(self.reactor, "b", patterns, pinned or {})
        return Deferred.fromCoroutine(site.dial(host, port))

    def refusal(self, dialled: Deferred[Any]) -> OpenRefused:
        """What a dial was refused with."""
        error = self.failureResultOf(dialled, OpenRefused).value
        assert isinstance(error, OpenRefused)
        return error


class AllowTests(SiteTestCase):
    """The agent's own list is the last word."""

    def prohibited(self, dialled: Deferred[TcpStream]) -> str:
        """The sentence of a refusal that is nobody's but the agent's."""
        error = self.refusal(dialled)
        self.assertEqual(error.reason_code, OPEN_ADMINISTRATIVELY_PROHIBITED)
        self.assertEqual(self.reactor.attempts, [])
        return error.text

    def test_listed_target_is_connected_to(self) -> None:
        """At the address that its name has."""
        dialled = self.dial("web1")
        self.assertEqual(self.reactor.attempts, [("10.0.0.5", 22)])
        self.assertNoResult(dialled)
        self.reactor.accept()
        self.assertIsInstance(self.successResultOf(dialled), TcpStream)

    def test_target_that_is_not_listed_is_refused_before_it_is_resolved(self) -> None:
        """The sentence names the cluster and the target."""
        text = self.prohibited(self.dial("web1", 23))
        self.assertEqual(
            text,
            "the agent of cluster 'b' refuses: web1:23 is not on the allow list",
        )
        self.assertEqual(self.reactor.resolver.asked, [])

    def test_every_address_of_a_name_is_checked(self) -> None:
        """Only those that pass are connected to."""
        dialled = self.dial("mixed")
        self.reactor.refuse()
        self.refusal(dialled)
        self.assertEqual(self.reactor.attempts, [("10.0.0.7", 22)])

    def test_name_of_special_addresses_only_is_refused(self) -> None:
        """A wildcard does not open the cloud's metadata service."""
        self.assertIn("169.254.169.254", self.prohibited(self.dial("evil")))

    def test_network_in_the_list_is_held_against_what_a_name_resolves_to(self) -> None:
        """A name in the network is allowed, another is not."""
        self.dial("web1", allow=("10.0.0.0/24:22",))
        self.assertEqual(self.reactor.attempts, [("10.0.0.5", 22)])
        self.setUp()
        self.prohibited(self.dial("many", allow=("10.0.0.0/24:22",)))

    def test_addresses_need_no_resolver(self) -> None:
        """They are checked as they are."""
        self.dial("10.0.0.9")
        self.dial("fd00::9")
        self.assertEqual(self.reactor.attempts, [("10.0.0.9", 22), ("fd00::9", 22)])
        self.assertEqual(self.reactor.resolver.asked, [])

    def test_loopback_is_not_reached_by_its_address(self) -> None:
        """Listing localhost is not listing 127.0.0.1, nor is a wildcard."""
        self.prohibited(self.dial("127.0.0.1", allow=("*:22",)))
        self.prohibited(self.dial("::1", allow=("*:22",)))


class MatrixTests(SiteTestCase):
    """Every way to ask for a special address, under lists that do not name it."""

    #: What may stand in a list without naming a special address.
    wide = ("*:*", "*.evil:*", "[::/0]:*", "0.0.0.0/0:*", "10.0.0.0/8:*", "web1:*")

    #: Special addresses, and names that resolve to them, in all spellings.
    hosts = (
        "",
        "localhost",
        "LocalHost.",
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:7f00:1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "fd00:ec2::254",
        "169.254.0.1",
        "fe80::1",
        "fe80::1%eth0",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "0",
        "1",
        "127.1",
        "2130706433",
        "2852039166",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "0xa9.0xfe.0xa9.0xfe",
        "evil",
        "loop.evil",
        "six.evil",
        "mapped.evil",
        "meta.evil",
    )

    def test_nothing_is_connected_to(self) -> None:
        """Whatever the list says of names and networks; 0 attempts."""
        table = {
            **NAMES,
            "loop.evil": ["127.0.0.1", "::1"],
            "six.evil": ["::ffff:127.0.0.1", "fe80::1"],
            "mapped.evil": ["::ffff:169.254.169.254"],
            "meta.evil": ["169.254.169.254", "fd00:ec2::254"],
        }
        for host in self.hosts:
            for port in (22, 80, 2379):
                self.reactor = MemoryReactor(table)
                error = self.refusal(self.dial(host, port, allow=self.wide))
                self.assertEqual(
                    (error.reason_code, self.reactor.attempts),
                    (OPEN_ADMINISTRATIVELY_PROHIBITED, []),
                    host,
                )

    def test_name_that_changes_its_mind_gains_nothing(self) -> None:
        """It is resolved once, and what was checked is what is connected to."""
        answers = [["10.0.0.5"], ["127.0.0.1"]]
        resolver = self.reactor.resolver
        resolver.table = _Rebinding(answers)
        dialled = self.dial("rebinding")
        self.reactor.refuse()
        self.refusal(dialled)
        self.assertEqual(self.reactor.attempts, [("10.0.0.5", 22)])
        self.assertEqual(resolver.asked, ["rebinding"])
        # Asked for again it is checked again.
        error = self.refusal(self.dial("rebinding"))
        self.assertIn("127.0.0.1, which is a loopback address", error.text)
        self.assertEqual(self.reactor.attempts, [("10.0.0.5", 22)])


class _Rebinding(dict[str, Sequence[str]]):
    """A table that has another answer each time."""

    def __init__(self, answers: list[list[str]]) -> None:
        super().__init__()
        self._answers = answers

    def get(self, name: str, default: object = None) -> Sequence[str]:
        """The next answer, whoever asks."""
        return self._answers.pop(0)


class OwnHostTests(SiteTestCase):
    """No host at all is the agent's own."""

    def test_own_host_is_loopback(self) -> None:
        """Both families, IPv4 first, and never what a resolver says."""
        for host in ("", "localhost", "LOCALHOST"):
            self.setUp()
            dialled = self.dial(host, allow=("localhost:22",))
            self.reactor.refuse()
            self.assertNoResult(dialled)
            self.assertEqual(
                self.reactor.attempts, [("127.0.0.1", 22), ("::1", 22)], host
            )
            self.assertEqual(self.reactor.resolver.asked, [])

    def test_own_host_has_to_be_listed(self) -> None:
        """A wildcard is for hosts out there."""
        self.refusal(self.dial("", allow=("*:22",)))
        self.assertEqual(self.reactor.attempts, [])


class ResolveTests(SiteTestCase):
    """Names."""

    def test_operators_own_table_comes_first(self) -> None:
        """The resolver is not asked, and the address may be a special one."""
        self.dial("web1", pinned={"web1": "127.0.0.1"})
        self.assertEqual(self.reactor.attempts, [("127.0.0.1", 22)])
        self.assertEqual(self.reactor.resolver.asked, [])

    def test_table_holds_for_names_in_any_case(self) -> None:
        """And with a dot at the end."""
        self.dial("WEB1", pinned={"web1": "10.9.9.9"})
        self.dial("web1.", pinned={"web1": "10.9.9.9"})
        self.assertEqual(self.reactor.attempts, [("10.9.9.9", 22)] * 2)

    def test_name_in_the_table_has_to_be_listed_all_the_same(self) -> None:
        """The table says where, the list says whether."""
        self.refusal(self.dial("web1", 23, pinned={"web1": "127.0.0.1"}))

    def test_unknown_name(self) -> None:
        """The sentence says whose resolver does not know it."""
        error = self.refusal(self.dial("nowhere"))
        self.assertEqual(error.reason_code, OPEN_CONNECT_FAILED)
        self.assertEqual(
            error.text, "the agent of cluster 'b' cannot resolve 'nowhere'"
        )


class ConnectTests(SiteTestCase):
    """Several addresses, slow ones and closed ones."""

    def test_closed_port(self) -> None:
        """The sentence says what was asked for, not what it resolved to."""
        dialled = self.dial("web1")
        self.reactor.refuse()
        error = self.refusal(dialled)
        self.assertEqual(error.reason_code, OPEN_CONNECT_FAILED)
        self.assertEqual(error.text, "connection to web1:22 refused")

    def test_second_address_when_the_first_refuses(self) -> None:
        """At once."""
        dialled = self.dial("dual")
        self.reactor.refuse()
        self.assertEqual(self.reactor.attempts, [("fd00::5", 22), ("10.0.0.5", 22)])
        self.reactor.accept()
        self.successResultOf(dialled)

    def test_second_address_beside_a_slow_first(self) -> None:
        """After a quarter of a second; the slow one is given up."""
        dialled = self.dial("dual")
        self.reactor.advance(ATTEMPT_DELAY)
        self.reactor.accept(1)
        self.successResultOf(dialled)
        self.assertTrue(self.reactor.given_up(0))

    def test_eight_addresses_are_tried(self) -> None:
        """Of a name with twenty."""
        dialled = self.dial("many")
        for _ in range(MAX_ATTEMPTS):
            self.assertNoResult(dialled)
            self.reactor.refuse()
        self.assertEqual(len(self.reactor.attempts), MAX_ATTEMPTS)
        self.refusal(dialled)

    def test_everything_has_ten_seconds(self) -> None:
        """The resolver's time counts."""
        for name in ("web1", "slow.example"):
            self.setUp()
            if name != "web1":
                self.reactor.resolver.at_once = False
            dialled = self.dial(name)
            self.reactor.advance(DIAL_TIMEOUT - 0.1)
            self.assertNoResult(dialled)
            self.reactor.advance(0.1)
            self.assertEqual(
                self.refusal(dialled).text,
                f"connection to {name}:22 timed out after 10 s",
            )
        self.assertEqual(self.reactor.attempts, [])

    def test_attempt_ends_with_the_time(self) -> None:
        """Nothing is left behind."""
        dialled = self.dial("web1")
        self.reactor.advance(DIAL_TIMEOUT)
        self.refusal(dialled)
        self.assertTrue(self.reactor.given_up(0))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_cancelling_gives_up(self) -> None:
        """The tunnel is gone: so is the dial."""
        dialled = self.dial("web1")
        dialled.cancel()
        self.failureResultOf(dialled)
        self.assertTrue(self.reactor.given_up(0))
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class ServeTests(SiteTestCase):
    """From the open of a channel to the splice."""

    def serve(self, data: bytes, gone: list[str]) -> Deferred[Attach]:
        """Answer an open."""
        site = Site(self.reactor, "b", TargetPatterns.parse(["web1:22"]), {})
        return Deferred.fromCoroutine(
            site.serve(data, "proxy-id", lambda: gone.append("gone"))
        )

    def test_bytes_go_both_ways_and_the_end_is_told(self) -> None:
        """The log says who, where, how much; the connection id is in each line."""
        gone: list[str] = []
        request = TransportRequest("web1", 22, "alice", "192.0.2.7", "c-17")
        with capturedLogs() as logs:
            serving = self.serve(request.encode(), gone)
            _, transport = self.reactor.accept()
            attach = self.successResultOf(serving)
            channel = MemoryStream()
            attach(channel)  # type: ignore[arg-type]
            channel.feed(b"hello")
            self.assertEqual(transport.value(), b"hello")
            transport.protocol.dataReceived(b"welcome!")
            self.assertEqual(channel.take(), b"welcome!")
            self.assertEqual(gone, [])
            channel.finish(None)
            transport.protocol.connectionLost(None)  # type: ignore[arg-type]
        self.assertEqual(gone, ["gone"])
        self.assertEqual([event["connection_id"] for event in logs], ["c-17"] * 2)
        self.assertEqual(logs[0]["user"], "alice")
        self.assertEqual(logs[0]["target"], "web1:22")
        self.assertEqual((logs[1]["bytes_in"], logs[1]["bytes_out"]), (5, 8))
        self.assertTrue(str(formatEvent(logs[1])).endswith(", 5 bytes in, 8 bytes out"))

    def test_refusal_is_logged_and_told(self) -> None:
        """With the same sentence."""
        request = TransportRequest("db1", 22, "alice", "192.0.2.7", "c-18")
        with capturedLogs() as logs:
            serving = self.serve(request.encode(), [])
        error = self.failureResultOf(serving, OpenRefused).value
        (event,) = logs
        self.assertEqual(event["reason"], error.text)
        self.assertEqual(event["connection_id"], "c-18")

    def test_malformed_request_is_refused(self) -> None:
        """The channel ends, and nothing more."""
        error = self.failureResultOf(self.serve(b"\x00\x01", []), OpenRefused).value
        self.assertEqual(error.reason_code, 1)

    def test_new_list_closes_what_it_does_not_allow_if_that_is_wanted(self) -> None:
        """By the name asked for and the address that it led to; others stay."""
        site = Site(self.reactor, "b", TargetPatterns.parse(["*:22"]), {})
        open_now = {}
        for name in ("web1", "10.0.0.9", "many"):
            request = TransportRequest(name, 22, "alice", "192.0.2.7", name)
            serving = Deferred.fromCoroutine(
                site.serve(request.encode(), "proxy-id", lambda: None)
            )
            _, open_now[name] = self.reactor.accept()
            attach = self.successResultOf(serving)
            attach(MemoryStream())  # type: ignore[arg-type]

        def change(*allow: str, close: bool = True, **pinned: str) -> set[str]:
            site.change(TargetPatterns.parse(allow), pinned, close=close)
            for name, tcp in list(open_now.items()):
                if tcp.disconnecting:
                    tcp.protocol.connectionLost(Failure(ConnectionAborted()))
                    del open_now[name]
            return set(open_now)

        everything = set(open_now)
        self.assertEqual(change("db1:22", close=False), everything)
        self.assertEqual(change("10.0.0.0/24:22", "many:22"), everything)
        self.assertEqual(change("web1:22", "10.0.1.0/24:*"), {"web1", "many"})
        # The address is what the name's own network allows.
        self.assertEqual(change("web1:22", "10.0.2.0/24:*"), {"web1"})
        self.assertEqual(change("web1:22", web1="10.0.0.77"), {"web1"})
        self.assertEqual(change("web1:23"), set())

    def test_what_was_being_opened_meanwhile_is_closed_too(self) -> None:
        """If what is open is; else it was allowed when it was asked for."""
        for close, refused in ((False, False), (True, True)):
            site = Site(self.reactor, "b", TargetPatterns.parse(["*:22"]), {})
            request = TransportRequest("web1", 22, "alice", "192.0.2.7", "id")
            serving = Deferred.fromCoroutine(
                site.serve(request.encode(), "proxy-id", lambda: None)
            )
            site.change(TargetPatterns.parse(["db1:22"]), {}, close=close)
            _, tcp = self.reactor.accept()
            self.assertEqual(tcp.disconnecting, refused)
            if refused:
                self.assertIn("not allowed any longer", self.refusal(serving).text)
            else:
                self.successResultOf(serving)

    def test_new_list_holds_for_new_connections(self) -> None:
        """After SIGHUP."""
        site = Site(self.reactor, "b", TargetPatterns.parse(["web1:22"]), {})
        site.change(TargetPatterns.parse(["web1:23"]), {"web1": "10.1.1.1"})
        Deferred.fromCoroutine(site.dial("web1", 23))
        self.assertEqual(self.reactor.attempts, [("10.1.1.1", 23)])
        self.refusal(Deferred.fromCoroutine(site.dial("web1", 22)))
