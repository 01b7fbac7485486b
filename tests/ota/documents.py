"""Hypothesis strategies for signed documents."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from fleet.mqtt.codec import names
from fleet.mqtt.codec.cbor import decode_strict, encode
from ota.desired import NO_DIGEST, Command, Desired, DesiredEntry
from ota.hints import Hints
from ota.manifest import Manifest
from ota.tensors import DType, GoldenBlob, GoldenInline, GoldenVector, TensorSpec
from ota.trust import NameRule, TrustDocument
from tests.mqtt import strategies as own

specs = st.builds(
    TensorSpec,
    st.sampled_from(DType),
    st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    own.U32,
    st.integers(-(2**31), 2**31 - 1),
)
contracts = st.lists(specs, min_size=1, max_size=2).map(tuple)
blobs = st.builds(GoldenBlob, st.integers(1, 65_536), own.raw(32), st.integers(1, 4096), own.U32)


@st.composite
def inline(
    draw: st.DrawFn, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> GoldenInline | GoldenBlob:
    """Vectors that fill these tensors, or a blob when they would not fit inline."""
    total = sum(spec.size_bytes + 3 for spec in (*inputs, *outputs)) + 3
    count = draw(st.integers(1, 3))
    if total * count > 1000:
        return draw(blobs)
    vectors = tuple(
        GoldenVector(
            tuple(draw(own.raw(spec.size_bytes)) for spec in inputs),
            tuple(draw(own.raw(spec.size_bytes)) for spec in outputs),
        )
        for _ in range(count)
    )
    return GoldenInline(vectors, draw(own.U32))


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """The strategy, or None."""
    return st.none() | strategy


@st.composite
def hints(draw: st.DrawFn) -> Hints:
    """Any hints a device would take with any tensors."""
    window = draw(maybe(st.integers(1, 1000)))
    channels = draw(maybe(st.integers(1, 65_535)))
    front = draw(st.sampled_from([None, 0, 1]))
    if front == 1:
        channels = draw(st.integers(1, 12))
    kinds = st.integers(-(2**31), 2**32 - 1).filter(lambda kind: kind not in (1, 2))
    return Hints(
        window=window,
        hop=draw(maybe(st.integers(1, window))) if window else None,
        channels=channels,
        reset_policy=draw(maybe(st.integers(0, 2))),
        resource_variables=draw(maybe(own.U16)),
        latency_budget_us=draw(maybe(own.U32)),
        front_end=None if front is None else (front, draw(own.raw(8))),
        head=draw(maybe(st.integers(0, 1))),
        embedding_output=draw(maybe(st.integers(0, 7))),
        anomaly=draw(
            maybe(
                st.tuples(kinds, st.lists(st.integers(-(2**31), 2**32 - 1), min_size=1, max_size=7)).map(
                    lambda pair: (pair[0], *pair[1])
                )
            )
        ),
        labels=draw(maybe(own.raw(8))),
        classes=draw(maybe(st.integers(1, 65_535))),
        distance=draw(maybe(st.binary(min_size=8, max_size=256))),
        front_params=bytes(8 * (channels or 0)) if front == 1 else draw(maybe(own.raw(8))),
        deciles=draw(
            maybe(st.lists(st.integers(0, 2**31 - 1), min_size=9, max_size=9).map(sorted).map(tuple))
        ),
    )


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Any manifest a device would take."""
    seq = draw(own.U32)
    inputs, outputs = draw(contracts), draw(contracts)
    kind, slot = draw(st.sampled_from([(0, 0), (0, 3), (1, 255)]))
    return Manifest(
        name=draw(own.model_names),
        version=draw(own.versions),
        seq=seq,
        floor=draw(st.integers(0, seq)),
        classes=tuple(draw(st.lists(own.raw(16), min_size=1, max_size=8))),
        size=draw(st.integers(1, 3_900_000)),
        sha256=draw(own.raw(32)),
        leaves_sha256=draw(own.raw(32)),
        arena_bytes=draw(st.integers(0, 2**31 - 1)),
        firmware=draw(own.firmwares),
        operators=draw(own.operator_lists),
        inputs=inputs,
        outputs=outputs,
        golden=draw(st.one_of(blobs, inline(inputs, outputs))),
        created=draw(own.U64),
        expires=draw(maybe(own.U64)),
        kind=kind,
        slot=slot,
        hints=draw(maybe(hints())),
    )


@st.composite
def trusts(draw: st.DrawFn) -> TrustDocument:
    """Any trust document a device would take."""
    pool = draw(st.lists(own.raw(32), min_size=12, max_size=12, unique=True))
    counts = [
        draw(st.integers(1, 4)),
        draw(st.integers(1, 4)),
        draw(st.integers(1, 2)),
        draw(st.integers(0, 2)),
    ]
    groups = [tuple(pool.pop() for _ in range(count)) for count in counts]
    rules = draw(
        st.lists(st.tuples(own.model_names, own.U32, st.booleans()), max_size=8, unique_by=lambda r: r[0])
    )
    return TrustDocument(
        version=draw(st.integers(1, 2**23 - 1)),
        issued=draw(own.U64),
        expires=draw(own.U64),
        roots=groups[0],
        root_threshold=draw(st.integers(1, counts[0])),
        release=groups[1],
        release_threshold=draw(st.integers(1, counts[1])),
        online=groups[2],
        revoked=tuple(draw(st.lists(own.raw(8), max_size=8))),
        names=tuple(NameRule(*rule) for rule in sorted(rules, key=lambda item: (len(item[0]), item[0]))),
        firmware=groups[3],
        firmware_threshold=draw(st.integers(1, counts[3])) if counts[3] else 0,
    )


digests = own.raw(32).filter(lambda digest: digest != NO_DIGEST)
entries = st.one_of(
    st.builds(
        DesiredEntry,
        st.sampled_from([names.Action.RUN, names.Action.RUN_OTHER_BANK]),
        digests,
        own.U64,
        own.U64,
        own.U16,
    ),
    st.builds(DesiredEntry, st.just(names.Action.STOP), st.just(NO_DIGEST), own.U64, own.U64, own.U16),
)
counters = st.builds(
    lambda version, low: (version, version << 40 | low), st.integers(1, 2**23 - 1), st.integers(0, 2**40 - 1)
)


@st.composite
def desireds(draw: st.DrawFn) -> Desired:
    """Any desired document a device would take; its configuration need not be in range."""
    version, counter = draw(counters)
    number = st.integers(0, 2**32)
    values = number | st.lists(number, max_size=3).map(tuple)
    return Desired(
        device_id=draw(own.device_ids),
        counter=counter,
        trust_version=version,
        issued=draw(own.U64),
        expires=draw(own.U64),
        entries=draw(st.dictionaries(st.integers(0, 3), entries, max_size=4)),
        config=draw(st.dictionaries(st.integers(0, 31), values, max_size=9)),
    )


@st.composite
def commands(draw: st.DrawFn) -> Command:
    """Any command a device would take."""
    version, counter = draw(counters)
    return Command(
        device_id=draw(own.device_ids),
        counter=counter,
        trust_version=version,
        verb=draw(st.sampled_from(names.CommandVerb)),
        issued=draw(own.U64),
        expires=draw(own.U64),
        args=draw(maybe(st.lists(own.U64, max_size=8).map(tuple))),
    )


@st.composite
def payloads(draw: st.DrawFn, good: bytes) -> bytes:
    """Bytes near and far from a good payload."""
    numbered = st.dictionaries(st.integers(0, 25), own.nested(3), max_size=22)
    index, mask = draw(st.integers(0, len(good) - 1)), draw(st.integers(1, 255))
    return draw(
        st.one_of(
            st.binary(max_size=200),
            own.items.map(encode),
            numbered.map(lambda extra: encode({0: 1} | extra)),
            numbered.map(lambda extra: encode(decode_strict(good, max_bytes=4096) | extra)),
            st.just(good[:index] + bytes((good[index] ^ mask,)) + good[index + 1 :]),
        )
    )
