"""Tests for :mod:`rtunnel.ssh.exchanges` while the transport has no room."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rtunnel.ssh.limits import DEFAULT_LIMITS, TransportLimits
from rtunnel.wire.data_types import uint32
from rtunnel.wire.numbers import MSG_CHANNEL_EXTENDED_DATA, MSG_CHANNEL_WINDOW_ADJUST
from tests.ssh.exchanging import completed, logged_in, running
from tests.ssh.transports import End, RawClient, make_server


class BackPressureTests(SynchronousTestCase):
    """What a service is told while keys are exchanged and TCP is full."""

    def told(self, end: End) -> list[str]:
        """What the service was told, since the last time."""
        told = end.service.told[:]
        end.service.told.clear()
        return told

    def test_a_service_pauses_while_keys_are_exchanged(self) -> None:
        """And resumes, at both ends, whoever started."""
        for starter in (0, 1):
            pair = logged_in()
            for end in pair.ends:
                self.assertEqual(self.told(end), ["started"])
            end = pair.ends[starter]
            end.transport.exchanges.start()
            self.assertEqual(self.told(end), ["pause"])
            self.assertFalse(end.transport.is_writable)
            pair.pump()
            self.assertEqual(self.told(end), ["resume"])
            other = pair.ends[1 - starter]
            self.assertEqual(self.told(other), ["pause", "resume"])
            for each in pair.ends:
                self.assertTrue(each.transport.is_writable)

    def test_tcp_full_before_and_empty_during_an_exchange(self) -> None:
        """The service resumes with the keys, not before."""
        pair = logged_in()
        end = pair.server
        self.told(end)
        end.tcp_full()
        end.transport.exchanges.start()
        self.assertEqual(self.told(end), ["pause"])
        end.tcp_empty()
        self.assertEqual(self.told(end), [])
        pair.pump()
        self.assertEqual(self.told(end), ["resume"])

    def test_tcp_full_during_and_empty_after_an_exchange(self) -> None:
        """The service resumes with TCP, not before."""
        pair = logged_in()
        end = pair.server
        self.told(end)
        end.transport.exchanges.start()
        end.tcp_full()
        pair.pump()
        self.assertEqual(completed(pair), (2, 2))
        self.assertEqual(self.told(end), ["pause"])
        self.assertFalse(end.transport.is_writable)
        end.tcp_empty()
        self.assertEqual(self.told(end), ["resume"])

    def test_a_service_that_fills_tcp_as_it_resumes(self) -> None:
        """Is paused again at once, and resumed again."""
        pair = logged_in()
        end = pair.server
        self.told(end)
        resume = end.service.resume_writing
        fills = [end.tcp_full]

        def resume_and_fill() -> None:
            resume()
            if fills:
                fills.pop()()

        end.service.resume_writing = resume_and_fill  # type: ignore[method-assign]
        pair.client_transport.exchanges.start()
        pair.pump()
        self.assertEqual(self.told(end), ["pause", "resume", "pause"])
        end.tcp_empty()
        self.assertEqual(self.told(end), ["resume"])

    def test_a_service_that_ends_the_connection_as_it_resumes(self) -> None:
        """Does just that."""
        pair = logged_in()
        end = pair.server
        end.service.resume_writing = (  # type: ignore[method-assign]
            lambda: end.transport.disconnect(11, "enough")
        )
        end.transport.exchanges.start()
        pair.pump()
        self.assertEqual(end.transport.close_reason, "enough")

    def test_what_waits_for_an_exchange_is_bounded_in_number(self) -> None:
        """4096 packets."""
        pair = logged_in()
        pair.server_transport.exchanges.start()
        for _ in range(4096):
            pair.server_transport.sendPacket(MSG_CHANNEL_WINDOW_ADJUST, b"")
        self.assertEqual(pair.server_transport.close_reason, "")
        pair.server_transport.sendPacket(MSG_CHANNEL_WINDOW_ADJUST, b"")
        self.assertEqual(
            pair.server_transport.close_reason,
            "too much waits for the key exchange to end",
        )

    def test_what_waits_for_an_exchange_is_bounded_in_size(self) -> None:
        """1 MiB."""
        pair = logged_in()
        pair.server_transport.exchanges.start()
        for _ in range(32):
            pair.server_transport.sendPacket(
                MSG_CHANNEL_EXTENDED_DATA, bytes(16), bytes(2**15)
            )
        self.assertIn("too much waits", pair.server_transport.close_reason)

    def test_a_peer_that_answers_nothing_cannot_make_answers_pile_up(self) -> None:
        """It sends requests, we answer, it neither reads nor ends the exchange."""
        limits = TransportLimits(held_packets=64)
        server = make_server(Clock(), limits=limits)
        raw = RawClient(server).log_in()
        running(server).answer = lambda number, payload: server.sendPacket(
            MSG_CHANNEL_EXTENDED_DATA, payload
        )
        server.exchanges.start()
        for _ in range(65):
            raw.send(MSG_CHANNEL_EXTENDED_DATA, b"x")
        self.assertIn("too much waits", server.close_reason)

    def test_a_peer_that_does_not_read_is_given_up(self) -> None:
        """Once 512 KiB wait for it, not counting what TCP has taken."""
        pair = logged_in()
        server = pair.server_transport
        pair.server.tcp_full()
        packets = 0
        while not server.close_reason:
            server.sendPacket(MSG_CHANNEL_WINDOW_ADJUST, uint32(0) * 2)
            packets += 1
        self.assertEqual(server.close_reason, "the peer does not read what we send")
        # 4 + 16 + 16 bytes each.
        self.assertEqual(packets, DEFAULT_LIMITS.unread_bytes // 36 + 1)

    def test_a_peer_that_reads_slowly_is_not(self) -> None:
        """As long as TCP gets rid of what it has now and then."""
        pair = logged_in()
        for _ in range(10):
            pair.server.tcp_full()
            for _ in range(14_000):
                pair.server_transport.sendPacket(MSG_CHANNEL_WINDOW_ADJUST, uint32(0))
            pair.server.tcp_empty()
        self.assertEqual(pair.server_transport.close_reason, "")

    @settings(deadline=None, max_examples=150)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["send", "send", "rekey", "full", "empty", "move"]),
                st.integers(0, 1),
                st.integers(1, 3000),
            ),
            max_size=40,
        )
    )
    def test_whatever_happens_in_whatever_order(
        self, steps: list[tuple[str, int, int]]
    ) -> None:
        """Everything arrives in order, and both services can write at the end."""
        pair = logged_in(TransportLimits(exchange_burst=1000))
        sent: tuple[list[bytes], list[bytes]] = ([], [])
        for step, (what, index, size) in enumerate(steps):
            end = pair.ends[index]
            match what:
                case "send":
                    data = b"%d" % step + bytes(size)
                    sent[index].append(data)
                    end.transport.sendPacket(
                        MSG_CHANNEL_EXTENDED_DATA, data[:5], data[5:]
                    )
                case "rekey":
                    end.transport.exchanges.start()
                case "full":
                    end.tcp_full()
                case "empty":
                    end.tcp_empty()
                case "move":
                    pair.move(end, size)
        for end in pair.ends:
            end.tcp_empty()
        pair.pump()
        for index, end in enumerate(pair.ends):
            self.assertEqual(
                end.service.received,
                [(MSG_CHANNEL_EXTENDED_DATA, data) for data in sent[1 - index]],
            )
            self.assertTrue(end.transport.is_writable)
            told = [what for what in end.service.told if what != "started"]
            self.assertEqual(told, ["pause", "resume"] * (len(told) // 2))
            self.assertFalse(end.transport.exchanges.in_progress)
