"""Messages in pieces become whole messages or nothing, whatever a broker does; under ASan and UBSan."""

from __future__ import annotations

import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_firmware.host import build

HERE = Path(__file__).parent
ROOM, DROP = 64, -102
LOST = 0xFFFFFFFF


@dataclass(frozen=True)
class Piece:
    """One piece as an MQTT client hands it over; topic None stands for a lost connection."""

    topic: bytes | None
    data: bytes = b""
    offset: int = 0
    total: int = 0

    def pack(self) -> bytes:
        """Wire form of pieces.c."""
        if self.topic is None:
            return struct.pack("<4I", LOST, 0, 0, 0)
        head = struct.pack("<4I", len(self.topic), len(self.data), self.offset, self.total)
        return head + self.topic + self.data


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pieces.c with the shipped reassemble.c."""
    target = tmp_path_factory.mktemp("pieces") / "pieces"
    sources = [str(HERE / "pieces.c"), str(build.CORE_DIR / "src" / "reassemble.c")]
    flags = [*build.STRICT, *build.SANITIZE, "-g", "-O1", *build.includes()]
    build.run_compiler([build.compiler(), *flags, *sources, "-o", str(target)])
    return target


Outcome = int | tuple[bytes, bytes]


def put(program: Path, pieces: list[Piece]) -> tuple[list[Outcome], int]:
    """What came of each piece (a code, or topic and bytes), and how many messages were dropped."""
    sent = b"".join(piece.pack() for piece in pieces)
    done = subprocess.run([program, str(ROOM)], input=sent, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    found: list[Outcome] = []
    at = 0
    for _ in pieces:
        (code,) = struct.unpack_from("<i", done.stdout, at)
        at += 4
        if code != 1:
            found.append(code)
            continue
        topic, total = struct.unpack_from("<2I", done.stdout, at)
        at += 8
        found.append((done.stdout[at : at + topic], done.stdout[at + topic : at + topic + total]))
        at += topic + total
    return found, int(struct.unpack_from("<I", done.stdout, at)[0])


def in_pieces(topic: bytes, data: bytes, size: int) -> list[Piece]:
    """A message as a client with a buffer of `size` hands it over."""
    starts = range(0, max(1, len(data)), size)
    return [Piece(topic if s == 0 else b"", data[s : s + size], s, len(data)) for s in starts]


def model(pieces: list[Piece]) -> tuple[list[Outcome], int]:
    """The same, said in ten lines of Python."""
    found: list[Outcome] = []
    topic, have, total, is_open, is_skipped, dropped = b"", b"", 0, False, False, 0
    for piece in pieces:
        if piece.topic is None or (piece.topic and piece.offset == 0):
            dropped += is_open
            is_open = is_skipped = False
            if piece.topic is None:
                found.append(0)
                continue
            topic, have, total = piece.topic, b"", piece.total
            is_open = len(topic) <= 80 and total <= ROOM
        elif is_open and (piece.total != total or piece.offset != len(have)):
            is_open = False
        if not is_open or len(piece.data) > total - len(have):
            dropped += not is_skipped
            is_open, is_skipped = False, True
            found.append(DROP)
            continue
        have += piece.data
        is_open = len(have) < total
        found.append(0 if is_open else (topic, have))
    return found, dropped


def test_a_message_in_pieces_arrives_whole(program: Path) -> None:
    data = bytes(range(50))
    pieces = in_pieces(b"f1/trust", data, 16) + in_pieces(b"f1/x", b"", 16) + in_pieces(b"f1/y", b"z", 16)
    assert put(program, pieces) == ([0, 0, 0, (b"f1/trust", data), (b"f1/x", b""), (b"f1/y", b"z")], 0)


def test_a_message_that_is_too_large_is_skipped_to_its_end(program: Path) -> None:
    pieces = in_pieces(b"f1/big", bytes(65), 16) + in_pieces(b"f1/next", b"ok", 16)
    assert put(program, pieces) == ([DROP] * 5 + [(b"f1/next", b"ok")], 1)


def test_a_topic_longer_than_any_of_ours_is_dropped(program: Path) -> None:
    pieces = [Piece(b"t" * 80, b"a", 0, 1), Piece(b"t" * 81, b"a", 0, 1)]
    assert put(program, pieces) == ([(b"t" * 80, b"a"), DROP], 1)


def test_a_lost_connection_forgets_what_was_begun(program: Path) -> None:
    first, *rest = in_pieces(b"f1/a", bytes(40), 16)
    assert put(program, [first, Piece(None), *rest]) == ([0, 0, DROP, DROP], 2)


def test_more_bytes_than_announced_are_refused(program: Path) -> None:
    assert put(program, [Piece(b"f1/a", bytes(9), 0, 8)]) == ([DROP], 1)
    assert put(program, [Piece(b"f1/a", bytes(4), 0, 8), Piece(b"", bytes(5), 4, 8)]) == ([0, DROP], 1)


numbers = st.integers(0, 80) | st.sampled_from([2**31, 2**32 - 1, 2**32 - 8])
pieces = st.builds(
    Piece,
    topic=st.none() | st.sampled_from([b"", b"f1/a", b"f1/b", b"t" * 81]),
    data=st.binary(max_size=70),
    offset=numbers,
    total=numbers,
)


@settings(max_examples=60, deadline=None)
@given(sent=st.lists(st.lists(pieces, max_size=30), min_size=8, max_size=8), whole=st.binary(max_size=64))
def test_whatever_comes_the_joiner_does_as_its_model(
    sent: list[list[Piece]], whole: bytes, program: Path
) -> None:
    everything = [one for batch in sent for one in [*batch, *in_pieces(b"f1/whole", whole, 20)]]
    found, dropped = put(program, everything)
    assert (found, dropped) == model(everything)
    assert found.count((b"f1/whole", whole)) >= 8
