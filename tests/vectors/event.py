"""Vectors of `event`."""

from __future__ import annotations

from fleet.mqtt.codec.event import Event, encode_event
from fleet.mqtt.codec.names import Clock, EventKind, RefusalCode
from tests.vectors import keys as k
from tests.vectors.collection import (
    Collection,
    changed,
    setting,
    without,
)
from tests.vectors.uplinks import Uplinks


def event() -> Collection:
    """event.json."""
    out = Uplinks("event")
    mid = k.MANIFEST_ID[:8].hex()
    details: dict[EventKind, tuple[int, ...]] = {
        EventKind.ANOMALY: (950, 800, 3, 0),
        EventKind.RESET: (2, 3600, 11),
        EventKind.REFUSAL: (RefusalCode.SCHEMA, 0),
        EventKind.COMMAND_RESULT: (1, 0, 3 << 40 | 9),
        EventKind.TELEMETRY_LOST: (7, 3, 9, 1),
        EventKind.GOLDEN_MISMATCH: (4, 3, 12),
        EventKind.CLOCK_STEP: (-5_000,),
    }
    for kind in EventKind:
        item = Event(7, int(kind), k.NOW * 1000, Clock.SNTP, kind, details.get(kind, ()), 0, mid)
        out.payload(f"kind {kind.label}", encode_event(item), "ok")
    payload = encode_event(Event(7, 1, k.NOW * 1000, Clock.ISSUED_UPTIME, EventKind.REFUSAL, (10, 0)))
    out.payload("without a model", payload, "ok")
    out.faults(payload)
    for key in (1, 2, 3, 4, 5, 7):
        out.payload(f"without key {key}", changed(payload, without(key)), "range")
    for name, key, value in (
        ("n 0", 2, 0),
        ("a time after the year 9999", 3, 2**48),
        ("clock 3", 4, 3),
        ("kind 0", 5, 0),
        ("kind 10", 5, 10),
        ("slot 4", 6, [4, bytes(8)]),
        ("a mid of 7 bytes", 6, [0, bytes(7)]),
        ("a detail too few", 7, [10]),
        ("a detail too many", 7, [10, 0, 0]),
        ("a detail of text", 7, [10, "0"]),
    ):
        out.payload(f"with {name}", changed(payload, setting(key, value)), "range")
    return out
