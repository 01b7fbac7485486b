"""What devices say about themselves becomes their rows, their slots and their timelines.

Read and written for a whole batch of reports at once: one statement a table, however many devices there are.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.db import transaction

from fleet import hints
from fleet.devices.models import Device, DeviceEvent, DeviceSlot, Presence
from fleet.devices.presence import STALE_AFTER
from fleet.devices.timeline import device_notes, slot_notes
from fleet.devices.version_order import version_key
from fleet.mqtt.codec.names import RefusalCode
from fleet.mqtt.codec.reported import BankReport, Reported, SlotReport
from fleet.row_updates import update_rows

MOST_LAG: Final = timedelta(hours=1)
"""A device's clock that is further behind is wrong rather than its report late."""
_SEEN: Final = ("presence", "last_seen_at")
_TOLD: Final = (
    *("boot", "report_n", "reported_at", "report_made_at", "reported_class_id", "firmware_version"),
    *("firmware_key", "esp_nn_version", "chip", "trust_version", "desired_counter", "command_counter"),
    *("is_stale", "free_heap_bytes", "reset_reason", "refusal_code", "rejected_config", "operators"),
)
_SLOT: Final = (
    *("state", "code", "detail", "have", "total", "attempt", "target", "run", "run_seq", "run_bank"),
    *("run_flags", "other", "other_seq", "other_flags", "failed", "failed_attempt", "arena_used", "selftest"),
    "updated_at",
)


def apply_report(device_id: str, reported: Reported, *, now: datetime) -> bool:
    """`Held.report` for one report alone, in a transaction of its own or the caller's."""
    with transaction.atomic(savepoint=False):
        held = Held([device_id], now=now)
        is_newer = held.report(device_id, reported)
        held.save()
    return is_newer


def set_presence(device_id: str, online: bool, now: datetime, *, heard: bool = True) -> bool:
    """`Held.presence` for one device alone, in a transaction of its own or the caller's."""
    with transaction.atomic(savepoint=False):
        held = Held([device_id], now=now)
        is_change = held.presence(device_id, online, heard=heard)
        held.save()
    return is_change


class Held:
    """The devices of a batch, their rows held until the caller's transaction ends.

    What they say is judged in the order it is told, against these rows, and written by `save`. Two gateways
    that hold a device in common take turns; rows are taken in key order, so neither waits in a circle.
    """

    def __init__(self, device_ids: Iterable[str], *, now: datetime) -> None:
        """Take and read the rows; devices that are unknown are left out. Call it inside a transaction."""
        self._now = now
        rows = Device.objects.select_related("device_class").defer("tags", "attributes")
        taken = rows.select_for_update(of=("self",), no_key=True).filter(pk__in=set(device_ids))
        self._devices = {row.pk: row for row in taken.order_by("pk")}
        self._slots: dict[str, dict[int, DeviceSlot]] = {device_id: {} for device_id in self._devices}
        for slot in DeviceSlot.objects.filter(device_id__in=self._devices):
            self._slots[slot.device_id][slot.slot] = slot
        self._reported: set[str] = set()
        self._seen: set[str] = set()
        self._changed: dict[tuple[str, int], DeviceSlot] = {}
        self._gone: list[int] = []
        self._notes: list[DeviceEvent] = []

    def report(self, device_id: str, reported: Reported) -> bool:
        """Make a report the device's present state; True when it is newer than what is known.

        (boot, n) must rise: a report that came again, late or out of order changes nothing and answers False,
        and so does one of an unknown device. Changes of slots, the first report of a boot, refusals and a
        class that differs from enrolment go to the timeline.
        """
        device = self._devices.get(device_id)
        if device is None or reported.counter <= (device.boot, device.report_n):
            return False
        fields = _columns(reported, self._now)
        if device.presence == Presence.OFFLINE and (device.last_seen_at or self._now) < (
            self._now - STALE_AFTER
        ):
            fields["presence"] = Presence.ONLINE  # its silence had set it offline
        self._notes += device_notes(device, reported, fields, self._now)
        _set(device, fields)
        self._reported.add(device_id)
        self._apply_slots(device_id, reported)
        return True

    def presence(self, device_id: str, online: bool, *, heard: bool = True) -> bool:
        """Note what a device's `online` topic said; True when that is a change. Presence decides nothing.

        heard: False for a retained message, which says when the device was there as little as a stopped
        clock.
        """
        device = self._devices.get(device_id)
        state = Presence.ONLINE if online else Presence.OFFLINE
        if device is None or device.presence == state:
            return False
        device.presence = state
        if online and heard:
            device.last_seen_at = self._now
        self._seen.add(device_id)
        text = state.label.lower()
        self._notes.append(DeviceEvent(device_id=device_id, at=self._now, kind="presence", text=text))
        return True

    def save(self) -> None:
        """Write what has changed. Raises django.db.Error; the transaction is then to be rolled back."""
        reported = [self._devices[device_id] for device_id in sorted(self._reported)]
        seen = [self._devices[device_id] for device_id in sorted(self._seen - self._reported)]
        update_rows(reported, _TOLD + _SEEN)
        update_rows(seen, _SEEN)
        if self._gone:
            DeviceSlot.objects.filter(pk__in=self._gone).delete()
        changed = [slot for _, slot in sorted(self._changed.items())]
        update_rows([slot for slot in changed if slot.pk is not None], _SLOT)
        DeviceSlot.objects.bulk_create([slot for slot in changed if slot.pk is None])
        DeviceEvent.objects.bulk_create(self._notes)
        hints.changed(*(hints.device(device_id) for device_id in self._reported | self._seen))
        self._reported, self._seen, self._changed, self._gone, self._notes = set(), set(), {}, [], []

    def _apply_slots(self, device_id: str, reported: Reported) -> None:
        known = self._slots[device_id]
        for number, report in reported.slots.items():
            fields = _slot_fields(report)
            self._notes += slot_notes(device_id, number, known.get(number), fields, reported.boot, self._now)
            slot = known.get(number)
            if slot is None:
                slot = known[number] = DeviceSlot(device_id=device_id, slot=number)
            _set(slot, fields | {"updated_at": self._now})
            self._changed[device_id, number] = slot
        for number in known.keys() - reported.slots.keys():
            slot = known.pop(number)
            self._changed.pop((device_id, number), None)
            if slot.pk is not None:
                self._gone.append(slot.pk)


def _set(row: Device | DeviceSlot, fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        setattr(row, name, value)


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
