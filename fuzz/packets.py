"""Harnesses for what arrives before any service: lines, packets, key exchange."""

from __future__ import annotations

from fuzz.harness import Harness
from fuzz.script import Script
from rtunnel.errors import ProtocolError
from rtunnel.wire.algorithms import CIPHERS, DEFAULT_ALGORITHMS, MACS, Algorithms
from rtunnel.wire.data_types import Reader, boolean, mpint, name_list, string, uint32
from rtunnel.wire.key_exchange import KEY_EXCHANGES
from rtunnel.wire.negotiation import (
    KexInit,
    build_kexinit,
    check_strict,
    encode_ext_info,
    is_strict,
    negotiate,
    parse_ext_info,
)
from rtunnel.wire.packet_cipher import ClearCipher, PacketCipher, padding_length
from rtunnel.wire.packet_stream import PacketOpener
from rtunnel.wire.proxy_protocol import V2_SIGNATURE, ProxyHeaderReader
from rtunnel.wire.source_address import parse_address
from rtunnel.wire.version_line import MAX_VERSION_LINE, VersionReader

_LIMIT = 64 * 1024


class _Feeder:
    """Hands bytes to an opener, this way or that, and takes the packets out."""

    def __init__(self) -> None:
        self.opener = PacketOpener(_LIMIT)
        self.opened: list[tuple[int, bytes]] = []

    def feed(self, data: bytes, in_place: bool) -> None:
        if in_place:
            self.opener.get_buffer()[: len(data)] = data
            self.opener.buffer_updated(len(data))
        else:
            self.opener.feed(data)
        while packet := self.opener.next_packet():
            self.opened.append((packet[0], bytes(packet[1])))
        self.opener.keep()
        assert self.opener.buffered <= _LIMIT + 64


def _clear_packets(data: bytes) -> None:
    feeder = _Feeder()
    flags, data = data[:1], data[1:]
    size = 1 + (flags[0] >> 1 if flags else 0) * 4
    try:
        for start in range(0, len(data), size):
            feeder.feed(data[start : start + size], bool(flags[0] & 1))
    finally:
        assert feeder.opened == _read_clear(data)


def _read_clear(data: bytes) -> list[tuple[int, bytes]]:
    """The packets up to the first that is not whole or not right (RFC 4253, 6)."""
    packets = []
    while len(data) >= 4:
        end = 4 + int.from_bytes(data[:4])
        if end > 4 + _LIMIT or end < 12 or end % 8 or len(data) < end:
            break
        payload_end = end - data[4]
        if data[4] < 4 or payload_end < 6:
            break
        packets.append((data[5], data[6:payload_end]))
        data = data[end:]
    return packets


def _clear_seeds() -> list[bytes]:
    cipher = ClearCipher()
    stream = b"".join(
        _sealed(
            cipher, 0, number, payload, bytes(more + padding_length(cipher, size + 1))
        )
        for number, size, more in [(20, 42, 0), (2, 0, 8), (94, 16, 240)]
        for payload in [bytes(size)]
    )
    return [bytes([flags]) + stream for flags in (0, 1, 7, 254, 255)]


def _sealed(
    cipher: PacketCipher, sequence: int, number: int, payload: bytes, padding: bytes
) -> bytes:
    out: list[bytes] = []
    cipher.seal(sequence, number, payload, b"", padding, out)
    return b"".join(out)


_CIPHERS = tuple(
    (cipher, mac)
    for cipher in CIPHERS.values()
    for mac in (MACS.values() if cipher.needs_mac else [None])
)


def _sealed_packets(data: bytes) -> None:
    """Packets that are authentic, whatever is in them, and what an attacker makes of
    them on their way: only what was sealed well comes out, in order."""
    script = Script(data)
    algorithm, mac = _CIPHERS[script.below(len(_CIPHERS))]
    key, iv = bytes(algorithm.key_length), bytes(algorithm.iv_length)
    mac_key = bytes(mac.key_length if mac else 0)
    sealer = algorithm.make(key, iv, mac, mac_key)
    feeder = _Feeder()
    feeder.opener.change_keys(algorithm.make(key, iv, mac, mac_key), True)
    sealed: list[tuple[int, bytes] | None] = []
    wire = bytearray()
    sequence = 0
    try:
        while not script.is_over:
            match script.below(8):
                case 0 | 1 | 2:
                    number, payload = script.byte(), script.chunk()
                    if script.below(8) == 1:
                        payload *= 32
                    padding = padding_length(sealer, 1 + len(payload))
                    if script.below(8) == 1:
                        padding = script.byte()
                    wire += _sealed(sealer, sequence, number, payload, bytes(padding))
                    sequence += 1
                    sealed.append((number, payload) if padding >= 4 else None)
                case 3 | 4 | 5:
                    count = script.byte() * 16 or len(wire)
                    feeder.feed(bytes(wire[:count]), script.below(2) == 1)
                    del wire[:count]
                case 6:
                    where = script.byte()
                    if wire:
                        wire[where % len(wire)] ^= script.byte()
                case 7:
                    where = script.byte()
                    wire[where : where + script.byte() % 16] = script.chunk()
        feeder.feed(bytes(wire), False)
    finally:
        assert feeder.opened == sealed[: len(feeder.opened)]


def _sealed_seeds() -> list[bytes]:
    send = b"\0\x5e\x0bsome bytes.\0\0"
    big = b"\0\x5e\xff" + bytes(255) + b"\1\0"
    # With these lengths, two bytes of padding make whole blocks.
    scant = b"".join(
        b"\0\x5e" + bytes([size]) + bytes(size) + b"\0\1\2" for size in (12, 28, 4)
    )
    seeds = []
    for number in range(len(_CIPHERS)):
        start = bytes([number])
        seeds.append(start + send * 3 + b"\3\0\0" + send + b"\3\2\1" + big)
        seeds.append(start + big + b"\3\0\1" + b"\0\x5e\0\0\1\1" + b"\3\0\1")
        seeds += [start + scant[index:] + b"\3\0\0" for index in (0, 18, 52)]
        seeds.append(start + send + b"\6\5\1" + b"\7\3\2\4abcd")
    return seeds


def _version(data: bytes) -> None:
    flags, data = data[:1], data[1:]
    number = flags[0] if flags else 0
    reader = VersionReader(from_server=bool(number & 1))
    size = 1 + (number >> 1)
    for start in range(0, len(data), size):
        rest = reader.feed(data[start : start + size])
        if rest is not None:
            assert reader.line is not None and len(reader.line) < MAX_VERSION_LINE
            assert rest == data[: start + size][len(data[: start + size]) - len(rest) :]
            return


def _header(data: bytes) -> None:
    flags, data = data[:1], data[1:]
    size = 1 + (flags[0] if flags else 0)
    reader = ProxyHeaderReader()
    for start in range(0, len(data), size):
        rest = reader.feed(data[start : start + size])
        if rest is not None:
            assert data[: start + size].endswith(rest)
            if reader.source is not None:
                assert str(parse_address(reader.source)) == reader.source
            return


def _headers() -> list[bytes]:
    v1 = [
        b"PROXY TCP4 192.0.2.7 192.0.2.8 40000 22\r\nSSH-2.0-x\r\n",
        b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.8 65535 0\r\n",
        b"PROXY UNKNOWN whatever\r\n",
    ]
    v2 = [
        V2_SIGNATURE + b"\x21\x11\x00\x0c" + bytes(range(12)) + b"SSH-2.0-x\r\n",
        V2_SIGNATURE + b"\x21\x21\x00\x24" + bytes(36),
        V2_SIGNATURE + b"\x20\x00\x00\x00",
        V2_SIGNATURE + b"\x21\x11\x00\x13" + bytes(12) + b"\x04\x00\x04abcd",
    ]
    return [bytes([size]) + each for each in v1 + v2 for size in (0, 6, 255)]


_ALL = Algorithms(ciphers=tuple(CIPHERS))
_OURS = {
    is_client: build_kexinit(
        _ALL, _ALL.host_keys, bytes(16), is_client=is_client, first=True
    )
    for is_client in (False, True)
}


def _kexinit(data: bytes) -> None:
    theirs = KexInit.parse(data)
    for pair in ((theirs, _OURS[False]), (_OURS[True], theirs)):
        agreed = negotiate(*pair)
        assert agreed.host_key in _ALL.host_keys
        assert agreed.key_exchange.name in _ALL.key_exchanges
        if not is_strict(*pair):
            check_strict(agreed)


def _kexinits() -> list[bytes]:
    lists = [
        DEFAULT_ALGORITHMS.key_exchanges,
        DEFAULT_ALGORITHMS.host_keys,
        *[tuple(reversed(_ALL.ciphers))] * 2,
        *[_ALL.macs] * 2,
        *[(b"zlib", b"none")] * 2,
        *[()] * 2,
    ]
    guess = b"".join(map(name_list, lists)) + boolean(True) + uint32(0)
    return [each.payload for each in _OURS.values()] + [b"\x14" + bytes(16) + guess]


def _ext_info(data: bytes) -> None:
    extensions = parse_ext_info(data)
    assert parse_ext_info(encode_ext_info(list(extensions.items()))) == extensions


def _key_exchange(data: bytes) -> None:
    """A peer's public value: as a client's, and as a server's."""
    script = Script(data)
    algorithm = tuple(KEY_EXCHANGES.values())[script.below(len(KEY_EXCHANGES))]
    if script.below(2):
        algorithm.start().finish(script.rest())
    else:
        algorithm.answer(script.rest())


def _key_exchange_seeds() -> list[bytes]:
    seeds = []
    for number, algorithm in enumerate(KEY_EXCHANGES.values()):
        public = algorithm.start().public
        reply, _ = algorithm.answer(public)
        seeds += [bytes([number, 0]) + public, bytes([number, 1]) + reply]
    return seeds


def _data_types(data: bytes) -> None:
    script = Script(data)
    kinds = script.take(8)
    reader = Reader(script.rest())
    for kind in kinds:
        limit = None if kind & 128 else kind & 127
        before = reader.remaining
        match kind % 9:
            case 0:
                reader.byte()
            case 1:
                reader.boolean()
            case 2:
                reader.uint32()
            case 3:
                reader.uint64()
            case 4:
                reader.string(limit)
            case 5:
                reader.text(limit)
            case 6:
                names = reader.name_list(limit)
                assert len(name_list(names)) == before - reader.remaining
            case 7:
                assert reader.mpint(limit) >= 0
            case 8:
                reader.take(kind)
        assert 0 <= reader.remaining <= before
    reader.end()


_NAMES = tuple(
    name
    for names in (_ALL.key_exchanges, _ALL.host_keys, _ALL.ciphers, _ALL.macs)
    for name in names
)

HARNESSES = (
    Harness(
        "version_line",
        _version,
        lambda: [
            bytes([flags]) + line
            for flags in (0, 1, 9, 255)
            for line in (
                b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n\0\0\0\1",
                b"hello\r\nSSH-1.99-x\n",
                b"x\n" * 21,
            )
        ],
        (ProtocolError,),
        (b"SSH-2.0-", b"SSH-1.99-", b"\r\n", b"\n"),
    ),
    Harness(
        "proxy_header",
        _header,
        _headers,
        (ProtocolError,),
        (V2_SIGNATURE, b"PROXY ", b"TCP4 ", b"TCP6 ", b"UNKNOWN", b"\r\n", b"::ffff:"),
    ),
    Harness(
        "data_types",
        _data_types,
        lambda: [
            bytes([0, 1, 2, 130, 131, 132, 133, 3])
            + b"\1\0"
            + uint32(7)
            + string(b"abc")
            + string(b"text")
            + name_list([b"a", b"b"])
            + mpint(300)
            + bytes(8)
        ],
        (ProtocolError,),
    ),
    Harness("clear_packets", _clear_packets, _clear_seeds, (ProtocolError,)),
    Harness("sealed_packets", _sealed_packets, _sealed_seeds, (ProtocolError,)),
    Harness(
        "kexinit",
        _kexinit,
        _kexinits,
        (ProtocolError,),
        (*_NAMES, b",", b"kex-strict-c-v00@openssh.com", b"ext-info-c"),
    ),
    Harness(
        "ext_info",
        _ext_info,
        lambda: [
            encode_ext_info([(b"server-sig-algs", b"ssh-ed25519,rsa-sha2-256")]),
            encode_ext_info([(b"a", b""), (b"b", b"x" * 40)]),
        ],
        (ProtocolError,),
        (b"server-sig-algs", string(b"no-flow-control")),
    ),
    Harness("key_exchange", _key_exchange, _key_exchange_seeds, (ProtocolError,)),
)
