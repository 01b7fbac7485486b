"""The small MQTT client: written packets against an encoder of our own, read ones against hostile bytes.

The C runs under ASan and UBSan and reads each packet from a buffer of exactly its size. Whether a real broker
agrees is the swarm's test.
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from device_firmware.host import build

MOST = 16_384
MORE, PACKET = 0, 1
ERR_LENGTH, ERR_TYPE, ERR_FORM = -3, -2, -1


@dataclass(frozen=True)
class Read:
    """What mq_read() said."""

    result: int
    used: int
    type: int
    qos: int
    dup: int
    retain: int
    session: int
    code: int
    id: int
    topic: bytes
    payload: bytes


Ask = Callable[[str], str]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """One line to the C program, its answer back."""
    source = Path(__file__).parent / "c" / "packets.c"
    folder = tmp_path_factory.mktemp("packets")
    flags = [*build.STRICT, *build.SANITIZE, "-O1", "-g"]
    objects = build.compile_objects(folder, [build.HOST_DIR / "mqtt_mini.c", source], flags)
    program = folder / "packets"
    build.run_compiler([build.compiler(), *build.SANITIZE, *objects, "-o", str(program)])
    process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None

    def one(line: str) -> str:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(line + "\n")
        process.stdin.flush()
        answer = process.stdout.readline().strip()
        assert answer, f"the C program died of {line[:200]}"
        return answer

    yield one
    process.stdin.close()
    assert process.wait(10) == 0
    process.stdout.close()


def _hex(data: bytes) -> str:
    return data.hex() or "-"


def _raw(text: str) -> bytes:
    return b"" if text == "-" else bytes.fromhex(text)


def read(ask: Ask, data: bytes, most: int = MOST) -> Read:
    """Have the C read bytes."""
    *numbers, topic, payload = ask(f"r {most} {_hex(data)}").split()
    return Read(*(int(n) for n in numbers), _raw(topic), _raw(payload))


def packet(first: int, body: bytes) -> bytes:
    """A packet by the book."""
    length, n = b"", len(body)
    while True:
        n, low = divmod(n, 128)
        length += bytes([low | (0x80 if n else 0)])
        if not n:
            return bytes([first]) + length + body


def field(text: bytes) -> bytes:
    """A text with its length."""
    return len(text).to_bytes(2, "big") + text


GOOD = {
    "connack": packet(0x20, b"\x01\x00"),
    "connack refused": packet(0x20, b"\x00\x05"),
    "publish 0": packet(0x31, field(b"f1/trust") + b"payload"),
    "publish 1": packet(0x3A, field(b"f1/dev/a/cmd") + b"\x01\x02" + b"x" * 200),
    "publish empty": packet(0x30, field(b"t")),
    "puback": packet(0x40, b"\x00\x01"),
    "suback": packet(0x90, b"\xff\xff\x01"),
    "suback of two": packet(0x90, b"\x00\x09\x01\x80"),
    "unsuback": packet(0xB0, b"\x00\x07"),
    "pingresp": packet(0xD0, b""),
}


def test_good_packets_are_read_whole_and_field_by_field(ask: Ask) -> None:
    assert read(ask, GOOD["connack"]) == Read(1, 4, 2, 0, 0, 0, 1, 0, 0, b"", b"")
    assert read(ask, GOOD["connack refused"]).code == 5
    got = read(ask, GOOD["publish 0"] + b"behind")
    assert got == Read(1, len(GOOD["publish 0"]), 3, 0, 0, 1, 0, 0, 0, b"f1/trust", b"payload")
    got = read(ask, GOOD["publish 1"])
    assert (got.qos, got.dup, got.retain, got.id) == (1, 1, 0, 0x0102)
    assert (got.topic, got.payload) == (b"f1/dev/a/cmd", b"x" * 200)
    assert read(ask, GOOD["publish empty"]).payload == b""
    assert (read(ask, GOOD["suback"]).id, read(ask, GOOD["suback"]).code) == (0xFFFF, 1)
    assert read(ask, GOOD["suback of two"]).code == 0x80
    assert read(ask, GOOD["pingresp"]).type == 13


def test_every_truncation_asks_for_more_and_names_the_size_it_needs(ask: Ask) -> None:
    for name, data in GOOD.items():
        head = 2 if data[1] < 128 else 3
        for n in range(len(data)):
            got = read(ask, data[:n])
            assert got.result == MORE, (name, n)
            assert got.used == (len(data) if n >= head else 0), (name, n)


@pytest.mark.parametrize(
    ("data", "result"),
    [
        (b"\x30\xff\xff\xff\xff\x01", ERR_LENGTH),  # five length bytes
        (b"\x30\xff\xff\xff\xff", ERR_LENGTH),
        (b"\xd0\x80\x00", ERR_LENGTH),  # 0 in two bytes
        (b"\x30\x80\x80\x01", ERR_LENGTH),  # one byte above the bound
        (b"\x10\x00", ERR_TYPE),  # CONNECT, from a broker
        (b"\x00\x00", ERR_TYPE),
        (b"\xf0\x00", ERR_TYPE),
        (b"\x50\x02\x00\x01", ERR_TYPE),  # PUBREC: we never publish at QoS 2
        (b"\x21\x02\x00\x00", ERR_FORM),  # reserved flags
        (b"\x20\x02\x02\x00", ERR_FORM),
        (b"\x20\x02\x00\x06", ERR_FORM),
        (b"\x20\x02\x01\x05", ERR_FORM),  # refused, with a session
        (b"\x20\x03\x00\x00\x00", ERR_FORM),
        (packet(0x34, field(b"t") + b"\x00\x01"), ERR_FORM),  # QoS 2
        (packet(0x36, field(b"t") + b"\x00\x01"), ERR_FORM),  # QoS 3
        (packet(0x38, field(b"t")), ERR_FORM),  # dup at QoS 0
        (packet(0x32, field(b"t") + b"\x00\x00"), ERR_FORM),  # id 0
        (packet(0x32, field(b"t") + b"\x01"), ERR_FORM),  # half an id
        (packet(0x30, b"\x00\x05abcd"), ERR_FORM),  # a topic that ends behind the packet
        (packet(0x30, b"\xff\xff"), ERR_FORM),
        (packet(0x30, b"\x00"), ERR_FORM),
        (packet(0x30, field(b"")), ERR_FORM),
        (packet(0x30, field(b"a/+")), ERR_FORM),
        (packet(0x30, field(b"a/#")), ERR_FORM),
        (packet(0x30, field(b"a\x00b")), ERR_FORM),
        (packet(0x40, b"\x00\x00"), ERR_FORM),
        (packet(0x40, b"\x00"), ERR_FORM),
        (packet(0x90, b"\x00\x01"), ERR_FORM),  # no code
        (packet(0x90, b"\x00\x01\x03"), ERR_FORM),
        (packet(0xB0, b"\x00\x01\x00"), ERR_FORM),
        (packet(0xD0, b"\x00"), ERR_FORM),
    ],
)
def test_what_the_standard_forbids_is_refused(ask: Ask, data: bytes, result: int) -> None:
    assert read(ask, data).result == result


def test_random_bytes_and_flipped_bits_never_reach_behind_the_packet(ask: Ask) -> None:
    luck = random.Random(1)
    for _ in range(3000):
        if luck.random() < 0.5:
            data = bytearray(luck.choice(list(GOOD.values())))
            for _ in range(luck.randrange(1, 4)):
                data[luck.randrange(len(data))] ^= 1 << luck.randrange(8)
        else:
            data = bytearray(luck.randbytes(luck.randrange(1, 40)))
        got = read(ask, bytes(data))
        if got.result == PACKET:
            assert got.used <= len(data)
            assert len(got.topic) + len(got.payload) <= got.used


def test_written_packets_are_those_of_the_book(ask: Ask) -> None:
    body = field(b"MQTT") + b"\x04\xec\x00\x1e" + field(b"dev-1") + field(b"f1/dev/dev-1/online")
    body += field(b"\xa1\x00\x00") + field(b"dev-1") + field(b"secret")
    assert ask("c 500 0 30 dev-1 dev-1 secret f1/dev/dev-1/online a10000") == packet(0x10, body).hex()
    plain = packet(0x10, field(b"MQTT") + b"\x04\x02\x00\x0a" + field(b"x"))
    assert ask("c 500 1 10 x - - - -") == plain.hex()
    big = b"y" * 5000
    assert ask(f"p 6000 1 1 258 f1/x {big.hex()}") == packet(0x33, field(b"f1/x") + b"\x01\x02" + big).hex()
    assert ask("p 100 0 0 0 f1/x -") == packet(0x30, field(b"f1/x")).hex()
    assert ask("s 100 1 9 f1/+/#") == packet(0x82, b"\x00\x09" + field(b"f1/+/#") + b"\x01").hex()
    assert ask("u 100 0 9 f1/+/#") == packet(0xA2, b"\x00\x09" + field(b"f1/+/#")).hex()
    assert ask("a 4 513") == "40020201"
    assert (ask("g 2 0"), ask("d 2 0")) == ("c000", "e000")


def test_what_does_not_fit_or_is_no_legal_packet_is_not_written(ask: Ask) -> None:
    whole = len(bytes.fromhex(ask("p 100 1 0 7 f1/x aabb")))
    for cap in range(whole):
        assert ask(f"p {cap} 1 0 7 f1/x aabb") == "-"
    assert ask(f"p {whole} 1 0 7 f1/x aabb") != "-"
    for line in (
        *("p 100 1 0 0 f1/x aa", "p 100 2 0 1 f1/x aa", "p 100 0 0 0 f1/+ aa", "p 100 0 0 0 f1/# aa"),
        *("s 100 1 0 f1/x", "s 100 2 1 f1/x", "u 100 0 0 f1/x", "a 4 0", "a 3 1", "g 1 0", "d 1 0"),
        *("c 500 1 10 x user - - -", "c 500 1 10 x - secret - -", f"p 80000 0 0 0 {'t' * 65_536} aa"),
    ):
        assert ask(line) == "-", line[:60]
