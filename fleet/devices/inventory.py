"""What a device says about itself becomes its row, its slots and its timeline."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.db import IntegrityError, transaction
from django.db.models import Q

from fleet.devices.models import Device, DeviceEvent, DeviceSlot, Presence
from fleet.devices.version_order import version_key
from fleet.mqtt.codec.event import Event
from fleet.mqtt.codec.names import RefusalCode, ResetReason, UpdateState
from fleet.mqtt.codec.reported import BankReport, Reported, SlotReport

STALE_AFTER: Final = timedelta(minutes=15)
TOUCH_EVERY: Final = timedelta(seconds=10)
MOST_LAG: Final = timedelta(hours=1)
"""A device's clock that is further behind is wrong rather than its report late."""
EVENT_AGE_MAX: Final = timedelta(days=30)
CHANGED: Final = "inventory"
"""Kind of the timeline's rows that say: what this device can run may be something else from now on."""
_QUIET_STATES: Final = frozenset({UpdateState.IDLE.label, UpdateState.OFFERED.label})


def apply_reported(device: Device, reported: Reported, *, now: datetime) -> bool:
    """As `apply_report`, and `device` is refreshed when that is True."""
    is_newer = apply_report(device.pk, reported, now=now)
    if is_newer:
        device.refresh_from_db()
    return is_newer


def apply_report(device_id: str, reported: Reported, *, now: datetime) -> bool:
    """Make a report the device's present state; True when it is newer than what is known.

    (boot, n) must rise: a report that came again, late or out of order changes nothing and answers False, and
    so does one of an unknown device. One conditional UPDATE decides, so two gateways may apply the same
    report. Changes of slots, the first report of a boot, refusals and a class that differs from enrolment go
    to the timeline in the same transaction.
    """
    with transaction.atomic(savepoint=False):
        before = Device.objects.select_related("device_class").filter(pk=device_id).first()
        if before is None or reported.counter <= (before.boot, before.report_n):
            return False
        fields = _columns(reported, now)
        if before.presence == Presence.OFFLINE and (before.last_seen_at or now) < now - STALE_AFTER:
            fields["presence"] = Presence.ONLINE  # its silence had set it offline
        older = Q(boot__lt=reported.boot) | Q(boot=reported.boot, report_n__lt=reported.n)
        if Device.objects.filter(older, pk=device_id).update(**fields) != 1:
            return False
        notes = _device_notes(before, reported, fields, now)
        notes += _apply_slots(device_id, reported, now)
        if notes:
            DeviceEvent.objects.bulk_create(notes)
    return True


def _made_at(reported: Reported, now: datetime) -> datetime:
    """When the device made a report: by its own clock, so that a gateway that lags does not make it younger.

    Without a clock, or with one that is ahead or more than MOST_LAG behind, it is the time of now: a wrong
    clock must not hide for good what a report proves.
    """
    if not now - MOST_LAG <= (made_at := _time(reported.unix_s)) <= now:
        return now
    return made_at


def _time(unix_s: int) -> datetime:
    return datetime.fromtimestamp(min(unix_s, 2**32), UTC)


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


def _columns(reported: Reported, now: datetime) -> dict[str, Any]:
    firmware = reported.firmware_text[:24] or ".".join(map(str, reported.firmware))
    return {
        "boot": reported.boot,
        "report_n": reported.n,
        "reported_at": now,
        "report_made_at": _made_at(reported, now),
        "last_seen_at": now,
        "reported_class_id": reported.class_id.hex(),
        "firmware_version": firmware,
        "firmware_key": version_key(firmware),
        "esp_nn_version": reported.esp_nn[:16],
        "chip": reported.chip.label,
        "trust_version": reported.trust_version,
        "desired_counter": min(reported.desired_counter, 2**63 - 1),
        "command_counter": min(reported.command_counter, 2**63 - 1),
        "is_stale": reported.is_stale,
        "free_heap_bytes": reported.free_heap_bytes,
        "reset_reason": reported.reset_reason.label,
        "refusal_code": "" if reported.refusal == RefusalCode.NONE else reported.refusal.label,
        "rejected_config": list(reported.config_invalid),
        "operators": list(reported.operators),
    }


def _apply_slots(device_id: str, reported: Reported, now: datetime) -> list[DeviceEvent]:
    known = {row.slot: row for row in DeviceSlot.objects.filter(device_id=device_id)}
    notes: list[DeviceEvent] = []
    for slot, report in reported.slots.items():
        fields = _slot_fields(report)
        notes += _slot_notes(device_id, slot, known.get(slot), fields, reported.boot, now)
        fields["updated_at"] = now
        if slot not in known:
            DeviceSlot.objects.create(device_id=device_id, slot=slot, **fields)
        else:
            DeviceSlot.objects.filter(pk=known[slot].pk).update(**fields)
    if gone := known.keys() - reported.slots.keys():
        DeviceSlot.objects.filter(device_id=device_id, slot__in=gone).delete()
    return notes


def _slot_fields(report: SlotReport) -> dict[str, Any]:
    test = report.self_test
    run, other = report.run_bank, report.other_bank
    return {
        "state": report.state.label,
        "code": "" if report.code == RefusalCode.NONE else report.code.label,
        "detail": min(report.detail, 2**31 - 1),
        "have": report.have,
        "total": report.total,
        "attempt": report.attempt,
        "target": report.target.hex(),
        "run": _bank_id(run),
        "run_seq": run.seq if run else None,
        "run_bank": run.bank if run else None,
        "run_flags": int(run.flags) if run else 0,
        "other": _bank_id(other),
        "other_seq": other.seq if other else None,
        "other_flags": int(other.flags) if other else 0,
        "failed": report.failed_id.hex(),
        "failed_attempt": report.failed_attempt,
        "arena_used": report.arena_used_bytes,
        "selftest": [test.n, test.ok, test.max_diff, test.median_us],
    }


def _bank_id(bank: BankReport | None) -> str:
    return bank.manifest_id.hex() if bank else ""


def _slot_notes(
    device_id: str, slot: int, before: DeviceSlot | None, after: dict[str, Any], boot: int, now: datetime
) -> list[DeviceEvent]:
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


def _device_notes(
    before: Device, reported: Reported, after: dict[str, Any], now: datetime
) -> list[DeviceEvent]:
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


def set_presence(device_id: str, online: bool, now: datetime, *, heard: bool = True) -> bool:
    """Note what a device's `online` topic said; True when that is a change. Presence decides nothing.

    heard: False for a retained message, which says when the device was there as little as a stopped clock.
    """
    state = Presence.ONLINE if online else Presence.OFFLINE
    fields: dict[str, Any] = {"presence": state}
    if online and heard:
        fields["last_seen_at"] = now
    with transaction.atomic():
        if Device.objects.filter(pk=device_id).exclude(presence=state).update(**fields) != 1:
            return False
        DeviceEvent.objects.create(device_id=device_id, at=now, kind="presence", text=state.label.lower())
    return True


def touch(device_ids: Collection[str], now: datetime) -> int:
    """Note that these devices were heard of, at most once in TOUCH_EVERY each; returns how many rows changed.

    One that was set offline for its silence is online again. Rows that another transaction holds are left
    out: presence is not worth waiting for, and waiting could lock two gateways against each other.
    """
    due = Q(last_seen_at__isnull=True) | Q(last_seen_at__lt=now - TOUCH_EVERY)
    with transaction.atomic():
        ids = list(
            Device.objects.filter(due, pk__in=list(device_ids))
            .order_by("pk")
            .select_for_update(skip_locked=True)
            .values_list("pk", flat=True)
        )
        if not ids:
            return 0
        silent = Device.objects.filter(
            pk__in=ids, presence=Presence.OFFLINE, last_seen_at__lt=now - STALE_AFTER
        )
        silent.update(presence=Presence.ONLINE)
        return Device.objects.filter(pk__in=ids).update(last_seen_at=now)


def mark_stale(now: datetime) -> int:
    """Set devices offline that claim to be online and were not heard of for STALE_AFTER; returns how many.

    A broker that was killed sends no last wills, so `online` alone could stay true for ever. A row that a
    gateway holds is left out: its device is being heard of.
    """
    with transaction.atomic():
        silent = list(
            Device.objects.filter(presence=Presence.ONLINE, last_seen_at__lt=now - STALE_AFTER)
            .order_by("pk")
            .select_for_update(skip_locked=True)
            .values_list("pk", flat=True)
        )
        return Device.objects.filter(pk__in=silent).update(presence=Presence.OFFLINE) if silent else 0


def record_event(device_id: str, event: Event, *, now: datetime) -> bool:
    """Put a device's own event on its timeline; False when (boot, n) is there already, so that it counts
    once.
    """
    fields = event.fields
    code = ""
    if "code" in fields and fields["code"] in RefusalCode._value2member_map_:
        code = RefusalCode(fields["code"]).label if fields["code"] else ""
    row = DeviceEvent(
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
    if DeviceEvent.objects.filter(device_id=device_id, boot=event.boot, n=event.n).exists():
        return False
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError:  # another gateway was quicker
        return False
    return True


def _event_time(event: Event, now: datetime) -> datetime:
    """The device's own time when it can be true, else the arrival."""
    said = datetime.fromtimestamp(event.t_ms / 1000, UTC)
    return said if now - EVENT_AGE_MAX <= said <= now + STALE_AFTER else now


def _event_text(event: Event, code: str) -> str:
    words = event.kind.label.replace("_", " ")
    about = f" on {event.mid}" if event.mid else ""
    named = ", ".join(f"{name} {value}" for name, value in event.fields.items() if name != "code")
    return f"{words}{about}{f': {code}' if code else ''}{f' ({named})' if named else ''}"[:256]
