"""Every limit on peers that have logged in, passed on a real proxy.

Measured as in :mod:`tests.interop.test_limits_before_login`. What is wrong with one
channel ends that channel; what is wrong with the connection ends the connection.

=====  ============================================================================
C3     data for a peer that grants all and reads nothing
C6     maximum packets: at least 1 KiB
C7     CLOSE while there is data that cannot be sent
C8     a window: 2^32 - 1 bytes in all
C9     data: inside the window, in packets of 32 KiB, before the end of data
C10    open channels: 1000; sessions that lead nowhere yet: 10; opens per second, opens
       and requests without an answer
C11    answers that nobody asked for, channels that there are not
C12    answers: in the order of the requests
C13    key exchanges that do not go on: little memory; the time is a limit of
       :mod:`tests.interop.test_limits_of_time`
C16    names of targets and of channel types
C19    a peer that is sent away and does not read
=====  ============================================================================
"""

from __future__ import annotations

import contextlib
import select
import signal
import time
from collections.abc import Iterator
from functools import partial

from rtunnel.proxy.client import MAX_SESSIONS
from rtunnel.wire.data_types import Reader, boolean, string, uint32
from rtunnel.wire.negotiation import KexInit
from rtunnel.wire.numbers import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_OPEN_FAILURE,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_SUCCESS,
    MSG_CHANNEL_WINDOW_ADJUST,
    MSG_GLOBAL_REQUEST,
    MSG_IGNORE,
    MSG_KEXINIT,
    MSG_REQUEST_FAILURE,
    MSG_REQUEST_SUCCESS,
)
from tests.interop.limit_testing import Act, LimitTestCase, closes, goes_on, then
from tests.interop.processes import tcp_sockets, wait_until
from tests.interop.socket_client import SocketClient, target

_KIB = 1024
_WINDOW = 256 * _KIB
_PACKET = 32 * _KIB

#: More than any window may come to.
_ALL = 2**32 - 1

#: SSH_OPEN_RESOURCE_SHORTAGE.
_SHORTAGE = 4


def request(channel: int, name: bytes, data: bytes = b"") -> bytes:
    """The payload of a channel request that wants an answer."""
    return uint32(channel) + string(name) + boolean(True) + data


def refused(code: int, sentence: str) -> Act:
    """An outcome: the channel is refused, and the connection goes on."""

    def outcome(client: SocketClient) -> None:
        answer, said = client.answer_to_open()
        assert isinstance(said, str), "the channel was opened"
        assert answer == code and sentence in said, (answer, said)
        goes_on(client)

    return outcome


def channel_ends(client: SocketClient) -> None:
    """An outcome: the channel is closed, nothing comes for it, the rest goes on."""
    client.wait_channel_closed()
    goes_on(client)
    late = {MSG_CHANNEL_DATA, MSG_CHANNEL_CLOSE, MSG_CHANNEL_WINDOW_ADJUST}
    assert not late & set(client.numbers()), client.numbers()


class ChannelTests(LimitTestCase):
    """C6 to C9: windows, packets, and the end of a channel."""

    def in_session(self) -> SocketClient:
        """One with channel 0 open, of which nobody reads."""
        client = self.log_in()
        assert client.open_channel() == 0
        return client

    def test_c6_maximum_packets(self) -> None:
        """Less than 1 KiB is refused, as every byte would cost a packet."""
        sizes = (0, 1, 9, 512, 1023) * 2
        outcome = refused(1, "1024 is the least")
        self.pass_each(
            [
                (
                    partial(SocketClient.request_channel, max_packet=size),
                    outcome,
                )
                for size in sizes
            ]
        )

    def test_c6_windows_and_packets_without_bounds(self) -> None:
        """2^32 - 1 of both is taken for what it is, and data comes in order."""
        port = self.target("zeros")

        def act(client: SocketClient) -> None:
            client.open_target("web1.b", port, window=_ALL, max_packet=_ALL)

        def outcome(client: SocketClient) -> None:
            assert not any(client.take_data(300_000))

        self.pass_limit(act, outcome)

    def test_c7_close_with_data_that_cannot_be_sent(self) -> None:
        """CLOSE is answered at once, the data dropped, and the channel gone.

        More often than there may be channels, so that none can have stayed.
        """

        def act(client: SocketClient) -> None:
            for number in range(1100):
                channel = client.open_channel(window=0)
                client.send(
                    MSG_CHANNEL_REQUEST, request(channel, b"exec", string(b"help"))
                )
                client.take(MSG_CHANNEL_SUCCESS)
                client.send(MSG_CHANNEL_CLOSE, uint32(channel))
                client.wait_channel_closed()
                if number % 200 == 0:
                    # Nothing that waited here waits there.
                    client.received.clear()

        self.pass_limit(act, goes_on, count=1)

    def test_c7_close_while_a_target_sends(self) -> None:
        """The same, with a target that never stops."""
        port = self.target("zeros")

        def act(client: SocketClient) -> None:
            channel = client.open_target("web1.b", port, window=50_000)
            client.take_data(50_000)
            client.send(MSG_CHANNEL_CLOSE, uint32(channel))

        self.pass_limit(act, then(SocketClient.wait_channel_closed, goes_on))

    def test_c8_sum_of_a_window(self) -> None:
        """2^32 - 1; more ends the connection, all at once or little by little."""

        def at_once(client: SocketClient) -> None:
            client.send(MSG_CHANNEL_WINDOW_ADJUST, uint32(0) + uint32(_ALL))

        def by_steps(client: SocketClient) -> None:
            for _ in range(4):
                client.send(MSG_CHANNEL_WINDOW_ADJUST, uint32(0) + uint32(2**30))

        outcome = closes("a channel window above 2^32-1 bytes")
        self.pass_each([(at_once, outcome), (by_steps, outcome)] * 4, self.in_session)

    def test_c9_data_past_the_window(self) -> None:
        """Closes the channel, by one byte or by many, and by the other stream too."""

        def fill(client: SocketClient) -> None:
            for _ in range(_WINDOW // _PACKET):
                client.send_data(0, bytes(_PACKET))

        def extended(client: SocketClient) -> None:
            data = uint32(0) + uint32(1) + string(b"x")
            client.send(MSG_CHANNEL_EXTENDED_DATA, data)

        acts = (
            then(fill, lambda client: client.send_data(0, b"x")),
            then(fill, lambda client: client.send_data(0, bytes(_PACKET))),
            then(fill, *[lambda client: client.send_data(0, b"x")] * 100),
            then(fill, extended),
        )
        self.pass_each([(act, channel_ends) for act in acts], self.in_session)

    def test_c9_data_in_a_packet(self) -> None:
        """32 KiB; more closes the channel."""
        self.pass_limit(
            lambda client: client.send_data(0, bytes(_PACKET + 1)),
            channel_ends,
            self.in_session,
        )

    def test_c9_data_after_the_end_of_data(self) -> None:
        """Closes the channel."""

        def act(client: SocketClient) -> None:
            client.send(MSG_CHANNEL_EOF, uint32(0))
            client.send_data(0, b"x")

        self.pass_limit(act, channel_ends, self.in_session)

    def test_c9_data_after_close(self) -> None:
        """The channel is none any more: ends the connection."""

        def act(client: SocketClient) -> None:
            client.send(MSG_CHANNEL_CLOSE, uint32(0))
            client.send_data(0, b"x")

        self.pass_limit(act, closes("not open"), self.in_session)

    def test_c9_lengths_of_data(self) -> None:
        """They are what they say, or the connection ends."""
        payloads = (
            b"",
            uint32(0),
            uint32(0) + uint32(5) + b"1234",
            uint32(0) + uint32(3) + b"1234",
            uint32(0) + uint32(_ALL) + b"1234",
        )
        self.pass_each(
            [
                (
                    partial(
                        SocketClient.send, number=MSG_CHANNEL_DATA, payload=payload
                    ),
                    closes("channel data"),
                )
                for payload in payloads
            ],
            self.in_session,
        )


class CountTests(LimitTestCase):
    """C10: how many, and how fast."""

    def full(self) -> SocketClient:
        """One with 1000 channels: sessions that are over and that it leaves open."""
        client = self.log_in()
        for _ in range(1000 // MAX_SESSIONS):
            for number in [client.open_channel() for _ in range(MAX_SESSIONS)]:
                help_ = request(number, b"exec", string(b"help"))
                client.send(MSG_CHANNEL_REQUEST, help_)
            while client.numbers().count(MSG_CHANNEL_CLOSE) < MAX_SESSIONS:
                client.receive()
            client.received.clear()
        return client

    def test_c10_open_channels(self) -> None:
        """1000, those being opened included."""
        self.pass_limit(
            lambda client: client.request_channel(),
            refused(_SHORTAGE, "1000 channels are open on this connection already"),
            self.full,
            count=2,
        )

    def test_c10_sessions(self) -> None:
        """10 that lead nowhere yet."""

        def waiting() -> SocketClient:
            client = self.log_in()
            for _ in range(MAX_SESSIONS):
                client.open_channel()
            return client

        self.pass_limit(
            lambda client: client.request_channel(),
            refused(_SHORTAGE, "10 sessions of this connection are open already"),
            waiting,
        )

    def test_c10_opens_per_second(self) -> None:
        """2000 at once; what is more is refused, and leaves nothing behind."""

        def act(client: SocketClient) -> None:
            for _ in range(20):
                packets = [
                    client.packet(
                        MSG_CHANNEL_OPEN,
                        string(b"x") + uint32(n) + uint32(1000) + uint32(32768),
                    )
                    for n in range(500)
                ]
                client.send_bytes(b"".join(packets))
                while client.numbers().count(MSG_CHANNEL_OPEN_FAILURE) < 500:
                    client.receive()
                for number, payload in client.received:
                    if number == MSG_CHANNEL_OPEN_FAILURE:
                        codes.append(Reader(payload, 4).uint32())
                client.received.clear()

        codes: list[int] = []
        self.pass_limit(act, goes_on, count=1)
        self.assertIn(_SHORTAGE, codes)
        self.assertGreater(codes.count(_SHORTAGE), codes.count(3))

    @contextlib.contextmanager
    def stopped_agent(self) -> Iterator[None]:
        """The agent answers nothing for a moment."""
        (agent,) = self.deployment.agents
        agent.process.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            agent.process.signal(signal.SIGCONT)

    def test_c10_opens_without_an_answer(self) -> None:
        """128; more are refused."""
        port = self.target("echo")

        def act(client: SocketClient) -> None:
            client.request_channel(b"direct-tcpip", target("web1.b", port))

        def waiting() -> SocketClient:
            client = self.log_in()
            for _ in range(128):
                act(client)
            client.still_works()
            return client

        outcome = refused(_SHORTAGE, "128 channels are being opened already")
        with self.stopped_agent():
            self.pass_limit(act, outcome, waiting, count=2)
        wait_until(lambda: len(self.proxy.tunnels()) == 1, 20, "the tunnel")

    def test_c10_requests_without_an_answer(self) -> None:
        """64 on a channel; more close it."""
        port = self.target("echo")
        subsystem = string(f"proxy:web1:{port}@b".encode())

        def act(client: SocketClient) -> None:
            channel = client.open_channel()
            client.send(MSG_CHANNEL_REQUEST, request(channel, b"subsystem", subsystem))
            for _ in range(64):
                client.send(MSG_CHANNEL_REQUEST, request(channel, b"env"))

        with self.stopped_agent():
            self.pass_limit(act, channel_ends, count=2)
        wait_until(lambda: len(self.proxy.tunnels()) == 1, 20, "the tunnel")


class AnswerTests(LimitTestCase):
    """C11, C12: what belongs together."""

    def test_c11_answers_that_nobody_asked_for(self) -> None:
        """End the connection."""

        def at() -> SocketClient:
            client = self.log_in()
            client.open_channel()
            return client

        numbers = (
            MSG_REQUEST_SUCCESS,
            MSG_REQUEST_FAILURE,
            MSG_CHANNEL_SUCCESS,
            MSG_CHANNEL_FAILURE,
            MSG_CHANNEL_OPEN_CONFIRMATION,
            MSG_CHANNEL_OPEN_FAILURE,
        )
        self.pass_each(
            [
                (
                    partial(
                        SocketClient.send,
                        number=number,
                        payload=uint32(0) + (b"" if number > 98 else bytes(12)),
                    ),
                    closes("that was never made"),
                )
                for number in numbers
            ],
            at,
        )

    def test_c11_channels_that_there_are_not(self) -> None:
        """End the connection, whatever is said of them."""
        cases = []
        for channel in (0, 1, _ALL):
            head = uint32(channel)
            for number, payload in (
                (MSG_CHANNEL_WINDOW_ADJUST, head + uint32(1)),
                (MSG_CHANNEL_DATA, head + string(b"x")),
                (MSG_CHANNEL_EXTENDED_DATA, head + uint32(1) + string(b"x")),
                (MSG_CHANNEL_EOF, head),
                (MSG_CHANNEL_CLOSE, head),
                (MSG_CHANNEL_REQUEST, request(channel, b"exec", string(b"ls"))),
                (MSG_CHANNEL_SUCCESS, head),
                (MSG_CHANNEL_FAILURE, head),
            ):
                act = partial(SocketClient.send, number=number, payload=payload)
                cases.append((act, closes("a channel that is not open")))
        self.pass_each(cases)

    def test_c12_answers_in_order(self) -> None:
        """Of fifty requests in one segment."""
        names = [b"pty-req" if n % 3 else b"novelty" for n in range(50)]

        def act(client: SocketClient) -> None:
            channel = client.open_channel()
            client.send_bytes(
                b"".join(
                    client.packet(MSG_CHANNEL_REQUEST, request(channel, name))
                    for name in names
                )
            )

        def outcome(client: SocketClient) -> None:
            goes_on(client)
            answers = [
                number
                for number in client.numbers()
                if number in (MSG_CHANNEL_SUCCESS, MSG_CHANNEL_FAILURE)
            ]
            expected = [
                MSG_CHANNEL_SUCCESS if name == b"pty-req" else MSG_CHANNEL_FAILURE
                for name in names
            ]
            assert answers == expected, answers

        self.pass_limit(act, outcome)


class NameTests(LimitTestCase):
    """C16: what may be asked for."""

    def test_c16_types_of_channels(self) -> None:
        """Those that there are; a name has 255 bytes at most."""
        types = (b"x", b"tcpip-forward", b"forwarded-tcpip", b"x11", b"\x1b[31m", b"")
        self.pass_each(
            [
                (
                    partial(SocketClient.request_channel, kind=kind),
                    refused(3, "are not served here"),
                )
                for kind in types
            ]
        )
        self.pass_limit(
            partial(SocketClient.request_channel, kind=b"x" * 256),
            closes("255 is the limit"),
        )
        # What only proxies and agents open.
        self.pass_each(
            [
                (
                    partial(SocketClient.request_channel, kind=kind),
                    refused(3, "are not served here"),
                )
                for kind in (b"transport@rtunnel", b"control@rtunnel")
            ]
        )

    def test_c16_names_of_targets(self) -> None:
        """Letters, digits and the like; refused with code 1 and one sentence."""
        hosts = (
            *("", ".", "..", "web1.b\n", "web1;true.b", "$(id).b", "`id`.b"),
            *("web1.b/../a", "-oProxyCommand=x.b", "web1.\x1b[31m", "x" * 300),
        )
        self.pass_each(
            [
                (
                    partial(
                        SocketClient.request_channel,
                        kind=b"direct-tcpip",
                        data=target(host, 22),
                    ),
                    refused(1, ""),
                )
                for host in hosts
            ]
        )


class StalledTests(LimitTestCase):
    """C3, C13, C19: peers that do not go on."""

    def test_c3_data_for_a_peer_that_does_not_read(self) -> None:
        """Stays where it is: its source is paused, however large the window."""
        port = self.target("zeros")

        def act(client: SocketClient) -> None:
            client.open_target("web1.b", port, window=_ALL)

        def outcome(client: SocketClient) -> None:
            time.sleep(0.05)

        at = partial(self.log_in, receive_buffer=4096)
        self.pass_limit(act, outcome, at)

    def test_c13_data_while_a_key_exchange_stalls(self) -> None:
        """Waits at its source, too."""
        port = self.target("zeros")

        def act(client: SocketClient) -> None:
            client.open_target("web1.b", port, window=_ALL)
            client.send(MSG_KEXINIT, client.kexinit().payload[1:])

        def outcome(client: SocketClient) -> None:
            client.take(MSG_KEXINIT)
            time.sleep(0.05)

        self.pass_limit(act, outcome)

    def test_c13_answers_while_a_key_exchange_of_ours_stalls(self) -> None:
        """4096 wait for its end, from a peer that goes on to ask; more end it."""
        ignored = string(bytes(250_000))
        question = string(b"keepalive@openssh.com") + boolean(True)

        def after_a_gibibyte() -> SocketClient:
            client = self.log_in()
            while MSG_KEXINIT not in client.numbers():
                for _ in range(20):
                    client.send(MSG_IGNORE, ignored)
                while select.select([client.socket], [], [], 0)[0]:
                    client.receive()
            return client

        def act(client: SocketClient) -> None:
            packets = [client.packet(MSG_GLOBAL_REQUEST, question) for _ in range(4097)]
            client.send_bytes(b"".join(packets))

        outcome = closes("too much waits for the key exchange to end")
        self.pass_limit(act, outcome, after_a_gibibyte, count=1)

    def test_c13_channels_that_open_while_a_key_exchange_stalls(self) -> None:
        """As many as may be asked for at a time: their owner hears of each after it."""
        port = self.target("echo")
        (agent,) = self.deployment.agents
        offers: list[KexInit] = []

        def asking() -> SocketClient:
            agent.process.signal(signal.SIGSTOP)
            client = self.log_in()
            for _ in range(128):
                client.request_channel(b"direct-tcpip", target("web1.b", port))
            client.still_works()
            offers.append(client.kexinit())
            client.send(MSG_KEXINIT, offers[-1].payload[1:])
            client.wait_for(
                lambda: MSG_KEXINIT in client.numbers() or None, "a KEXINIT"
            )
            return client

        def act(client: SocketClient) -> None:
            agent.process.signal(signal.SIGCONT)
            # There is nothing to see of them until the keys have been exchanged.
            time.sleep(0.5)

        def outcome(client: SocketClient) -> None:
            client.exchange_keys(offers[-1])
            windows = [client.answer_to_open()[1] for _ in range(128)]
            assert all(isinstance(window, int) for window in windows), windows
            goes_on(client)

        self.addCleanup(agent.process.signal, signal.SIGCONT)
        self.pass_limit(act, outcome, asking, count=1)

    def test_c19_a_peer_that_is_sent_away_and_does_not_read(self) -> None:
        """Its socket is gone 2 s later all the same."""
        port = self.target("zeros")
        client = self.log_in(receive_buffer=4096)
        client.open_target("web1.b", port, window=_ALL)
        own = client.socket.getsockname()[1]
        pid = self.proxy.process.pid

        def is_there() -> bool:
            return any(each.remote_port == own for each in tcp_sockets(pid))

        time.sleep(0.2)
        self.assertTrue(is_there())
        client.send(MSG_CHANNEL_EOF, uint32(77))
        wait_until(lambda: not is_there(), 2 + 1, "the end of the connection")
        self.assertIn("a channel that is not open", self.log())
