"""Vectors of sketches: inferences in, the bytes of telemetry key 9's element out.

The reference here is integers only and follows SPEC.md section 7 to the letter; the C core is fed the same
inferences and has to write the same bytes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from fleet.mqtt.codec.cbor import encode
from fleet.mqtt.codec.sketch import TIME_EDGES, Channel, Inputs, Sketch, sketch_item

DURATION_S = 900
DEVICE_PAIRS, DEVICE_CHANNELS = 32, 12
SCALE_BITS, ZERO = 0x3D800000, 3
"""Windows are int8 of scale 1/16 and zero point 3."""
CUTS = (100, 200, 300, 400, 500, 600, 700, 800, 900)


def log2_q16(value: int) -> int:
    """log2 of 1..65,535 in 2^-16 steps, the last four bits 0: squaring a number in [1, 2) doubles its log."""
    whole = value.bit_length() - 1
    mantissa, part = value << (31 - whole), 0
    for bit in range(15, 3, -1):
        mantissa = mantissa * mantissa >> 31
        if mantissa >> 32:
            mantissa >>= 1
            part |= 1 << bit
    return whole << 16 | part


def entropy_e3(scores: list[int]) -> int:
    """-sum(p ln p) in 1e-3 nat of scores in 1e-4."""
    total = sum(p * (log2_q16(10_000) - log2_q16(p)) for p in scores if 0 < p < 10_000)
    return (total // 10_000 * 693_147 // 1000 + (1 << 15)) >> 16


def time_bin(us: int) -> int:
    """The last bin whose edge is not above the time."""
    return max(0, sum(edge <= us << 16 for edge in TIME_EDGES) - 1)


def times(all_us: list[int]) -> tuple[int, tuple[tuple[int, int], ...]]:
    """(shift, pairs): the least shift with room for all occupied bins."""
    counts = Counter(time_bin(us) for us in all_us)
    shift = 0
    while len({number >> shift for number in counts}) > DEVICE_PAIRS:
        shift += 1
    merged: Counter[int] = Counter()
    for number, count in counts.items():
        merged[number >> shift] += count
    return shift, tuple(sorted(merged.items()))


def margin_p10(scores: list[list[int]]) -> int:
    """A tenth of the margins lie below: linear inside a bin of 500."""
    margins = []
    for row in scores:
        best, second = [*sorted(row, reverse=True), 0][:2]
        margins.append(min(19, (best - second) // 500))
    want, below = len(margins) // 10, 0
    for number in range(20):
        count = margins.count(number)
        if below + count > want:
            return 500 * number + 500 * (want - below) // count
        below += count
    raise AssertionError("counts do not sum up")


def toward_zero(a: int, b: int) -> int:
    """Integer division as C does it."""
    return abs(a) // b * (1 if a >= 0 else -1)


def channel(steps: list[int], out: int) -> Channel:
    """Moments of one channel in steps."""
    n, total = len(steps), sum(steps)
    whole = toward_zero(total, n)
    rest = total - whole * n
    around = sum((step - whole) ** 2 for step in steps)
    part = toward_zero(rest * 4096, n)
    variance = around // n * 256 + around % n * 256 // n
    return Channel(
        whole * 256 + toward_zero(rest * 256, n),
        max(0, variance - (part * part >> 16)),
        sum(step in (-128, 127) for step in steps),
        out,
    )


def sketch(inferences: list[dict[str, Any]], limit: int) -> Sketch:
    """What a device makes of these inferences."""
    rows = [one["scores"] for one in inferences]
    n = len(inferences)
    shift, pairs = times([one["us"] for one in inferences])
    has_scores = bool(rows[0])
    tops = [row.index(max(row)) for row in rows] if has_scores else []
    labelled = [(one["label"], top) for one, top in zip(inferences, tops, strict=False) if one["label"] >= 0]
    judged = [one["score"] for one in inferences if one["score"] is not None]
    count = min(len(rows[0]), 64)
    return Sketch(
        seq=0, ts_ms=0, dt_ms=0, duration_s=DURATION_S, n=n, us_max=max(one["us"] for one in inferences),
        time_shift=shift, times=pairs,
        class_hist=tuple(sum(min(top, 63) == number for top in tops) for number in range(count)),
        conf_hist=tuple(sum(min(9, max(row) // 1000) == number for row in rows) for number in range(10))
        if has_scores else (),
        entropy_e3=(sum(map(entropy_e3, rows)) + n // 2) // n if has_scores else None,
        margin_p10_e4=margin_p10(rows) if has_scores else None,
        inputs=_inputs(inferences),
        embed_hist=tuple(sum(sum(s >= cut for cut in CUTS) == number for s in judged) for number in range(10))
        if judged else (),
        anomalies=(sum(score > limit for score in judged), len(judged)) if judged else None,
        labels=((1, len(labelled), sum(label == top for label, top in labelled)),) if labelled else (),
        heap_min_bytes=min(one["heap"] for one in inferences),
    )  # fmt: skip


def _inputs(inferences: list[dict[str, Any]]) -> Inputs | None:
    frames = [frame for one in inferences for frame in one["window"]]
    if not frames:
        return None
    channels = []
    for index in range(min(len(frames[0]), DEVICE_CHANNELS)):
        exact = [frame[index] + ZERO for frame in frames]
        held = [max(-128, min(127, step)) for step in exact]
        channels.append(channel(held, sum(a != b for a, b in zip(exact, held, strict=True))))
    return Inputs(len(frames), tuple(channels))


def _numbers(seed: str) -> Iterator[int]:
    counter = 0
    while True:
        digest = hashlib.sha256(f"{seed} {counter}".encode()).digest()
        yield from (int.from_bytes(digest[i : i + 4], "big") for i in range(0, 32, 4))
        counter += 1


def _run(
    seed: str, n: int, classes: int, channels: int, *, spread: int, is_judged: bool
) -> list[dict[str, Any]]:
    """Inferences from a seed. us lie in 1000 .. 1000 + spread; windows hold integers, in 1/16."""
    numbers = _numbers(seed)
    return [
        {
            "us": 1000 + next(numbers) % (spread + 1),
            "heap": next(numbers),
            "scores": [next(numbers) % 10_001 for _ in range(classes)],
            "label": next(numbers) % (classes + 1) - 1 if classes else -1,
            "score": next(numbers) % 1100 if is_judged else None,
            "window": [
                [next(numbers) % 281 - 140 for _ in range(channels)] for _ in range(3 if channels else 0)
            ],
        }
        for _ in range(n)
    ]


def sketches() -> dict[str, Any]:
    """sketches.json."""
    lone = {"us": 0, "heap": 0, "scores": [], "label": -1, "score": None, "window": []}
    runs: list[tuple[str, list[dict[str, Any]]]] = [
        ("one inference of 0 us and nothing else", [lone]),
        ("a minute and 32 us", [lone | {"us": 60_000_000}, lone | {"us": 32}, lone | {"us": 31}]),
        ("scores of 0 and 1", [lone | {"scores": [10_000, 0, 0]}, lone | {"scores": [0, 0, 0], "label": 0}]),
        ("three classes, two channels", _run("a", 25, 3, 2, spread=100, is_judged=True)),
        ("seven classes, six channels, no anomaly score", _run("b", 40, 7, 6, spread=300, is_judged=False)),
        ("seventy classes, fourteen channels", _run("c", 12, 70, 14, spread=50, is_judged=True)),
        ("more latency bins than there is room for", _run("d", 120, 2, 1, spread=6_000_000, is_judged=True)),
        ("a model without scores", _run("e", 9, 0, 3, spread=9000, is_judged=True)),
    ]
    limit = 500
    return {
        "format": 1,
        "context": {
            "limit": limit,
            "cuts": CUTS,
            "scale_bits": SCALE_BITS,
            "zero": ZERO,
            "duration_s": DURATION_S,
        },
        "vectors": [
            {
                "name": name,
                "kind": "sketch",
                "inferences": run,
                "expect": "ok",
                "hex": encode(sketch_item(sketch(run, limit))).hex(),
            }
            for name, run in runs
        ],
    }
