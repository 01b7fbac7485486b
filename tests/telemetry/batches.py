"""Telemetry batches for tests."""

from datetime import datetime
from typing import Any

from fleet.mqtt.codec.names import Clock
from fleet.mqtt.codec.telemetry import Batch, Window, encode_batch, parse_batch
from tests.vectors.collection import changed
from tests.vectors.telemetry import base_sketch

MID = "00112233aabbccdd"


def ms(moment: datetime) -> int:
    """Unix milliseconds."""
    return int(moment.timestamp() * 1000)


def make_batch(
    start: datetime,
    windows: int = 1,
    *,
    boot: int = 1,
    first: int = 0,
    dt_ms: int = 10_000,
    mid: str = MID,
    model: str = "activity",
    version: str = "1.0.0",
    **fields: Any,
) -> Batch:
    """A batch whose windows end dt_ms, 2 dt_ms, ...

    after `start`; parsed, so that times and numbers are set.
    """
    values = {
        "n": 10,
        "us_mean": 1500,
        "us_max": 2500,
        "score_e4": 9000,
        "top": 2,
        "anom_max_e3": 100,
        "anom_n": 1,
        "lab_n": 10,
        "lab_ok": 8,
        "heap_min_64b": 1000,
        "rssi_dbm": -60,
        "flags": 0,
    } | fields
    rows = tuple(Window(seq=0, ts_ms=0, dt_ms=dt_ms, **values) for _ in range(windows))
    batch = Batch(boot, first, ms(start), Clock.SNTP, 0, model, version, mid, b"\1\2\3\4", rows)
    return parse_batch(encode_batch(batch))


def sketch_batch(start: datetime, change: dict[int, Any] | None = None, **fields: Any) -> Batch:
    """A batch of one sketch that ends 15 minutes after `start`. change: keys of the sketch to set."""

    def edit(item: dict[int, Any]) -> None:
        item.pop(7)
        item[9] = [dict(sorted((base_sketch() | (change or {})).items()))]

    return parse_batch(changed(encode_batch(make_batch(start, 1, **fields)), edit))
