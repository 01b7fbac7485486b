"""Hypothesis strategies for everything the protocol codecs carry, and what a call came to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from fleet.mqtt.codec import names
from fleet.mqtt.codec.classes import sorted_operators
from fleet.mqtt.codec.errors import CodecError
from fleet.mqtt.codec.event import DETAIL_FIELDS, Event
from fleet.mqtt.codec.reported import BankReport, Reported, SelfTest, SlotReport
from fleet.mqtt.codec.sketch import Channel, Inputs, Sketch
from fleet.mqtt.codec.telemetry import Batch, Inference, Window
from ota.errors import OtaError


def outcome(call: Callable[[], Any]) -> tuple[Any, str]:
    """(what it returned, "ok"), or (None, the code of the error it raised). Other errors pass."""
    try:
        return call(), "ok"
    except (CodecError, OtaError) as refused:
        return None, refused.code


U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
device_ids = st.from_regex(r"\A[a-z0-9][a-z0-9-]{0,31}\Z")
model_names = st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,31}\Z")
versions = st.from_regex(r"\A[!-~]{1,24}\Z")
printable = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=32)
operator_lists = st.lists(
    st.one_of(
        st.integers(0, 2**31 - 1).filter(lambda code: code != 32),
        st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20),
    ),
    max_size=12,
).map(sorted_operators)
firmwares = st.tuples(U16, U16, U16)


def raw(size: int) -> st.SearchStrategy[bytes]:
    """Byte strings of one size."""
    return st.binary(min_size=size, max_size=size)


scalars = st.one_of(st.integers(-(2**64), 2**64 - 1), st.binary(max_size=40), st.text(max_size=20))
keys = st.one_of(st.integers(0, 31), st.text(max_size=6))


def nested(depth: int, map_keys: st.SearchStrategy[Any] = keys) -> st.SearchStrategy[Any]:
    """Items with at most `depth` containers inside each other."""
    if depth == 0:
        return scalars
    children = nested(depth - 1, map_keys)
    return st.one_of(scalars, st.lists(children, max_size=5), st.dictionaries(map_keys, children, max_size=5))


items = nested(4)
number_keyed = nested(4, st.integers(0, 31))

banks = st.none() | st.builds(
    BankReport, raw(16), U32, st.integers(0, 1), st.integers(0, 3).map(names.BankFlag)
)


@st.composite
def slot_reports(draw: st.DrawFn) -> SlotReport:
    """Any valid slot report."""
    total, ran = draw(st.integers(0, 1023)), draw(U32)
    return SlotReport(
        state=draw(st.sampled_from(names.UpdateState)),
        code=draw(st.sampled_from(names.RefusalCode)),
        detail=draw(U32),
        have=draw(st.integers(0, total)),
        total=total,
        attempt=draw(U16),
        target=draw(st.just(b"") | raw(16)),
        run_bank=draw(banks),
        other_bank=draw(banks),
        failed_id=draw(st.just(b"") | raw(8)),
        failed_attempt=draw(U16),
        arena_used_bytes=draw(st.integers(0, 2**31 - 1)),
        self_test=SelfTest(ran, draw(st.integers(0, ran)), draw(U32), draw(U32)),
    )


reports = st.builds(
    Reported,
    boot=st.integers(0, 2**31 - 1),
    n=st.integers(1, 2**32 - 1),
    unix_s=U32,
    class_id=raw(16),
    firmware=firmwares,
    chip=st.sampled_from(names.Chip),
    trust_version=st.integers(0, 2**23 - 1),
    desired_counter=U64,
    command_counter=U64,
    is_stale=st.booleans(),
    reset_reason=st.sampled_from(names.ResetReason),
    reset_raw=U32,
    free_heap_bytes=U32,
    slots=st.dictionaries(st.integers(0, 3), slot_reports(), max_size=4),
    config_invalid=st.lists(st.integers(0, 31), max_size=9).map(tuple),
    operators=operator_lists,
    firmware_text=printable,
    esp_nn=printable,
    refusal=st.sampled_from(names.RefusalCode),
    refusal_detail=U32,
)


@st.composite
def windows(draw: st.DrawFn, seq: int, ts_ms: int) -> Window:
    """A valid window with this sequence number after this time."""
    dt_ms, n = draw(st.integers(0, 86_400_000)), draw(st.integers(0, 1_000_000))
    lab_n = draw(st.integers(0, min(n, 32_767)))
    return Window(
        seq=seq,
        ts_ms=ts_ms + dt_ms,
        dt_ms=dt_ms,
        n=n,
        us_mean=draw(st.integers(0, 60_000_000)),
        us_max=draw(st.integers(0, 60_000_000)),
        score_e4=draw(st.integers(0, 10_000)),
        top=draw(st.integers(-1, 255)),
        anom_max_e3=draw(st.integers(0, 2**31 - 1)),
        anom_n=draw(st.integers(0, n)),
        lab_n=lab_n,
        lab_ok=draw(st.integers(0, lab_n)),
        heap_min_64b=draw(st.integers(0, 262_143)),
        rssi_dbm=draw(st.integers(-127, 0)),
        flags=draw(st.integers(0, 2**15 - 1)),
    )


@st.composite
def inferences(draw: st.DrawFn, seq: int, ts_ms: int) -> Inference:
    """A valid sampled inference with this sequence number after this time."""
    dt_ms = draw(st.integers(0, 86_400_000))
    return Inference(
        seq=seq,
        ts_ms=ts_ms + dt_ms,
        dt_ms=dt_ms,
        k=draw(U32),
        top=draw(st.integers(-1, 255)),
        score_e4=draw(st.integers(0, 10_000)),
        margin_e4=draw(st.integers(0, 10_000)),
        anom_e3=draw(st.integers(0, 2**31 - 1)),
        us=draw(st.integers(0, 60_000_000)),
        why=draw(st.integers(0, 3)),
    )


def parts(total: int, bins: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Counts of `bins` bins that sum to `total`."""
    cuts = st.lists(st.integers(0, total), min_size=bins - 1, max_size=bins - 1).map(sorted)
    return cuts.map(lambda at: tuple(b - a for a, b in zip([0, *at], [*at, total], strict=True)))


channels = st.builds(
    Channel, st.integers(-(2**24), 2**24), st.integers(0, 2**40), st.integers(0, 100), st.integers(0, 100)
)


@st.composite
def sketches(draw: st.DrawFn, seq: int, ts_ms: int) -> Sketch:
    """A valid sketch with this sequence number after this time."""
    dt_ms, n = draw(st.integers(0, 86_400_000)), draw(st.integers(1, 1_000_000))
    judged, labelled, ran = draw(st.integers(0, n)), draw(st.integers(0, n)), draw(U32)
    bins = draw(st.integers(1, min(n, 12)))
    numbers = draw(st.lists(st.integers(0, 328), min_size=bins, max_size=bins, unique=True).map(sorted))
    counts = draw(parts(n - bins, bins))
    is_judged = draw(st.booleans())
    has_spread = draw(st.booleans())
    return Sketch(
        seq=seq,
        ts_ms=ts_ms + dt_ms,
        dt_ms=dt_ms,
        duration_s=draw(U32),
        n=n,
        us_max=draw(st.integers(0, 60_000_000)),
        time_shift=draw(st.integers(0, 1)),
        times=tuple(zip(numbers, (count + 1 for count in counts), strict=True)),
        class_hist=draw(st.just(()) | st.integers(1, 20).flatmap(lambda size: parts(n, size))),
        conf_hist=draw(st.just(()) | parts(n, 10)),
        entropy_e3=draw(st.integers(0, 100_000)) if has_spread else None,
        margin_p10_e4=draw(st.integers(0, 10_000)) if has_spread else None,
        inputs=draw(
            st.none()
            | st.builds(
                Inputs, st.integers(100, 2**32 - 1), st.lists(channels, min_size=1, max_size=4).map(tuple)
            )
        ),
        embed_hist=draw(st.just(()) | parts(judged, 10)) if is_judged else (),
        anomalies=(draw(st.integers(0, judged)), judged) if is_judged else None,
        golden=draw(st.none() | st.tuples(st.just(ran), st.integers(0, ran), U32)),
        labels=draw(
            st.just(()) | st.tuples(st.tuples(st.integers(1, 2), st.just(labelled), st.integers(0, labelled)))
        ),
        arena_used_bytes=draw(st.integers(0, 2**31 - 1)),
        heap_min_bytes=draw(U32),
        stack_mark_bytes=draw(U32),
        resets=draw(st.just(()) | st.tuples(st.tuples(st.integers(0, 5), st.integers(1, 2**32 - 1)))),
        faults=draw(st.none() | st.tuples(U32, U32, U32, U32)),
    )


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Any valid batch of up to a dozen records."""
    boot, first = draw(st.integers(0, 2**31 - 1)), draw(st.integers(0, 2**32 - 64))
    t0_ms = draw(st.integers(0, 2**47))
    seq = boot << 32 | first
    n_windows, n_inferences, n_sketches = draw(
        st.sampled_from([(1, 0, 0), (0, 1, 0), (3, 2, 0), (8, 0, 0), (0, 0, 1), (1, 1, 2)])
    )
    taken: list[Window] = []
    for index in range(n_windows):
        taken.append(draw(windows(seq + index, taken[-1].ts_ms if taken else t0_ms)))
    samples: list[Inference] = []
    for index in range(n_inferences):
        samples.append(draw(inferences(seq + n_windows + index, samples[-1].ts_ms if samples else t0_ms)))
    told: list[Sketch] = []
    for index in range(n_sketches):
        before = told[-1].ts_ms if told else t0_ms
        told.append(draw(sketches(seq + n_windows + n_inferences + index, before)))
    return Batch(
        boot=boot,
        first=first,
        t0_ms=t0_ms,
        clock=draw(st.sampled_from(names.Clock)),
        slot=draw(st.integers(0, 3)),
        model=draw(model_names),
        version=draw(versions),
        mid=draw(raw(8)).hex(),
        build=draw(raw(4)),
        windows=tuple(taken),
        inferences=tuple(samples),
        sketches=tuple(told),
    )


@st.composite
def events(draw: st.DrawFn) -> Event:
    """Any valid event."""
    kind = draw(st.sampled_from(names.EventKind))
    count = len(DETAIL_FIELDS[kind]) if kind in DETAIL_FIELDS else draw(st.integers(0, 8))
    slot, mid = draw(st.just((None, None)) | st.tuples(st.integers(0, 3), raw(8).map(bytes.hex)))
    return Event(
        boot=draw(st.integers(0, 2**31 - 1)),
        n=draw(st.integers(1, 2**32 - 1)),
        t_ms=draw(st.integers(0, 2**47)),
        clock=draw(st.sampled_from(names.Clock)),
        kind=kind,
        detail=tuple(draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=count, max_size=count))),
        slot=slot,
        mid=mid,
    )
