"""A device's reports become its state in order of (boot, n), and its changes a timeline."""

from datetime import datetime, timedelta

import pytest

from fleet.devices import inventory, presence, timeline
from fleet.devices.models import Device, DeviceEvent, DeviceSlot, Presence
from fleet.devices.selection import selected
from fleet.mqtt.codec.event import Event
from fleet.mqtt.codec.names import BankFlag, Clock, EventKind, RefusalCode, ResetReason, UpdateState
from fleet.mqtt.codec.reported import BankReport, Reported, SelfTest, SlotReport
from tests.devices.makers import BANK, make_board, make_report

pytestmark = pytest.mark.django_db
NEXT = BankReport(b"\xbb" * 16, 4, 1, BankFlag(0))


@pytest.fixture
def device(now: datetime) -> Device:
    make_board("dev-1", now)
    DeviceEvent.objects.all().delete()
    return Device.objects.get()


def apply_reported(device: Device, reported: Reported, *, now: datetime) -> bool:
    """Apply a report and read the device again."""
    is_newer = inventory.apply_report(device.pk, reported, now=now)
    device.refresh_from_db()
    return is_newer


def kinds() -> list[tuple[str, str]]:
    return list(DeviceEvent.objects.order_by("id").values_list("kind", "code"))


def test_a_report_fills_device_and_slot(device: Device, now: datetime) -> None:
    slot = SlotReport(
        UpdateState.TRIAL,
        attempt=2,
        have=9,
        total=9,
        target=NEXT.manifest_id,
        run_bank=NEXT,
        other_bank=BankReport(b"\xaa" * 16, 3, 0, BankFlag.USABLE_FOR_REVERT),
        failed_id=b"\xcc" * 8,
        failed_attempt=1,
        arena_used_bytes=5584,
        self_test=SelfTest(4, 4, 1, 800),
    )
    report = make_report(3, 5, slot=slot, desired_counter=2**63 - 1, config_invalid=(2, 3))
    assert apply_reported(device, report, now=now) is True
    assert (device.boot, device.report_n, device.reported_at, device.desired_counter) == (
        3,
        5,
        now,
        2**63 - 1,
    )
    assert (device.chip, device.reset_reason, device.rejected_config) == ("host", "power", [2, 3])
    row = DeviceSlot.objects.get()
    assert (row.state, row.attempt, row.run, row.run_seq, row.run_bank) == ("trial", 2, "bb" * 16, 4, 1)
    assert (row.other, row.other_flags, row.failed, row.arena_used) == ("aa" * 16, 1, "cc" * 8, 5584)
    assert row.selftest == [4, 4, 1, 800]
    assert kinds() == [
        ("boot", ""),
        ("config_invalid", "config_invalid"),
        ("state", ""),
        ("run", ""),
    ]


@pytest.mark.parametrize(("boot", "n"), [(2, 3), (2, 2), (1, 99)])
def test_a_repeated_or_older_report_changes_nothing(device: Device, now: datetime, boot: int, n: int) -> None:
    assert apply_reported(device, make_report(2, 3), now=now)
    before = list(Device.objects.values()) + list(DeviceSlot.objects.values()) + kinds()
    old = make_report(boot, n, slot=SlotReport(UpdateState.REFUSED, RefusalCode.DIGEST), free_heap_bytes=1)
    assert apply_reported(device, old, now=now + timedelta(minutes=1)) is False
    assert list(Device.objects.values()) + list(DeviceSlot.objects.values()) + kinds() == before


def test_a_new_boot_starts_its_own_numbers(device: Device, now: datetime) -> None:
    assert apply_reported(device, make_report(2, 900), now=now)
    later = make_report(3, 1, reset_reason=ResetReason.WATCHDOG)
    assert apply_reported(device, later, now=now)
    assert kinds()[-1] == ("boot", "watchdog")


def test_the_timeline_tells_changes_and_not_progress(device: Device, now: datetime) -> None:
    steps = [
        (UpdateState.CONFIRMED, RefusalCode.NONE, 0),
        (UpdateState.DOWNLOADING, RefusalCode.NONE, 1),
        (UpdateState.DOWNLOADING, RefusalCode.NONE, 5),
        (UpdateState.DOWNLOADING, RefusalCode.NONE, 9),
        (UpdateState.REVERTED, RefusalCode.SELFTEST_MISMATCH, 9),
    ]
    for n, (state, code, have) in enumerate(steps, 1):
        slot = SlotReport(state, code, have=have, total=9, attempt=1, target=NEXT.manifest_id, run_bank=BANK)
        assert apply_reported(device, make_report(1, n, slot=slot), now=now)
    assert DeviceSlot.objects.get().have == 9
    told = DeviceEvent.objects.filter(kind="state").order_by("id")
    assert [event.data["state"] for event in told] == ["confirmed", "downloading", "reverted"]
    last = told.last()
    assert last is not None
    assert (last.code, last.data["target"], last.data["attempt"]) == ("selftest_mismatch", "bb" * 16, 1)
    assert "reverted" in last.text


def test_a_slot_that_is_no_longer_reported_goes(device: Device, now: datetime) -> None:
    both = {0: SlotReport(UpdateState.IDLE), 1: SlotReport(UpdateState.IDLE)}
    apply_reported(device, make_report(1, 1, slots=both), now=now)
    apply_reported(device, make_report(1, 2, slots={1: SlotReport(UpdateState.IDLE)}), now=now)
    assert list(DeviceSlot.objects.values_list("slot", flat=True)) == [1]


def test_a_refused_document_and_a_foreign_class_are_told_once(device: Device, now: datetime) -> None:
    for n in (1, 2):
        report = make_report(1, n, refusal=RefusalCode.SEQUENCE, refusal_detail=4, class_id=b"\x09" * 16)
        apply_reported(device, report, now=now)
    assert kinds().count(("refusal", "sequence")) == 1
    assert kinds().count(("class_mismatch", "target_class")) == 1
    device.refresh_from_db()
    assert device.refusal_code == "sequence"


def test_presence_changes_are_told_and_repetitions_are_not(device: Device, now: datetime) -> None:
    assert inventory.set_presence("dev-1", True, now) is True
    assert inventory.set_presence("dev-1", True, now) is False
    assert inventory.set_presence("dev-1", False, now) is True
    assert inventory.set_presence("nobody", True, now) is False
    assert [kind for kind, _ in kinds()] == ["presence", "presence"]


def test_a_retained_presence_is_no_sign_of_life(device: Device, now: datetime) -> None:
    inventory.set_presence("dev-1", True, now, heard=False)
    device.refresh_from_db()
    assert (device.presence, device.last_seen_at) == (Presence.ONLINE, None)


def test_a_silent_device_is_set_offline_and_back_by_any_word_of_it(device: Device, now: datetime) -> None:
    inventory.set_presence("dev-1", True, now)
    assert presence.mark_stale(now + timedelta(minutes=15)) == 0
    assert presence.mark_stale(now + timedelta(minutes=16)) == 1
    assert presence.touch({"dev-1", "nobody"}, now + timedelta(minutes=20)) == 1
    assert presence.touch({"dev-1"}, now + timedelta(minutes=20, seconds=5)) == 0
    device.refresh_from_db()
    assert (device.presence, device.last_seen_at) == (Presence.ONLINE, now + timedelta(minutes=20))


def test_a_device_that_said_goodbye_stays_offline(device: Device, now: datetime) -> None:
    inventory.set_presence("dev-1", True, now)
    inventory.set_presence("dev-1", False, now)
    presence.touch({"dev-1"}, now + timedelta(minutes=1))
    device.refresh_from_db()
    assert device.presence == Presence.OFFLINE


def test_an_event_counts_once(device: Device, now: datetime) -> None:
    t_ms = int((now - timedelta(minutes=2)).timestamp() * 1000)
    event = Event(4, 7, t_ms, Clock.SNTP, EventKind.REFUSAL, (14, 2), 0, "ab" * 8)
    assert timeline.record_event("dev-1", event, now=now) is True
    assert timeline.record_event("dev-1", event, now=now) is False
    row = DeviceEvent.objects.get()
    assert (row.kind, row.code, row.at) == ("refusal", "digest", now - timedelta(minutes=2))
    assert (row.data["detail"], row.data["mid"], row.boot, row.n) == (2, "ab" * 8, 4, 7)


@pytest.mark.parametrize("kind", list(EventKind))
def test_every_kind_of_event_has_words(device: Device, now: datetime, kind: EventKind) -> None:
    from fleet.mqtt.codec.event import DETAIL_FIELDS

    detail = tuple(range(len(DETAIL_FIELDS.get(kind, ()))))
    timeline.record_event("dev-1", Event(1, 1, 0, Clock.SNTP, kind, detail), now=now)
    row = DeviceEvent.objects.get()
    assert row.text.startswith(kind.label.replace("_", " "))
    assert row.at == now  # 1970 cannot be true


def test_what_a_device_reports_is_what_queries_find(device: Device, now: datetime) -> None:
    assert (device.firmware_version, found("fw=ge=0.9;fw=lt=1.0.1", now)) == ("1.0.0", ["dev-1"]), (
        "at enrolment"
    )
    slot = SlotReport(UpdateState.CONFIRMED, target=BANK.manifest_id, run_bank=BANK, arena_used_bytes=98_000)
    report = make_report(1, 1, slot=slot, firmware=(1, 10, 0), firmware_text="1.10.0")
    assert apply_reported(device, report, now=now) is True
    for text in (
        "fw=gt=1.9.5",
        "chip==host",
        "op==CONV_2D;op==9",
        "slot.0.seq==3;slot.0.digest==aaaa*",
        "slot.0.model=null=true",
        "arena_free=lt=400",
        "last_seen=ge=-1m",
    ):
        assert found(text, now) == ["dev-1"], text
    assert found("op==SOFTMAX,slot.1.seq=null=false,slot.0.model!=kws", now) == []


def found(text: str, now: datetime) -> list[str]:
    return list(selected(text, now=now).values_list("pk", flat=True))
