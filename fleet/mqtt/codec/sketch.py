"""Sketches: what a model run saw in a quarter of an hour, as histograms and moments (SPEC.md section 7).

Everything is a count or can be pooled by the counts beside it, so a backend may add sketches up. A histogram
that does not sum to its count is `bad_window`; every other fault is `range`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fleet.mqtt.codec.errors import CodecError
from fleet.mqtt.codec.names import ResetReason
from fleet.mqtt.codec.shape import INT32_MAX, UINT32_MAX, Shape

MAX_DT_MS = 86_400_000
MAX_N = 1_000_000
CLASS_BINS = 64
CHANNELS = 16
TIME_PAIRS = 64
TIME_BINS = 657
TIME_SHIFT_MAX = 10
BINS = 10
_FIRST_EDGE_US, _GROWTH, _FRACTION = 32, 66_860, 16
_SHAPE = Shape("range")


def _edges() -> tuple[int, ...]:
    """Edges in 2^-16 µs, by the integer recurrence that the device uses."""
    edge, edges = _FIRST_EDGE_US << _FRACTION, []
    for _ in range(TIME_BINS):
        edges.append(edge)
        edge = edge * _GROWTH >> _FRACTION
    return tuple(edges)


TIME_EDGES: tuple[int, ...] = _edges()
"""Where each latency bin begins, in 2^-16 µs. Shorter times are in the first bin, longer in the last."""


@dataclass(frozen=True)
class Channel:
    """Moments of one input channel. mean_q8, variance_q8: in steps of the tensor's scale, times 256.

    saturated: elements at an end of the tensor's type. out: elements beyond it, or no number.
    """

    mean_q8: int
    variance_q8: int
    saturated: int
    out: int


@dataclass(frozen=True)
class Inputs:
    """elements: of each channel, over all inferences."""

    elements: int
    channels: tuple[Channel, ...]


@dataclass(frozen=True)
class Sketch:
    """One sketch. Parts that a model or a device does not have are None or empty.

    seq: boot << 32 | counter. ts_ms: unix ms of its end. dt_ms: since the sketch before in the batch (first:
    since t0). n: inferences. class_hist: by class, the last of 64 holds every class from 63 on. conf_hist:
    top score in tenths. entropy_e3: mean, 1e-3 nat. margin_p10_e4: a tenth of the margins lie below. times:
    (bin, count), bins rising, in units of 2^time_shift bins of `TIME_EDGES`. embed_hist: anomaly scores
    between the clean deciles of the manifest. anomalies: (over the threshold, judged). golden: (vectors,
    passed, largest difference in LSB). labels: (source, n, agreeing); source 1 actuator, 2 user. resets:
    (reason, n). faults: (gaps, lost hops, values that were no number, resets of streaming state).
    """

    seq: int
    ts_ms: int
    dt_ms: int
    duration_s: int
    n: int
    us_max: int
    time_shift: int
    times: tuple[tuple[int, int], ...]
    class_hist: tuple[int, ...] = ()
    conf_hist: tuple[int, ...] = ()
    entropy_e3: int | None = None
    margin_p10_e4: int | None = None
    inputs: Inputs | None = None
    embed_hist: tuple[int, ...] = ()
    anomalies: tuple[int, int] | None = None
    golden: tuple[int, int, int] | None = None
    labels: tuple[tuple[int, int, int], ...] = ()
    arena_used_bytes: int = 0
    heap_min_bytes: int = 0
    stack_mark_bytes: int = 0
    resets: tuple[tuple[int, int], ...] = ()
    faults: tuple[int, int, int, int] | None = None


def sketch_item(s: Sketch) -> dict[int, Any]:
    """The CBOR form. seq and ts_ms follow from the batch."""
    item: dict[int, Any] = {0: s.dt_ms, 1: s.duration_s, 2: s.n}
    if s.class_hist:
        item[3] = list(s.class_hist)
    if s.conf_hist:
        item[4] = list(s.conf_hist)
    if s.entropy_e3 is not None:
        item[5] = [s.entropy_e3, s.margin_p10_e4]
    item[6] = [s.us_max, s.time_shift, *(number for pair in s.times for number in pair)]
    if s.inputs is not None:
        item[7] = [
            s.inputs.elements,
            *([c.mean_q8, c.variance_q8, c.saturated, c.out] for c in s.inputs.channels),
        ]
    if s.embed_hist:
        item[8] = list(s.embed_hist)
    if s.anomalies is not None:
        item[9] = list(s.anomalies)
    if s.golden is not None:
        item[10] = list(s.golden)
    if s.labels:
        item[11] = [list(one) for one in s.labels]
    item[12] = [s.arena_used_bytes, s.heap_min_bytes, s.stack_mark_bytes]
    if s.resets:
        item[13] = [list(one) for one in s.resets]
    if s.faults is not None:
        item[14] = list(s.faults)
    return item


def parse_sketch(value: Any, *, seq: int, before_ms: int) -> Sketch:
    """Read one element of telemetry key 9, the first record of which would follow `before_ms`.

    Raises CodecError `bad_window` for a histogram or a part that contradicts its count, else `range`.
    """
    item = _SHAPE.map(value, "sketch", required=(0, 1, 2, 6, 12), optional=(3, 4, 5, *range(7, 15)))
    dt_ms, n = _SHAPE.uint(item[0], "dt", MAX_DT_MS), _SHAPE.integer(item[2], "n", 1, MAX_N)
    us_max, shift, times = _times(item[6], n)
    spread = _numbers(item, 5, "spread", (100_000, 10_000))
    anomalies = _numbers(item, 9, "anomalies", (n, n))
    golden = _numbers(item, 10, "golden", (UINT32_MAX, UINT32_MAX, UINT32_MAX))
    memory = _numbers(item, 12, "memory", (INT32_MAX, UINT32_MAX, UINT32_MAX)) or (0, 0, 0)
    faults = _numbers(item, 14, "faults", (UINT32_MAX,) * 4)
    embed_hist = _histogram(item, 8, BINS, BINS)
    labels = _rows(item, 11, "labels", 4, ((1, 2), (0, n), (0, n)))
    sketch = Sketch(
        seq=seq,
        ts_ms=before_ms + dt_ms,
        dt_ms=dt_ms,
        duration_s=_SHAPE.uint(item[1], "duration", UINT32_MAX),
        n=n,
        us_max=us_max,
        time_shift=shift,
        times=times,
        class_hist=_histogram(item, 3, 1, CLASS_BINS),
        conf_hist=_histogram(item, 4, BINS, BINS),
        entropy_e3=spread[0] if spread else None,
        margin_p10_e4=spread[1] if spread else None,
        inputs=_inputs(item[7]) if 7 in item else None,
        embed_hist=embed_hist,
        anomalies=(anomalies[0], anomalies[1]) if anomalies else None,
        golden=(golden[0], golden[1], golden[2]) if golden else None,
        labels=tuple((source, count, right) for source, count, right in labels),
        arena_used_bytes=memory[0],
        heap_min_bytes=memory[1],
        stack_mark_bytes=memory[2],
        resets=tuple(
            (reason, count)
            for reason, count in _rows(item, 13, "resets", 6, ((0, max(ResetReason)), (1, UINT32_MAX)))
        ),
        faults=(faults[0], faults[1], faults[2], faults[3]) if faults else None,
    )
    _check_sums(sketch)
    return sketch


def _check_sums(s: Sketch) -> None:
    counted = s.anomalies[1] if s.anomalies else 0
    wrong = (
        ("class counts", bool(s.class_hist) and sum(s.class_hist) != s.n),
        ("confidence counts", bool(s.conf_hist) and sum(s.conf_hist) != s.n),
        ("latency counts", sum(count for _, count in s.times) != s.n),
        ("distance counts", bool(s.embed_hist) and sum(s.embed_hist) != counted),
        ("anomalies", s.anomalies is not None and s.anomalies[0] > s.anomalies[1]),
        ("golden", s.golden is not None and s.golden[1] > s.golden[0]),
        ("labels", any(right > count for _, count, right in s.labels)),
        (
            "input counts",
            s.inputs is not None
            and any(max(c.saturated, c.out) > s.inputs.elements for c in s.inputs.channels),
        ),
    )
    for what, is_wrong in wrong:
        if is_wrong:
            raise CodecError("bad_window", f"{what} of a sketch contradict their count")


def _histogram(item: dict[int, Any], key: int, least: int, most: int) -> tuple[int, ...]:
    if key not in item:
        return ()
    counts = _SHAPE.array(item[key], f"sketch key {key}", least=least, most=most)
    return tuple(_SHAPE.uint(count, f"sketch key {key}", MAX_N) for count in counts)


def _numbers(item: dict[int, Any], key: int, what: str, limits: tuple[int, ...]) -> tuple[int, ...] | None:
    if key not in item:
        return None
    values = _SHAPE.array(item[key], what, least=len(limits), most=len(limits))
    return tuple(_SHAPE.uint(value, what, most) for value, most in zip(values, limits, strict=True))


def _rows(
    item: dict[int, Any], key: int, what: str, most: int, ranges: tuple[tuple[int, int], ...]
) -> list[list[int]]:
    if key not in item:
        return []
    rows = []
    for row in _SHAPE.array(item[key], what, least=1, most=most):
        values = _SHAPE.array(row, what, least=len(ranges), most=len(ranges))
        rows.append(
            [
                _SHAPE.integer(value, what, low, high)
                for value, (low, high) in zip(values, ranges, strict=True)
            ]
        )
    return rows


def _times(value: Any, n: int) -> tuple[int, int, tuple[tuple[int, int], ...]]:
    numbers = _SHAPE.array(value, "latency", least=4, most=2 + 2 * TIME_PAIRS)
    if len(numbers) % 2:
        raise CodecError("range", "a latency bin without a count")
    us_max = _SHAPE.uint(numbers[0], "us_max", 60_000_000)
    shift = _SHAPE.uint(numbers[1], "latency shift", TIME_SHIFT_MAX)
    pairs, before = [], -1
    for index in range(2, len(numbers), 2):
        before = _SHAPE.integer(numbers[index], "latency bin", before + 1, TIME_BINS - 1 >> shift)
        pairs.append((before, _SHAPE.integer(numbers[index + 1], "latency count", 1, n)))
    return us_max, shift, tuple(pairs)


def _inputs(value: Any) -> Inputs:
    parts = _SHAPE.array(value, "inputs", least=2, most=1 + CHANNELS)
    elements = _SHAPE.integer(parts[0], "elements", 1, UINT32_MAX)
    channels = []
    for part in parts[1:]:
        mean, variance, saturated, out = _SHAPE.array(part, "input channel", least=4, most=4)
        channels.append(
            Channel(
                _SHAPE.integer(mean, "mean", -(2**24), 2**24),
                _SHAPE.uint(variance, "variance", 2**40),
                _SHAPE.uint(saturated, "saturated", UINT32_MAX),
                _SHAPE.uint(out, "out of range", UINT32_MAX),
            )
        )
    return Inputs(elements, tuple(channels))
