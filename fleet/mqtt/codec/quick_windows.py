"""The one batch that nearly every message is, windows alone, read in a single pass.

Accepts a part of what `telemetry.parse_batch` accepts, with the same result, and answers None to everything
else, good or bad: the strict reader then judges, and its codes are the only ones. A batch costs it a third
(python -m tests.bench.telemetry.read_path).
"""

from __future__ import annotations

from typing import Final

from fleet.mqtt.codec.names import Clock
from fleet.mqtt.codec.records import MAX_DT_MS, MAX_RECORDS, MAX_TIME_MS, Batch, Window
from fleet.mqtt.codec.shape import INT32_MAX, UINT32_MAX

Run = tuple[int, str, str, str, bytes]
_RUNS_CACHED: Final = 4096
_LEAST_BYTES: Final = 40
_MOST_BYTES: Final = 4096
_MOST_T0_MS: Final = MAX_TIME_MS - MAX_RECORDS * MAX_DT_MS
_CLOCKS: Final = {int(clock): clock for clock in Clock}


class QuickReader:
    """Reads batches of windows. Remembers the bytes of model runs that the strict reader has accepted."""

    def __init__(self) -> None:
        self._runs: dict[bytes, Run] = {}

    def read(self, data: bytes) -> Batch | None:
        """The batch, or None when the strict reader has to look at it."""
        size = len(data)
        if not _LEAST_BYTES <= size <= _MOST_BYTES or data[:5] not in _HEADS:
            return None
        try:
            boot, at = _uint(data, 4)
            first, at = _keyed(data, at, 2)
            t0_ms, at = _keyed(data, at, 3)
            clock, at = _keyed(data, at, 4)
            after = _run_end(data, at)
            run = self._runs.get(data[at:after])
            if run is None or data[after] != 7 or clock not in _CLOCKS:
                return None
            count, at = _count(data, after + 1)
            if not (0 <= boot <= INT32_MAX and 0 <= first <= UINT32_MAX - count + 1):
                return None
            if not (0 <= t0_ms <= _MOST_T0_MS and 1 <= count <= MAX_RECORDS):
                return None
            windows = _windows(data, at, count, boot << 32 | first, t0_ms)
        except IndexError:
            return None
        if windows is None:
            return None
        slot, model, version, mid, build = run
        return Batch(boot, first, t0_ms, _CLOCKS[clock], slot, model, version, mid, build, windows)

    def learn(self, data: bytes, batch: Batch) -> None:
        """Remember the model run of a batch that the strict reader has accepted from these bytes."""
        try:
            at = 4
            for key in (1, 2, 3, 4):
                _, at = _uint(data, at) if key == 1 else _keyed(data, at, key)
            after = _run_end(data, at)
        except IndexError:
            return
        if at < 0 or after < 0:
            return
        if len(self._runs) >= _RUNS_CACHED:
            self._runs.clear()
        self._runs[data[at:after]] = batch.slot, batch.model, batch.version, batch.mid, batch.build


_HEADS: Final = frozenset(bytes((0xA8, 0, 1, 1, n)) for n in (*range(24), 24, 25, 26))
"""A map of eight, format 1, then the boot: 0 to 6 are required, so the eighth is the only kind of record."""


def _uint(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned integer in its shortest form and where it ends; (-1, ...) for anything else."""
    head = data[at]
    if head < 24:
        return head, at + 1
    if not 24 <= head <= 27:
        return -1, at
    size = 1 << (head - 24)
    value = int.from_bytes(data[at + 1 : at + 1 + size], "big")
    return (value if value >= (24 if size == 1 else 1 << size * 4) else -1), at + 1 + size


def _keyed(data: bytes, at: int, key: int) -> tuple[int, int]:
    """The unsigned integer behind this key of a map."""
    return _uint(data, at + 1) if data[at] == key else (-1, at)


def _run_end(data: bytes, at: int) -> int:
    """Where keys 5 (model run) and 6 (build id) end, when they begin at `at` and are of the usual lengths."""
    at += 3  # key, array of four, slot
    for _ in range(2):
        head = data[at]
        at += 2 + data[at + 1] if head == 0x78 else 1 + (head & 0x1F)
    return at + 15  # mid: 9; key, head and build id: 6


def _count(data: bytes, at: int) -> tuple[int, int]:
    head = data[at]
    if 0x81 <= head <= 0x97:
        return head - 0x80, at + 1
    return (data[at + 1] if head == 0x98 and data[at + 1] >= 24 else 0), at + 2


def _windows(data: bytes, at: int, count: int, seq: int, ts_ms: int) -> tuple[Window, ...] | None:
    """The windows, which must end the bytes; None for anything unusual."""
    found = []
    for _ in range(count):
        if data[at] != 0x8D:
            return None
        at += 1
        values = []
        for _ in range(13):
            head = data[at]
            if head < 24:
                values.append(head)
                at += 1
            elif head == 25:
                values.append(data[at + 1] << 8 | data[at + 2])
                if not data[at + 1]:
                    return None
                at += 3
            elif head == 24:
                values.append(data[at + 1])
                if data[at + 1] < 24:
                    return None
                at += 2
            elif head == 0x38:
                values.append(-1 - data[at + 1])
                if data[at + 1] < 24:
                    return None
                at += 2
            elif 0x20 <= head < 0x38:
                values.append(0x1F - head)
                at += 1
            else:
                value, at = _uint(data, at)
                if value < 0:
                    return None
                values.append(value)
        dt, n, us_mean, us_max, score, top, anom_max, anom_n, lab_n, lab_ok, heap, rssi, flags = values
        if not (
            0 <= dt <= MAX_DT_MS
            and 0 <= anom_n <= n <= 1_000_000
            and 0 <= us_mean <= 60_000_000
            and 0 <= us_max <= 60_000_000
            and 0 <= score <= 10_000
            and -1 <= top <= 255
            and 0 <= anom_max <= INT32_MAX
            and 0 <= lab_ok <= lab_n <= 32_767
            and lab_n <= n
            and 0 <= heap <= 262_143
            and -127 <= rssi <= 0
            and 0 <= flags <= 32_767
        ):
            return None
        ts_ms += dt
        found.append(
            Window(
                seq,
                ts_ms,
                dt,
                n,
                us_mean,
                us_max,
                score,
                top,
                anom_max,
                anom_n,
                lab_n,
                lab_ok,
                heap,
                rssi,
                flags,
            )
        )
        seq += 1
    return tuple(found) if at == len(data) else None
