"""The telemetry batch: windows, single inferences and sketches of one model run (SPEC.md section 7).

A batch is read once into frozen records that carry their time and their sequence number, so that nothing
downstream has to know how they are packed.
"""

from __future__ import annotations

from typing import Any

from fleet.mqtt.codec.cbor import decode_strict, encode
from fleet.mqtt.codec.cose import MAX_UPLINK_BYTES
from fleet.mqtt.codec.errors import CodecError
from fleet.mqtt.codec.names import Clock, is_model_name
from fleet.mqtt.codec.quick_windows import QuickReader
from fleet.mqtt.codec.records import MAX_DT_MS, MAX_RECORDS, MAX_SKETCHES, MAX_TIME_MS, WINDOW_FIELDS
from fleet.mqtt.codec.records import Batch as Batch
from fleet.mqtt.codec.records import Inference as Inference
from fleet.mqtt.codec.records import Window as Window
from fleet.mqtt.codec.reported import MAX_SLOT, check_format
from fleet.mqtt.codec.shape import INT32_MAX, UINT32_MAX, Shape
from fleet.mqtt.codec.sketch import Sketch, parse_sketch, sketch_item

_SHAPE = Shape("range")
_QUICK = QuickReader()


def encode_batch(batch: Batch) -> bytes:
    """The payload bytes. seq and ts_ms of the records follow from the batch and are not read here.

    Raises CodecError `range`, `bad_window` or `too_large` for a batch that `parse_batch` would refuse.
    """
    item: dict[int, Any] = {
        0: 1,
        1: batch.boot,
        2: batch.first,
        3: batch.t0_ms,
        4: batch.clock,
        5: [batch.slot, batch.model, batch.version, bytes.fromhex(batch.mid)],
        6: batch.build,
    }
    if batch.windows:
        item[7] = [_window_item(window) for window in batch.windows]
    if batch.inferences:
        item[8] = [
            [r.dt_ms, r.k, r.top, r.score_e4, r.margin_e4, r.anom_e3, r.us, r.why] for r in batch.inferences
        ]
    if batch.sketches:
        item[9] = [sketch_item(sketch) for sketch in batch.sketches]
    payload = encode(item)
    parse_batch(payload)
    return payload


def parse_batch(payload: bytes) -> Batch:
    """Read the payload of an authentic telemetry batch.

    Raises CodecError `too_large`, `cbor_bad`, `format_unknown` for another format number, `bad_window` for a
    window of the wrong length or a record with counts that contradict each other, and `range` for everything
    else out of range.
    """
    batch = _QUICK.read(payload)
    if batch is None:
        batch = parse_strictly(payload)
        if batch.windows and not batch.inferences and not batch.sketches:
            _QUICK.learn(batch)
    return batch


def parse_strictly(payload: bytes) -> Batch:
    """As `parse_batch`, field by field: the judge of everything unusual."""
    return parse_item(decode_strict(payload, max_bytes=MAX_UPLINK_BYTES["telemetry"]))


def parse_item(item: Any) -> Batch:
    """Read the item that a payload holds. Raises CodecError `format_unknown`, `bad_window`, `range` as
    `parse_batch`.
    """
    check_format(item)
    fields = _SHAPE.map(item, "batch", required=range(7), optional=(7, 8, 9))
    run = _SHAPE.array(fields[5], "model run", least=4, most=4)
    windows = _SHAPE.array(fields[7], "windows", least=1, most=MAX_RECORDS) if 7 in fields else []
    samples = _SHAPE.array(fields[8], "inferences", least=1, most=MAX_RECORDS) if 8 in fields else []
    sketches = _SHAPE.array(fields[9], "sketches", least=1, most=MAX_SKETCHES) if 9 in fields else []
    count = len(windows) + len(samples) + len(sketches)
    if not 1 <= count <= MAX_RECORDS:
        raise CodecError("range", f"a batch holds 1..{MAX_RECORDS} records")
    boot = _SHAPE.uint(fields[1], "boot", INT32_MAX)
    first = _SHAPE.uint(fields[2], "first counter", UINT32_MAX - count + 1)
    t0_ms = _SHAPE.uint(fields[3], "t0", MAX_TIME_MS - MAX_RECORDS * MAX_DT_MS)
    seq = boot << 32 | first
    return Batch(
        boot=boot,
        first=first,
        t0_ms=t0_ms,
        clock=Clock(_SHAPE.integer(fields[4], "clock", 1, 2)),
        slot=_SHAPE.uint(run[0], "slot", MAX_SLOT),
        model=_model_name(run[1]),
        version=_SHAPE.text(run[2], "version", least=1, most=24),
        mid=_SHAPE.raw(run[3], "mid", 8).hex(),
        build=_SHAPE.raw(fields[6], "build id", 4),
        windows=_parse_windows(windows, seq, t0_ms),
        inferences=_parse_inferences(samples, seq + len(windows), t0_ms),
        sketches=_parse_sketches(sketches, seq + len(windows) + len(samples), t0_ms),
    )


def _parse_sketches(items: list[Any], seq: int, ts_ms: int) -> tuple[Sketch, ...]:
    sketches: list[Sketch] = []
    for item in items:
        sketches.append(parse_sketch(item, seq=seq + len(sketches), before_ms=ts_ms))
        ts_ms = sketches[-1].ts_ms
    return tuple(sketches)


def _model_name(value: Any) -> str:
    name = _SHAPE.text(value, "model name", least=1, most=32)
    if not is_model_name(name):
        raise CodecError("range", "malformed model name")
    return name


def _window_item(window: Window) -> list[int]:
    return [
        window.dt_ms,
        window.n,
        window.us_mean,
        window.us_max,
        window.score_e4,
        window.top,
        window.anom_max_e3,
        window.anom_n,
        window.lab_n,
        window.lab_ok,
        window.heap_min_64b,
        window.rssi_dbm,
        window.flags,
    ]


_WINDOW_RANGES = (
    ("dt", 0, MAX_DT_MS),
    ("n", 0, 1_000_000),
    ("us_mean", 0, 60_000_000),
    ("us_max", 0, 60_000_000),
    ("score", 0, 10_000),
    ("top", -1, 255),
    ("anom_max", 0, INT32_MAX),
    ("anom_n", 0, 1_000_000),
    ("lab_n", 0, 32_767),
    ("lab_ok", 0, 32_767),
    ("heap_min", 0, 262_143),
    ("rssi", -127, 0),
    ("flags", 0, 2**15 - 1),
)

_INFERENCE_RANGES = (
    ("dt", 0, MAX_DT_MS),
    ("k", 0, UINT32_MAX),
    ("class", -1, 255),
    ("score", 0, 10_000),
    ("margin", 0, 10_000),
    ("anom", 0, INT32_MAX),
    ("us", 0, 60_000_000),
    ("why", 0, 3),
)


def _parse_windows(items: list[Any], seq: int, ts_ms: int) -> tuple[Window, ...]:
    windows = []
    for item in items:
        if type(item) is not list or len(item) != WINDOW_FIELDS:
            raise CodecError("bad_window", f"a window is an array of {WINDOW_FIELDS} integers")
        for value, (name, least, most) in zip(item, _WINDOW_RANGES, strict=True):
            if (
                type(value) is not int or not least <= value <= most
            ):  # no call each: the hottest loop of ingest
                _SHAPE.integer(value, name, least, most)
        n, anom_n, lab_n, lab_ok = item[1], item[7], item[8], item[9]
        if anom_n > n or lab_n > n or lab_ok > lab_n:
            raise CodecError("bad_window", "a window counts more of a part than of the whole")
        ts_ms += item[0]
        windows.append(Window(seq, ts_ms, *item))
        seq += 1
    return tuple(windows)


def _parse_inferences(items: list[Any], seq: int, ts_ms: int) -> tuple[Inference, ...]:
    samples = []
    for item in items:
        part = _SHAPE.array(item, "inference", least=len(_INFERENCE_RANGES), most=len(_INFERENCE_RANGES))
        for value, (name, least, most) in zip(part, _INFERENCE_RANGES, strict=True):
            _SHAPE.integer(value, name, least, most)
        ts_ms += part[0]
        samples.append(Inference(seq, ts_ms, *part))
        seq += 1
    return tuple(samples)
