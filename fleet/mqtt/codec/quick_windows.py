"""The one batch that nearly every message is, windows alone, read in a single pass.

Accepts a part of what `telemetry.parse_batch` accepts, with the same result, and answers None to everything
else, good or bad: the strict reader then judges, and its codes are the only ones. Measured by
`python -m tests.bench.telemetry.read_path`, which takes both ways.
"""

from __future__ import annotations

import re
from struct import Struct, error
from typing import Final

import cbor2

from fleet.mqtt.codec.cbor import encode
from fleet.mqtt.codec.names import Clock
from fleet.mqtt.codec.records import MAX_DT_MS, MAX_RECORDS, MAX_TIME_MS, Batch, Window
from fleet.mqtt.codec.shape import INT32_MAX, UINT32_MAX

_TIMES: Final = Struct(">BBQBB")
"""Keys 3 and 4: t0 is beyond 32 bits since 1970-02-19, so it has eight bytes."""
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
        self._sizes: list[int] = []  # of those runs, each once

    def read(self, data: bytes) -> Batch | None:
        """The batch, or None when the strict reader has to look at it."""
        size = len(data)
        if not _LEAST_BYTES <= size <= _MOST_BYTES or data[:5] not in _HEADS:
            return None
        try:
            boot, at = _uint(data, 4)
            first, at = _uint(data, at + 1) if data[at] == 2 else (-1, at)
            key, form, t0_ms, clock_key, clock = _TIMES.unpack_from(data, at)
            at += _TIMES.size
            run = None
            for length in self._sizes:
                run = self._runs.get(data[at : at + length])
                if run is not None:
                    at += length
                    break
            if run is None or (key, form, clock_key, data[at]) != (3, 0x1B, 4, 7) or clock not in _CLOCKS:
                return None
            count = data[at + 1] - 0x80
            at += 2
            if count == 0x18:
                count, at = data[at], at + 1
                if count < 24:
                    return None
            elif not 1 <= count < 0x18:
                return None
            if not (0 <= boot <= INT32_MAX and 0 <= first <= UINT32_MAX - count + 1):
                return None
            if not (UINT32_MAX < t0_ms <= _MOST_T0_MS and count <= MAX_RECORDS):
                return None
            windows = _windows(data, at, count, boot << 32 | first, t0_ms)
        except (IndexError, error):
            return None
        if windows is None:
            return None
        slot, model, version, mid, build = run
        return Batch(boot, first, t0_ms, _CLOCKS[clock], slot, model, version, mid, build, windows)

    def learn(self, batch: Batch) -> None:
        """Remember the model run of a batch that the strict reader has accepted."""
        run = [batch.slot, batch.model, batch.version, bytes.fromhex(batch.mid)]
        raw = b"\x05" + encode(run) + b"\x06" + encode(batch.build)
        if len(self._runs) >= _RUNS_CACHED:
            self._runs.clear()
            self._sizes.clear()
        self._runs[raw] = batch.slot, batch.model, batch.version, batch.mid, batch.build
        if len(raw) not in self._sizes:
            self._sizes.append(len(raw))


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


_INTEGER: Final = (
    rb"(?:[\x00-\x17\x20-\x37]|[\x18\x38][\x18-\xff]|\x19[\x01-\xff].|\x1a(?!\x00\x00).{4}|\x39[\x01-\xff].)"
)
"""An integer in its shortest form; none of a window needs more than 32 bits, and one that does is unusual."""
_ARRAYS: Final = [
    re.compile(rb"(?:\x8d" + _INTEGER + rb"{13}){%d}" % count, re.DOTALL) for count in range(MAX_RECORDS + 1)
]
"""So many windows as they are sent. A byte says which integer it begins, so nothing is tried twice."""


def _windows(data: bytes, at: int, count: int, seq: int, ts_ms: int) -> tuple[Window, ...] | None:
    """The windows, which must end the bytes; None for anything unusual.

    cbor2 is asked only once the bytes are known to be arrays of thirteen integers in their shortest form: by
    itself it takes longer ones, and makes room for arrays that were only announced.
    """
    if _ARRAYS[count].fullmatch(data, at) is None:
        return None
    items = cbor2.loads(bytes((0x98, count)) + data[at:])
    found = []
    for item in items:
        dt, n, us_mean, us_max, score, top, anom_max, anom_n, lab_n, lab_ok, heap, rssi, flags = item
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
        found.append(tuple.__new__(Window, (seq, ts_ms, *item)))
        seq += 1
    return tuple(found)
