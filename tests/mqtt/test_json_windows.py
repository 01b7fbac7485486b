"""The JSON form of a batch is the same value as the CBOR one, and everything else has a code."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.mqtt.codec.errors import CodecError
from fleet.mqtt.codec.json_windows import MAX_BYTES, json_of, parse_json
from fleet.mqtt.codec.names import Clock
from fleet.mqtt.codec.telemetry import Batch, encode_batch, parse_batch
from tests.mqtt import strategies as own
from tests.vectors import telemetry

BATCH = Batch(7, 20, 10**12, Clock.SNTP, 0, "har", "1", "00" * 8, bytes(4), (telemetry.window(),) * 2)


def written(**change: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json_of(BATCH))
    return {name: value for name, value in {**found, **change}.items() if value is not ...}


def code_of(payload: bytes) -> str:
    with pytest.raises(CodecError) as caught:
        parse_json(payload)
    return caught.value.code


@given(own.batches().filter(lambda batch: bool(batch.windows)))
def test_json_and_cbor_give_the_same_batch(batch: Batch) -> None:
    alone = batch._replace(inferences=(), sketches=())
    assert parse_json(json_of(batch)) == parse_batch(encode_batch(alone)) == alone


def test_a_window_may_be_written_with_what_matters() -> None:
    found = parse_json(json.dumps(written(windows=[{"dt_ms": 5, "n": 3}, {"n": 1, "dt_ms": 7}])).encode())
    assert [(w.seq, w.ts_ms, w.n, w.top, w.heap_min_64b) for w in found.windows] == [
        (7 << 32 | 20, 10**12 + 5, 3, -1, 0),
        (7 << 32 | 21, 10**12 + 12, 1, -1, 0),
    ]


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("format_unknown", {"format": 2}),
        ("format_unknown", {"format": True}),
        ("range", {"boot": 2**31}),
        ("range", {"boot": "7"}),
        ("range", {"first": 2**32 - 1}),
        ("range", {"boot": ...}),
        ("range", {"colour": 1}),
        ("range", {"windows": []}),
        ("range", {"windows": None}),
        ("range", {"windows": [{"dt_ms": 1, "n": 1}] * 65}),
        ("range", {"windows": [{"dt_ms": 1}]}),
        ("range", {"windows": [{"dt_ms": 1, "n": 1, "seq": 4}]}),
        ("range", {"windows": [{"dt_ms": 1, "n": True}]}),
        ("bad_window", {"windows": [[1, 2]]}),
        ("bad_window", {"windows": [{"dt_ms": 1, "n": 1, "lab_n": 2}]}),
        ("range", {"mid": "00"}),
        ("range", {"mid": "no hex digits"}),
        ("range", {"build": 1}),
        ("range", {"model": "Har"}),
        ("range", {"version": "a\x00b"}),
        ("range", {"clock": 3}),
        ("range", {"slot": -1}),
    ],
)
def test_a_batch_out_of_range_has_the_code_that_cbor_has(code: str, change: dict[str, Any]) -> None:
    assert code_of(json.dumps(written(**change)).encode()) == code


@pytest.mark.parametrize(
    "payload",
    [
        b"{", b"{}x", b"[" * 16_000, b'{"boot": 1, "boot": 2}', b"[]", b"1", b"\xff\xfe{}", b"null",
        json.dumps(written(boot=1.5)).encode(), json.dumps(written(boot=float("nan"))).encode(),
        b'{"boot": 1e3}', b'{"boot": ' + b"9" * 9_000 + b"}",
    ],
)  # fmt: skip
def test_what_is_no_json_of_whole_numbers_is_refused(payload: bytes) -> None:
    assert code_of(payload) == "malformed_json"


def test_size_comes_before_parsing() -> None:
    assert code_of(b"{" + b" " * MAX_BYTES) == "too_large"
    full = written(windows=[dict.fromkeys(written()["windows"][0], 0)] * 64)
    full["windows"] = [{**one, "dt_ms": 86_400_000, "us_max": 60_000_000} for one in full["windows"]]
    assert len(json.dumps(full, separators=(",", ":"))) < MAX_BYTES


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
).map(lambda item: json.dumps(item).encode())))  # fmt: skip
def test_any_bytes_give_a_batch_or_a_code(payload: bytes) -> None:
    _, code = own.outcome(lambda: parse_json(payload))
    assert code in {"ok", "malformed_json", "too_large", "range", "bad_window", "format_unknown"}
