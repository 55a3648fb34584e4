"""The scripted SSH client over a real TCP connection. It blocks."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from typing import Any

from rtunnel.errors import ProtocolError
from rtunnel.wire.algorithms import Algorithms
from rtunnel.wire.certificate import Certificate
from rtunnel.wire.data_types import Reader, boolean, string, uint32
from rtunnel.wire.keys import PrivateKey
from rtunnel.wire.numbers import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_OPEN_FAILURE,
    MSG_GLOBAL_REQUEST,
    MSG_REQUEST_FAILURE,
)
from tests.interop.processes import LOOPBACK
from tests.ssh.scripted_client import ScriptedClient

#: Seconds that an answer may take before the test gives up.
PATIENCE = 20.0

#: What costs both ends the least.
ALGORITHMS = Algorithms(key_exchanges=(b"curve25519-sha256",))


class SocketClient(ScriptedClient):
    """One connection to a listener on 127.0.0.1.

    :param certificate: shown instead of the plain key.
    :param source: the address that it comes from.
    :param receive_buffer: bytes that the kernel takes before the test reads.
    """

    def __init__(
        self,
        port: int,
        key: PrivateKey,
        certificate: Certificate | None = None,
        *,
        source: str = LOOPBACK,
        strict: bool = True,
        receive_buffer: int | None = None,
    ) -> None:
        super().__init__(key, strict=strict)
        self.algorithms = ALGORITHMS
        self.certificate = certificate
        self.is_closed = False
        self._channels = 0
        self.socket = socket.socket()
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.bind((source, 0))
        self.socket.settimeout(PATIENCE)
        self.socket.connect((LOOPBACK, port))

    def close(self) -> None:
        """Hang up, also while another thread reads."""
        self.is_closed = True
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are; a peer that has hung up does not get them."""
        with contextlib.suppress(OSError):
            self.socket.sendall(data)

    def receive(self, seconds: float = PATIENCE) -> None:
        """Wait for something from the server, or its end.

        :raises AssertionError: when neither came in time.
        """
        self.socket.settimeout(max(seconds, 0.001))
        try:
            data = self.socket.recv(1 << 18)
        except TimeoutError:
            raise AssertionError(
                f"nothing came within {seconds:g} s of messages {self.numbers()[-9:]}"
            ) from None
        except OSError:
            data = b""
        finally:
            with contextlib.suppress(OSError):
                self.socket.settimeout(PATIENCE)
        if data:
            self.bytes_received(data)
        else:
            self.close()

    def wait_for(
        self, found: Callable[[], Any], what: str, seconds: float = PATIENCE
    ) -> Any:
        """Read on until ``found`` gives something, and return that.

        :raises AssertionError: when time or the connection is over before.
        """
        deadline = time.monotonic() + seconds
        while (result := found()) is None:
            if self.is_closed:
                raise AssertionError(
                    f"closed before {what}: {self.disconnect_reason()}"
                )
            self.receive(deadline - time.monotonic())
        return result

    def take(self, number: int, seconds: float = PATIENCE) -> bytes:
        """The payload of the first message with that number, taken out."""
        payload = self.wait_for(
            lambda: self.taken(number), f"message {number}", seconds
        )
        assert isinstance(payload, bytes)
        return payload

    def wait_closed(self, seconds: float = PATIENCE) -> str:
        """Read on until the server has hung up; what it gave as its reason."""
        deadline = time.monotonic() + seconds
        while not self.is_closed:
            self.receive(deadline - time.monotonic())
        reason = self.disconnect_reason()
        return "" if reason is None else reason[1]

    def auth_request(self, key: PrivateKey | None = None, **options: Any) -> bytes:
        """With the certificate, unless told otherwise."""
        if key is None and "blob" not in options and self.certificate is not None:
            options["blob"] = self.certificate.blob
            options.setdefault("algorithm", self.certificate.signature_algorithms[0])
        return super().auth_request(key, **options)

    def request_channel(
        self,
        kind: bytes = b"session",
        data: bytes = b"",
        *,
        window: int = 2**21,
        max_packet: int = 2**15,
    ) -> int:
        """Ask for a channel; our number of it."""
        number = self._channels
        self._channels += 1
        self.send(
            MSG_CHANNEL_OPEN,
            string(kind) + uint32(number) + uint32(window) + uint32(max_packet) + data,
        )
        return number

    def answer_to_open(self) -> tuple[int, int] | tuple[int, str]:
        """What became of the oldest request for a channel.

        :return: the server's number and the window, or a reason code and a sentence.
        """

        def answer() -> tuple[int, int] | tuple[int, str] | None:
            confirmation = self.taken(MSG_CHANNEL_OPEN_CONFIRMATION)
            if confirmation is not None:
                reader = Reader(confirmation, 4)
                return reader.uint32(), reader.uint32()
            failure = self.taken(MSG_CHANNEL_OPEN_FAILURE)
            if failure is not None:
                reader = Reader(failure, 4)
                return reader.uint32(), reader.text()
            return None

        result = self.wait_for(answer, "the answer to a channel open")
        return result  # type: ignore[no-any-return]

    def open_channel(
        self, kind: bytes = b"session", data: bytes = b"", **options: int
    ) -> int:
        """Open a channel; the server's number of it."""
        self.request_channel(kind, data, **options)
        number, window = self.answer_to_open()
        assert isinstance(window, int), window
        return number

    def open_target(self, host: str, port: int, **options: int) -> int:
        """Open a ``direct-tcpip`` channel; the server's number of it."""
        return self.open_channel(b"direct-tcpip", target(host, port), **options)

    def send_data(self, channel: int, data: bytes) -> None:
        """Send channel data, whatever the window."""
        self.send(MSG_CHANNEL_DATA, uint32(channel) + string(data))

    def take_data(self, size: int) -> bytes:
        """So many bytes of channel data, whatever the channel."""
        data = b""
        while len(data) < size:
            data += Reader(self.take(MSG_CHANNEL_DATA), 4).string()
        return data

    def wait_channel_closed(self) -> None:
        """Wait for a CHANNEL_CLOSE."""
        self.take(MSG_CHANNEL_CLOSE)

    def ask(self) -> None:
        """A round trip that every server answers."""
        self.send(MSG_GLOBAL_REQUEST, string(b"keepalive@openssh.com") + boolean(True))
        self.take(MSG_REQUEST_FAILURE)

    def still_works(self) -> None:
        """See that the connection goes on.

        :raises AssertionError: when it does not.
        """
        try:
            self.ask()
        except ProtocolError as error:
            raise AssertionError(f"the server said what cannot be: {error}") from None


def target(host: str, port: int) -> bytes:
    """What ``direct-tcpip`` asks for."""
    return string(host.encode()) + uint32(port) + string(LOOPBACK.encode()) + uint32(1)
