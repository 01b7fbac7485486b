"""The C pipeline's stages one at a time, as Python objects: what property tests hold against references."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from device_firmware.host import build

Values = npt.NDArray[Any]


def bits(value: float) -> int:
    """IEEE 754 single precision bits."""
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


class Stages:
    """One of each stage, in the shipped C."""

    def __init__(self) -> None:
        module = build.load()
        self.ffi, self.lib = module.ffi, module.lib
        self._h = self.ffi.gc(self.lib.fs_open(), self.lib.fs_close)

    def _floats(self, values: Values) -> Any:
        return self.ffi.from_buffer("float[]", np.ascontiguousarray(values, np.float32).reshape(-1))

    # --- ring -----------------------------------------------------------------------------------

    def stream_open(
        self, *, channels: int, window: int, hop: int, capacity: int, integer: bool, age: int = 0
    ) -> int:
        """0, or the refusal. age: start so many frames before the positions wrap; 0 = at the beginning."""
        self._channels, self._window = channels, window
        self._dtype = np.int16 if integer else np.float32
        kind = 0 if integer else 1
        rc = int(self.lib.fs_stream_open(self._h, kind, channels, window, hop, capacity))
        if age and not rc:
            self.lib.fs_stream_age(self._h, age)
        return -rc

    def stream_put(self, frames: Values) -> None:
        """Samples arrive, (n, channels)."""
        data = np.ascontiguousarray(frames, self._dtype)
        self.lib.fs_stream_put(self._h, self.ffi.from_buffer(data), len(data))

    def stream_gap(self) -> None:
        """Samples are missing here."""
        self.lib.fs_stream_gap(self._h)

    def stream_take(self, late: Values | None = None) -> tuple[Values, bool] | int:
        """(window, it does not follow the last one), 0 = none is there, -1 = overwritten meanwhile."""
        out = np.zeros((self._window, self._channels), np.float32)
        jumped = self.ffi.new("int *")
        data = np.ascontiguousarray(np.zeros((0, 1)) if late is None else late, self._dtype)
        rc = self.lib.fs_stream_take(
            self._h, self._floats(out), jumped, self.ffi.from_buffer(data), 0 if late is None else len(data)
        )
        return (out, bool(jumped[0])) if rc == 1 else int(rc)

    @property
    def dropped(self) -> int:
        """Hops lost to overruns."""
        return int(self.lib.fs_stream_dropped(self._h))

    @property
    def gaps(self) -> int:
        """Jumps told."""
        return int(self.lib.fs_stream_gaps(self._h))

    # --- quantisation ---------------------------------------------------------------------------

    def quantise(
        self, values: Values, *, dtype: int, scale: float, zero: int
    ) -> tuple[bytes, int, int] | int:
        """(bytes, clamped values, faults), or the refusal."""
        size = {0: 4, 3: 1, 7: 2, 9: 1}.get(dtype, 8)
        raw, counts = self.ffi.new("uint8_t[]", max(1, values.size * size)), self.ffi.new("uint32_t[2]")
        rc = self.lib.fs_quantise(dtype, bits(scale), zero, self._floats(values), values.size, raw, counts)
        if rc:
            return int(-rc)
        return bytes(self.ffi.buffer(raw, values.size * size)), int(counts[0]), int(counts[1])

    def dequantise(self, raw: bytes, count: int, *, dtype: int, scale: float, zero: int) -> Values:
        """Real values."""
        out = np.zeros(count, np.float32)
        assert self.lib.fs_dequantise(dtype, bits(scale), zero, raw, count, self._floats(out)) == 0
        return out

    # --- decisions and anomalies ----------------------------------------------------------------

    def decide_open(
        self, classes: int, n: int, k: int, m: int, *, threshold: int = 5000, refractory_ms: int = 0
    ) -> int:
        """0, or the refusal."""
        return int(-self.lib.fs_decide_open(self._h, classes, n, k, m, threshold, refractory_ms))

    def decide_reset(self) -> None:
        """A gap."""
        self.lib.fs_decide_reset(self._h)

    def decide(self, scores: Sequence[int], now_ms: int) -> int:
        """The class decided on now, -1 for none."""
        return int(self.lib.fs_decide_put(self._h, list(scores), now_ms))

    def margin(self, best: int, second: int) -> int:
        """Anomaly kind 3."""
        return int(self.lib.fs_margin(best, second))

    def distance(self, features: Values, params: Values) -> int:
        """Anomaly kind 2; params (n, 2): mean and weight."""
        raw = np.ascontiguousarray(params, "<f4").tobytes()
        return int(self.lib.fs_distance(self._floats(features), raw, features.size))

    def rebuild(self, wanted: bytes, got: bytes, *, scale: float) -> int:
        """Anomaly kind 1 of two int8 tensors."""
        return int(self.lib.fs_rebuild(bits(scale), wanted, got, len(wanted)))

    def alarm_open(self) -> None:
        """Start over."""
        self.lib.fs_alarm_open(self._h)

    def alarm(self, score: int, limit: int, k: int, n: int) -> int:
        """0 no edge, 1 began, 2 ended."""
        return int(self.lib.fs_alarm_put(self._h, score, limit, k, n))

    # --- sketches -------------------------------------------------------------------------------

    def sketch_open(self, place: int) -> None:
        """Empty a place."""
        self.lib.fs_sketch_open(self._h, place)

    def sketch_put(
        self,
        place: int,
        *,
        us: int,
        scores: Sequence[int] = (),
        label: int = -1,
        heap: int = 100_000,
        score: int | None = None,
        limit: int = 0,
        cuts: Sequence[int] | None = None,
    ) -> None:
        """Count one inference."""
        self.lib.fs_sketch_put(
            self._h,
            place,
            us,
            heap,
            list(scores) or self.ffi.NULL,
            len(scores),
            label,
            int(score is not None),
            score or 0,
            limit,
            self.ffi.NULL if cuts is None else list(cuts),
        )

    def sketch_inputs(self, place: int, values: Values, *, dtype: int, scale: float, zero: int) -> None:
        """Count one window, (frames, channels)."""
        frames, channels = values.shape
        self.lib.fs_sketch_inputs(
            self._h, place, dtype, bits(scale), zero, channels, self._floats(values), frames
        )

    def sketch_merge(self, into: int, other: int) -> None:
        """Add up."""
        self.lib.fs_sketch_merge(self._h, into, other)

    def sketch_equal(self, a: int, b: int) -> bool:
        """Every byte of the state is the same."""
        return bool(self.lib.fs_sketch_equal(self._h, a, b))

    def sketch_bytes(self, place: int) -> bytes:
        """As sent."""
        out = self.ffi.new("uint8_t[]", 4096)
        n = self.lib.fs_sketch_write(self._h, place, out, 4096)
        return bytes(self.ffi.buffer(out, n))

    def time_bin(self, us: int) -> int:
        """Bin of the latency histogram."""
        return int(self.lib.fs_time_bin(us))
