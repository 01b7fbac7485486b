"""The records of a telemetry batch as they are after reading, and their bounds (SPEC.md section 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from fleet.mqtt.codec.names import Clock
from fleet.mqtt.codec.sketch import Sketch

MAX_RECORDS = 64
MAX_SKETCHES = 2
MAX_DT_MS = 86_400_000
MAX_TIME_MS = 253_402_300_799_999
"""9999-12-31: the last millisecond a datetime can hold."""
WINDOW_FIELDS = 13


class Window(NamedTuple):
    """One telemetry window; a tuple, because a gateway makes tens of thousands a second.

    seq: boot << 32 | counter, the record's identity on its device. ts_ms: unix milliseconds of its end.
    dt_ms: since the record before it. n: inferences. us_mean, us_max: µs per inference. score_e4: mean top
    score, 1e-4. top: most frequent class, -1 for none. anom_max_e3: highest anomaly score, 1e-3. anom_n:
    inferences over the threshold. lab_n, lab_ok: proxy labels and how many agreed. heap_min_64b: lowest free
    heap in units of 64 bytes. rssi_dbm: -127..0. flags: `WindowFlag` bits.
    """

    seq: int
    ts_ms: int
    dt_ms: int
    n: int
    us_mean: int
    us_max: int
    score_e4: int
    top: int
    anom_max_e3: int
    anom_n: int
    lab_n: int
    lab_ok: int
    heap_min_64b: int
    rssi_dbm: int
    flags: int

    @property
    def heap_min_bytes(self) -> int:
        """Lowest free heap in bytes."""
        return self.heap_min_64b * 64


@dataclass(frozen=True)
class Inference:
    """One sampled inference. k: number in this boot. why: 0 one in N, 1 low margin, 2 anomaly, 3 asked."""

    seq: int
    ts_ms: int
    dt_ms: int
    k: int
    top: int
    score_e4: int
    margin_e4: int
    anom_e3: int
    us: int
    why: int


class Batch(NamedTuple):
    """Records of one model run of one boot. mid: 16 hex digits. build: 4 bytes. t0_ms: unix milliseconds.

    first: counter of the first record within the boot; windows come first, then inferences, then sketches.
    """

    boot: int
    first: int
    t0_ms: int
    clock: Clock
    slot: int
    model: str
    version: str
    mid: str
    build: bytes
    windows: tuple[Window, ...] = ()
    inferences: tuple[Inference, ...] = ()
    sketches: tuple[Sketch, ...] = ()
