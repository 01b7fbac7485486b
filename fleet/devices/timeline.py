"""What goes to a device's timeline: what its reports change, and the events that it sends itself."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.db import IntegrityError, transaction

from fleet.devices.models import Device, DeviceEvent, DeviceSlot
from fleet.devices.presence import STALE_AFTER
from fleet.mqtt.codec.event import Event
from fleet.mqtt.codec.names import RefusalCode, ResetReason, UpdateState
from fleet.mqtt.codec.reported import Reported

EVENT_AGE_MAX: Final = timedelta(days=30)
CHANGED: Final = "inventory"
"""Kind of the timeline's rows that say: what this device can run may be something else from now on."""
_QUIET_STATES: Final = frozenset({UpdateState.IDLE.label, UpdateState.OFFERED.label})


def slot_notes(
    device_id: str, slot: int, before: DeviceSlot | None, after: dict[str, Any], boot: int, now: datetime
) -> list[DeviceEvent]:
    """What a report changes in one slot. before: its row, None for a new slot; after: its new columns."""
    notes = []
    told = ("state", "code", "target", "attempt")
    is_changed = before is None or any(getattr(before, name) != after[name] for name in told)
    if is_changed and not (before is None and after["state"] in _QUIET_STATES):
        because = f": {after['code']}" if after["code"] else ""
        what = f" of {after['target'][:16]}" if after["target"] else ""
        notes.append(
            DeviceEvent(
                device_id=device_id,
                at=now,
                kind="state",
                code=after["code"],
                text=f"slot {slot} {after['state']}{what}{because}",
                data={"slot": slot, **{name: after[name] for name in (*told, "detail")}},
                boot=boot,
            )
        )
    if (before.run if before else "") != after["run"]:
        text = f"slot {slot} runs {after['run'][:16]}" if after["run"] else f"slot {slot} runs nothing"
        data = {"slot": slot, "run": after["run"], "before": before.run if before else ""}
        notes.append(DeviceEvent(device_id=device_id, at=now, kind="run", text=text, data=data, boot=boot))
    return notes


def device_notes(
    before: Device, reported: Reported, after: dict[str, Any], now: datetime
) -> list[DeviceEvent]:
    """What a report changes in the device itself. before: its row as it was; after: its new columns."""
    notes = []

    def note(kind: str, text: str, code: str = "", **data: Any) -> None:
        notes.append(
            DeviceEvent(
                device=before, at=now, kind=kind, code=code, text=text[:256], data=data, boot=reported.boot
            )
        )

    reason = reported.reset_reason.label
    if reported.boot != before.boot:
        code = "" if reported.reset_reason in (ResetReason.POWER, ResetReason.EXPECTED) else reason
        note("boot", f"boot {reported.boot} after {reason}", code, reason=reason, raw=reported.reset_raw)
    refusal = reported.refusal
    if refusal != RefusalCode.NONE and refusal.label != before.refusal_code:
        note("refusal", f"refused a document: {refusal.label}", refusal.label, detail=reported.refusal_detail)
    wrong = list(reported.config_invalid)
    if wrong and wrong != before.rejected_config:
        note("config_invalid", f"kept old values of config keys {wrong}", "config_invalid", keys=wrong)
    for what, text in _changes(before, after):
        note(CHANGED, text, what)
    told = reported.class_id.hex()
    if told not in (before.device_class.class_id, before.reported_class_id):
        note(
            "class_mismatch",
            f"reports another class than {before.device_class_id}, which it was enrolled as",
            "target_class",
            reported=told,
        )
    return notes


def _changes(before: Device, after: dict[str, Any]) -> list[tuple[str, str]]:
    """(what, words) for each thing that decides what a device can run and differs from its last report.

    Nothing for its first report: there is nothing to compare with.
    """
    if before.reported_at is None:
        return []
    names = {"firmware_version": "firmware", "reported_class_id": "class", "esp_nn_version": "esp_nn"}
    found = [
        (what, f"{what} {after[name] or 'none'}, before {getattr(before, name) or 'none'}")
        for name, what in names.items()
        if after[name] != getattr(before, name)
    ]
    if set(after["operators"]) != set(before.operators):
        found.append(("operators", f"{len(after['operators'])} operators, before {len(before.operators)}"))
    return found


def record_event(device_id: str, event: Event, *, now: datetime) -> bool:
    """`record_events` for one alone; False when it is there already."""
    return bool(record_events([(device_id, event)], now=now))


def record_events(sent: Iterable[tuple[str, Event]], *, now: datetime) -> list[tuple[str, Event]]:
    """Put devices' own events on their timelines; returns those that were not there, in the order of
    devices and numbers.

    Each (boot, n) of a device counts once, however often and in however many batches it comes. Raises
    django.db.Error.
    """
    news = {(device_id, event.boot, event.n): event for device_id, event in sent}
    known = DeviceEvent.objects.filter(device_id__in={key[0] for key in news}, n__in={key[2] for key in news})
    there = set(known.values_list("device_id", "boot", "n"))
    fresh = sorted((item for item in news.items() if item[0] not in there), key=lambda item: item[0])
    try:
        with transaction.atomic():
            DeviceEvent.objects.bulk_create([_row(key[0], event, now) for key, event in fresh])
    except IntegrityError:  # another gateway was quicker with one of them
        return [(key[0], event) for key, event in fresh if _record(key[0], event, now)]
    return [(key[0], event) for key, event in fresh]


def _record(device_id: str, event: Event, now: datetime) -> bool:
    try:
        with transaction.atomic():
            _row(device_id, event, now).save(force_insert=True)
    except IntegrityError:
        return False
    return True


def _row(device_id: str, event: Event, now: datetime) -> DeviceEvent:
    fields = event.fields
    code = ""
    if "code" in fields and fields["code"] in RefusalCode._value2member_map_:
        code = RefusalCode(fields["code"]).label if fields["code"] else ""
    return DeviceEvent(
        device_id=device_id,
        at=_event_time(event, now),
        kind=event.kind.label,
        code=code,
        text=_event_text(event, code),
        data={
            **(fields or {"detail": list(event.detail)}),
            "t_ms": event.t_ms,
            "slot": event.slot,
            "mid": event.mid,
        },
        boot=event.boot,
        n=event.n,
    )


def _event_time(event: Event, now: datetime) -> datetime:
    """The device's own time when it can be true, else the arrival."""
    said = datetime.fromtimestamp(event.t_ms / 1000, UTC)
    return said if now - EVENT_AGE_MAX <= said <= now + STALE_AFTER else now


def _event_text(event: Event, code: str) -> str:
    words = event.kind.label.replace("_", " ")
    about = f" on {event.mid}" if event.mid else ""
    named = ", ".join(f"{name} {value}" for name, value in event.fields.items() if name != "code")
    return f"{words}{about}{f': {code}' if code else ''}{f' ({named})' if named else ''}"[:256]
