"""Events: single things that happened on a device (SPEC.md section 7)."""

from __future__ import annotations

from dataclasses import dataclass

from fleet.mqtt.codec.cbor import decode_strict, encode
from fleet.mqtt.codec.cose import MAX_UPLINK_BYTES
from fleet.mqtt.codec.names import Clock, EventKind
from fleet.mqtt.codec.records import MAX_TIME_MS
from fleet.mqtt.codec.reported import MAX_SLOT, check_format
from fleet.mqtt.codec.shape import INT32_MAX, UINT32_MAX, Shape

DETAIL_FIELDS: dict[EventKind, tuple[str, ...]] = {
    EventKind.ANOMALY: ("score", "threshold", "class", "suppressed"),
    EventKind.RESET: ("reason", "uptime_s", "raw"),
    EventKind.REFUSAL: ("code", "detail"),
    EventKind.COMMAND_RESULT: ("verb", "code", "counter"),
    EventKind.TELEMETRY_LOST: ("boot", "from", "to", "cause"),
    EventKind.GOLDEN_MISMATCH: ("n", "ok", "max_diff"),
}
"""Names of an event's detail numbers; kinds that are not listed may carry up to 8 numbers without a name."""

OPTIONAL_DETAIL: dict[EventKind, tuple[str, ...]] = {EventKind.COMMAND_RESULT: ("value",)}
"""Numbers that may follow the named ones: what a verb found, such as the bytes of `probe arena`."""

_MAX_DETAIL = 8
_SHAPE = Shape("range")


@dataclass(frozen=True)
class Event:
    """One event, named (boot, n) on its device. slot and mid (16 hex digits): the model it is about."""

    boot: int
    n: int
    t_ms: int
    clock: Clock
    kind: EventKind
    detail: tuple[int, ...] = ()
    slot: int | None = None
    mid: str | None = None

    @property
    def seq(self) -> int:
        """boot << 32 | n: rises over a device's events."""
        return self.boot << 32 | self.n

    @property
    def fields(self) -> dict[str, int]:
        """The detail numbers by name; empty for kinds without named details."""
        names = DETAIL_FIELDS.get(self.kind, ()) + OPTIONAL_DETAIL.get(self.kind, ())
        return dict(zip(names, self.detail, strict=False))


def encode_event(event: Event) -> bytes:
    """The payload bytes. Raises CodecError `range` or `too_large` where `parse_event` would."""
    item: dict[int, object] = {
        0: 1,
        1: event.boot,
        2: event.n,
        3: event.t_ms,
        4: event.clock,
        5: event.kind,
        7: list(event.detail),
    }
    if event.slot is not None and event.mid is not None:
        item[6] = [event.slot, bytes.fromhex(event.mid)]
    payload = encode(item)
    parse_event(payload)
    return payload


def parse_event(payload: bytes) -> Event:
    """Read the payload of an authentic event.

    Raises CodecError `too_large`, `cbor_bad`, `format_unknown`, and `range` for an unknown kind, a detail of
    the wrong length or any other value out of range.
    """
    item = decode_strict(payload, max_bytes=MAX_UPLINK_BYTES["event"])
    check_format(item)
    fields = _SHAPE.map(item, "event", required=(0, 1, 2, 3, 4, 5, 7), optional=(6,))
    kind = EventKind(_SHAPE.integer(fields[5], "kind", 1, max(EventKind)))
    names = DETAIL_FIELDS.get(kind)
    least, most = 0, _MAX_DETAIL
    if names is not None:
        least, most = len(names), len(names) + len(OPTIONAL_DETAIL.get(kind, ()))
    detail = _SHAPE.array(fields[7], "detail", least=least, most=most)
    slot = mid = None
    if 6 in fields:
        about = _SHAPE.array(fields[6], "model", least=2, most=2)
        slot = _SHAPE.uint(about[0], "slot", MAX_SLOT)
        mid = _SHAPE.raw(about[1], "mid", 8).hex()
    return Event(
        boot=_SHAPE.uint(fields[1], "boot", INT32_MAX),
        n=_SHAPE.integer(fields[2], "n", 1, UINT32_MAX),
        t_ms=_SHAPE.uint(fields[3], "time", MAX_TIME_MS),
        clock=Clock(_SHAPE.integer(fields[4], "clock", 1, 2)),
        kind=kind,
        detail=tuple(_SHAPE.integer(number, "detail", -(2**63), 2**63 - 1) for number in detail),
        slot=slot,
        mid=mid,
    )
