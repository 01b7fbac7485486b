"""Vectors of `telemetry`: windows, inferences, sketches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fleet.mqtt.codec.classes import build_id
from fleet.mqtt.codec.names import Chip, Clock
from fleet.mqtt.codec.telemetry import Batch, Window, encode_batch
from tests.vectors import keys as k
from tests.vectors.collection import (
    Change,
    Collection,
    changed,
    edit,
    setting,
    without,
)
from tests.vectors.uplinks import Uplinks


def window(**changes: int) -> Window:
    """A window of a healthy device."""
    values = {
        "seq": 0,
        "ts_ms": 0,
        "dt_ms": 5_000,
        "n": 5,
        "us_mean": 800,
        "us_max": 1_200,
        "score_e4": 9_100,
        "top": 2,
        "anom_max_e3": 150,
        "anom_n": 1,
        "lab_n": 5,
        "lab_ok": 4,
        "heap_min_64b": 3_000,
        "rssi_dbm": -61,
        "flags": 0,
    }
    return Window(**values | changes)


def telemetry() -> Collection:
    """telemetry.json."""
    out = Uplinks("telemetry")
    run = {
        "slot": 0,
        "model": "har",
        "version": "1.0.0",
        "mid": k.MANIFEST_ID[:8].hex(),
        "build": build_id("1.0.0", "none", Chip.HOST),
    }
    base: dict[str, Any] = {"boot": 7, "first": 20, "t0_ms": k.NOW * 1000, "clock": Clock.SNTP, **run}
    least = window(
        dt_ms=0,
        n=0,
        us_mean=0,
        us_max=0,
        score_e4=0,
        top=-1,
        anom_max_e3=0,
        anom_n=0,
        lab_n=0,
        lab_ok=0,
        heap_min_64b=0,
        rssi_dbm=-127,
    )
    most = window(
        dt_ms=86_400_000,
        n=1_000_000,
        us_mean=60_000_000,
        us_max=60_000_000,
        score_e4=10_000,
        top=255,
        anom_max_e3=2**31 - 1,
        anom_n=1_000_000,
        lab_n=32_767,
        lab_ok=32_767,
        heap_min_64b=262_143,
        rssi_dbm=0,
        flags=2**15 - 1,
    )
    payload = encode_batch(Batch(**base, windows=(window(), window(dt_ms=4_999))))
    out.payload("two windows", payload, "ok")
    out.payload(
        "windows of least and largest values", encode_batch(Batch(**base, windows=(least, most))), "ok"
    )
    out.payload("sixty-four windows", encode_batch(Batch(**base, windows=(window(),) * 64)), "ok")
    inference = [100, 9, 2, 9000, 500, 10, 800, 0]
    out.payload("an inference beside the windows", changed(payload, setting(8, [inference])), "ok")
    out.payload(
        "only an inference", changed(payload, lambda item: (item.pop(7), item.update({8: [inference]}))), "ok"
    )
    out.faults(payload)
    for key in range(1, 7):
        out.payload(f"without key {key}", changed(payload, without(key)), "range")
    for name, key, value in (
        ("boot 2^31", 1, 2**31),
        ("a counter that leaves 32 bits", 2, 2**32 - 1),
        ("a time after the year 9999", 3, 2**48),
        ("clock 0", 4, 0),
        ("slot 4", 5, [4, "har", "1", bytes(8)]),
        ("a malformed model name", 5, [0, "a/b", "1", bytes(8)]),
        ("an empty version", 5, [0, "har", "", bytes(8)]),
        ("a mid of 16 bytes", 5, [0, "har", "1", bytes(16)]),
        ("a build id of 3 bytes", 6, bytes(3)),
        ("no windows in the list", 7, []),
        ("windows that are a map", 7, {}),
        ("an inference of seven numbers", 8, [inference[:7]]),
    ):
        out.payload(f"with {name}", changed(payload, setting(key, value)), "range")
    out.payload("no records", changed(payload, without(7)), "range")
    both = changed(payload, edit({7: [_least_window()] * 64, 8: [inference]}))
    out.payload("sixty-five records", both, "range")
    _add_inferences(out, payload)
    _add_sketches(out, payload)
    for name, index, number, code in _window_faults():
        out.payload(f"a window with {name}", changed(payload, _in_window(index, number)), code)
    out.payload(
        "a window of twelve numbers", changed(payload, setting(7, [_least_window()[:12]])), "bad_window"
    )
    out.payload(
        "a window of fourteen numbers", changed(payload, setting(7, [[*_least_window(), 0]])), "bad_window"
    )
    out.payload("a window that is a number", changed(payload, setting(7, [1])), "bad_window")
    return out


def _add_inferences(out: Uplinks, payload: bytes) -> None:
    most = [86_400_000, 2**32 - 1, 255, 10_000, 10_000, 2**31 - 1, 60_000_000, 3]
    least = [0, 0, -1, 0, 0, 0, 0, 0]
    out.payload("inferences of least and largest values", changed(payload, setting(8, [least, most])), "ok")
    for index, limit in enumerate(most):
        bad = [*least[:index], limit + 1, *least[index + 1 :]]
        out.payload(
            f"an inference with field {index} above its limit", changed(payload, setting(8, [bad])), "range"
        )
    for index, value in ((0, -1), (2, -2), (6, "1")):
        bad = [*least[:index], value, *least[index + 1 :]]
        out.payload(
            f"an inference with {value!r} as field {index}", changed(payload, setting(8, [bad])), "range"
        )
    out.payload("an inference that is a map", changed(payload, setting(8, [{0: 1}])), "range")


def base_sketch() -> dict[int, Any]:
    """Ten inferences of a model of three classes and two channels, with everything a sketch can have."""
    return {
        0: 900_000,
        1: 900,
        2: 10,
        3: [7, 2, 1],
        4: [0, 0, 0, 0, 0, 1, 2, 3, 3, 1],
        5: [412, 1_730],
        6: [3_100, 0, 190, 4, 191, 5, 226, 1],
        7: [1_000, [-130, 70_000, 2, 0], [512, 90_001, 0, 1]],
        8: [1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        9: [1, 10],
        10: [4, 4, 1],
        11: [[1, 10, 8], [2, 1, 0]],
        12: [5_584, 182_000, 0],
        13: [[2, 1]],
        14: [1, 2, 3, 4],
    }


def _add_sketches(out: Uplinks, payload: bytes) -> None:
    least = {0: 0, 1: 0, 2: 1, 6: [0, 0, 0, 1], 12: [0, 0, 0]}
    most = {
        **{0: 86_400_000, 1: 2**32 - 1, 2: 1_000_000, 3: [0] * 63 + [1_000_000]},
        **{4: [0] * 9 + [1_000_000], 5: [100_000, 10_000]},
        **{6: [60_000_000, 10, 0, 1_000_000], 9: [1_000_000, 1_000_000]},
        **{7: [2**32 - 1, *[[2**24, 2**40, 2**32 - 1, 2**32 - 1]] * 16]},
        **{10: [2**32 - 1] * 3, 11: [[2, 1_000_000, 1_000_000]] * 4, 12: [2**31 - 1, 2**32 - 1, 2**32 - 1]},
        **{13: [[5, 2**32 - 1]] * 6, 14: [2**32 - 1] * 4},
    }
    base = base_sketch()

    def bare(items: list[Any]) -> bytes:
        return changed(payload, lambda item: (item.pop(7), item.update({9: items})))

    out.payload("a sketch alone", bare([base]), "ok")
    out.payload("sketches of least and largest values", bare([least, dict(sorted(most.items()))]), "ok")
    out.payload("a sketch beside the windows", changed(payload, setting(9, [base])), "ok")
    pairs = [number for index in range(64) for number in (index * 10, 1)]
    out.payload("a sketch of 64 latency bins", bare([base | {2: 64, 6: [9, 0, *pairs]} | _counts(64)]), "ok")
    out.payload("three sketches", bare([base] * 3), "range")
    out.payload("no sketches in the list", bare([]), "range")
    out.payload("sixty-four windows and a sketch", _crowded(payload, base), "range")
    for key in (0, 1, 2, 6, 12):
        out.payload(
            f"a sketch without key {key}", bare([{k: v for k, v in base.items() if k != key}]), "range"
        )
    for name, key, value, code in _sketch_faults():
        out.payload(f"a sketch with {name}", bare([dict(sorted((base | {key: value}).items()))]), code)


def _counts(n: int) -> dict[int, Any]:
    return {3: [n], 4: [0] * 9 + [n]}


def _crowded(payload: bytes, sketch: dict[int, Any]) -> bytes:
    return changed(payload, edit({7: [_least_window()] * 64, 9: [sketch]}))


def _sketch_faults() -> Iterator[tuple[str, int, Any, str]]:
    yield "class counts that sum to one less", 3, [6, 2, 1], "bad_window"
    yield "class counts that sum to one more", 3, [7, 2, 2], "bad_window"
    yield "confidence counts that do not sum up", 4, [1] * 9 + [2], "bad_window"
    yield "latency counts that do not sum up", 6, [3_100, 0, 190, 9], "bad_window"
    yield "distance counts that do not sum up", 8, [0] * 9 + [9], "bad_window"
    yield "more anomalies than judged", 9, [10, 9], "bad_window"
    yield "more golden vectors right than run", 10, [4, 5, 0], "bad_window"
    yield "more right labels than labels", 11, [[1, 5, 6]], "bad_window"
    yield "more saturated elements than elements", 7, [10, [0, 0, 11, 0]], "bad_window"
    yield "more elements out of range than elements", 7, [10, [0, 0, 0, 11]], "bad_window"
    for name, key, value in (
        ("a time of more than a day", 0, 86_400_001),
        ("a duration of 33 bits", 1, 2**32),
        ("no inferences", 2, 0),
        ("1,000,001 inferences", 2, 1_000_001),
        ("65 classes", 3, [10] + [0] * 64),
        ("no classes", 3, []),
        ("a negative class count", 3, [11, -1]),
        ("nine confidence bins", 4, [0] * 8 + [10]),
        ("a margin over 1", 5, [0, 10_001]),
        ("an entropy of more than 100 nat", 5, [100_001, 0]),
        ("three spreads", 5, [0, 0, 0]),
        ("no latency bins", 6, [3_100, 0]),
        ("a latency bin without a count", 6, [3_100, 0, 190]),
        ("latency bins that fall", 6, [3_100, 0, 190, 5, 189, 5]),
        ("a latency bin twice", 6, [3_100, 0, 190, 5, 190, 5]),
        ("latency bin 657", 6, [3_100, 0, 657, 10]),
        ("shifted latency bin 329", 6, [3_100, 1, 329, 10]),
        ("latency shift 11", 6, [3_100, 11, 0, 10]),
        ("an empty latency bin", 6, [3_100, 0, 190, 10, 191, 0]),
        ("a latency of more than a minute", 6, [60_000_001, 0, 190, 10]),
        ("no input channels", 7, [1_000]),
        ("seventeen input channels", 7, [1_000, *[[0, 0, 0, 0]] * 17]),
        ("no input elements", 7, [0, [0, 0, 0, 0]]),
        ("a channel of three numbers", 7, [1_000, [0, 0, 0]]),
        ("a negative variance", 7, [1_000, [0, -1, 0, 0]]),
        ("a mean beyond any tensor", 7, [1_000, [2**24 + 1, 0, 0, 0]]),
        ("anomalies of three numbers", 9, [1, 10, 0]),
        ("more judged than inferences", 9, [1, 11]),
        ("labels of source 3", 11, [[3, 1, 1]]),
        ("labels of source 0", 11, [[0, 1, 1]]),
        ("five rows of labels", 11, [[1, 1, 1]] * 5),
        ("memory of two numbers", 12, [1, 2]),
        ("an arena of 2^31", 12, [2**31, 0, 0]),
        ("reset reason 6", 13, [[6, 1]]),
        ("a reset that never was", 13, [[2, 0]]),
        ("three faults", 14, [1, 2, 3]),
        ("a key that format 1 lacks", 15, 0),
    ):
        yield name, key, value, "range"


def _least_window() -> list[int]:
    return [0, 0, 0, 0, 0, -1, 0, 0, 0, 0, 0, -127, 0]


def _in_window(index: int, value: Any) -> Change:
    return lambda item: item[7][0].__setitem__(index, value)


def _window_faults() -> Iterator[tuple[str, int, Any, str]]:
    limits = (
        86_400_000,
        1_000_000,
        60_000_000,
        60_000_000,
        10_000,
        255,
        2**31 - 1,
        1_000_000,
        32_767,
        32_767,
        262_143,
        0,
        2**15 - 1,
    )
    for index, limit in enumerate(limits):
        yield f"field {index} above its limit", index, limit + 1, "range"
    for index, least in ((0, 0), (1, 0), (5, -1), (11, -127)):
        yield f"field {index} below its least", index, least - 1, "range"
    yield "text for a number", 3, "9", "range"
    yield "more anomalies than inferences", 7, 6, "bad_window"
    yield "more labels than inferences", 8, 6, "bad_window"
    yield "more right labels than labels", 9, 6, "bad_window"
