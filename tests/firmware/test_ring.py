"""The sensor ring against a deque: windows in order, whole hops lost when overrun, gaps never spanned."""

from __future__ import annotations

import subprocess
from collections import deque
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_firmware.host import build
from device_firmware.host.core import CODES
from tests.firmware.stages import Stages, Values


class Reference:
    """What the ring should do: frames in a deque, a mark in it where samples are missing."""

    def __init__(self, window: int, hop: int, capacity: int) -> None:
        self.window, self.hop, self.capacity = window, hop, capacity
        self.frames: deque[int] = deque()
        self.gap: int | None = None  # frames before it
        self.more_gaps = False
        self.torn = 2
        self.dropped = self.gaps = 0

    def put(self, frames: list[int]) -> None:
        for frame in frames:
            self.frames.append(frame)
            if len(self.frames) > self.capacity:
                self._lose()

    def _lose(self) -> None:
        for _ in range(self.hop):
            self.frames.popleft()
        self.dropped += 1
        self.torn = 1
        if self.gap is not None:
            self.gap -= self.hop

    def missing(self) -> None:
        self.more_gaps = self.gap is not None
        self.gap = len(self.frames)

    def take(self) -> tuple[list[int], bool] | None:
        if self.gap is not None and (self.more_gaps or self.gap < self.window):
            for _ in range(max(0, self.gap)):
                self.frames.popleft()
            self.gap, self.more_gaps, self.torn = None, False, 1
        if len(self.frames) < self.window:
            return None
        found = [self.frames[i] for i in range(self.window)], self.torn != 0
        for _ in range(self.hop):
            self.frames.popleft()
        if self.gap is not None:
            self.gap -= self.hop
        self.gaps += self.torn == 1
        self.torn = 0
        return found


@st.composite
def stories(draw: st.DrawFn) -> tuple[int, int, int, int, list[tuple[str, int]]]:
    window = draw(st.integers(1, 12))
    hop = draw(st.integers(1, window))
    capacity = window + 2 * hop + draw(st.integers(0, 7))
    step = st.one_of(
        st.tuples(st.just("put"), st.integers(0, 3 * capacity)),
        st.tuples(st.just("put"), st.integers(0, hop)),
        st.tuples(st.just("take"), st.just(0)),
        st.tuples(st.just("gap"), st.just(0)),
    )
    return window, hop, capacity, draw(st.integers(0, 60)), draw(st.lists(step, max_size=40))


def frames_of(numbers: list[int], channels: int, integer: bool) -> Values:
    base = np.array(numbers, np.float64).reshape(-1, 1)
    values = base + np.arange(channels) * 0.25 if not integer else base * 7 % 30_000 + np.arange(channels)
    return values.reshape(-1, channels)


@settings(max_examples=300, deadline=None)
@given(stories(), st.integers(1, 3), st.booleans())
def test_the_ring_does_what_a_deque_does(
    story: tuple[int, int, int, int, list[tuple[str, int]]], channels: int, integer: bool
) -> None:
    window, hop, capacity, age, steps = story
    stages, reference, number = Stages(), Reference(window, hop, capacity), 0
    assert not stages.stream_open(
        channels=channels, window=window, hop=hop, capacity=capacity, integer=integer, age=age
    )
    for what, count in steps:
        if what == "put":
            numbers = list(range(number, number + count))
            number += count
            stages.stream_put(frames_of(numbers, channels, integer))
            reference.put(numbers)
        elif what == "gap":
            stages.stream_gap()
            reference.missing()
        else:
            found, expected = stages.stream_take(), reference.take()
            if expected is None:
                assert found == 0
                continue
            assert isinstance(found, tuple)
            np.testing.assert_array_equal(
                found[0], frames_of(expected[0], channels, integer).astype(np.float32)
            )
            assert found[1] == expected[1]
        assert (stages.gaps, what != "take" or stages.dropped) == (
            reference.gaps,
            what != "take" or reference.dropped,
        )


def test_a_window_overwritten_while_it_is_read_is_thrown_away() -> None:
    stages = Stages()
    assert not stages.stream_open(channels=1, window=8, hop=4, capacity=16, integer=True)
    stages.stream_put(np.arange(8).reshape(-1, 1))
    assert stages.stream_take(late=np.arange(8, 17).reshape(-1, 1)) == -1
    assert stages.dropped == 1
    found = stages.stream_take()
    assert isinstance(found, tuple)
    assert found[1], "the next one says that it does not follow"
    assert found[0][0, 0] == 4


def test_eight_frames_more_do_not_harm_a_window_being_read() -> None:
    stages = Stages()
    assert not stages.stream_open(channels=1, window=8, hop=4, capacity=16, integer=True)
    stages.stream_put(np.arange(8).reshape(-1, 1))
    found = stages.stream_take(late=np.arange(8, 16).reshape(-1, 1))
    assert isinstance(found, tuple)
    assert list(found[0][:, 0]) == list(range(8))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"capacity": 15}, "low_heap"),
        ({"hop": 0}, "io_contract"),
        ({"hop": 9}, "io_contract"),
        ({"window": 0}, "io_contract"),
        ({"channels": 0}, "io_contract"),
        ({"channels": 4097}, "io_contract"),
    ],
)
def test_a_ring_that_could_not_hold_a_window_is_refused(changes: dict[str, int], code: str) -> None:
    values = {"channels": 1, "window": 8, "hop": 4, "capacity": 16} | changes
    assert Stages().stream_open(integer=False, **values) == CODES[code]


def test_two_threads_share_a_ring_without_a_lock(tmp_path: Path) -> None:
    """A million frames as fast as they come: overruns happen, and no window kept is a mixture."""
    program = tmp_path / "ring_race"
    sources = [str(Path(__file__).parent / "c" / "ring_race.c"), str(build.CORE_DIR / "src" / "ring.c")]
    flags = [*build.STRICT, "-O2", *build.includes()]
    build.run_compiler([build.compiler(), *flags, *sources, "-pthread", "-o", str(program)])
    done = subprocess.run([program, "1000000"], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout
    told = dict(zip(*[iter(done.stdout.split())] * 2, strict=True))
    assert int(told["windows"]) > 100, done.stdout
    assert int(told["torn"]) > 0, "the consumer was overtaken inside a window, or nothing was tried"
