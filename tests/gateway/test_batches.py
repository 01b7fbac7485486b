"""A batch changes what its messages would have changed one by one, whatever it holds."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime
from typing import Any

import pytest
from django.db import connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.accounts.audit import SYSTEM
from fleet.accounts.models import AuditEvent
from fleet.devices import inventory
from fleet.devices.models import Device, DeviceEvent, DeviceSlot
from fleet.mqtt.codec.names import BankFlag, RefusalCode, UpdateState
from fleet.mqtt.codec.reported import BankReport, Reported, SlotReport
from ota import reports
from ota.models import Job
from ota.transitions import move_job
from tests.devices.makers import BANK, make_board, make_report

pytestmark = pytest.mark.django_db

Told = tuple[str, Reported | bool]
NAMES = ("dev-1", "dev-2", "dev-3")
TARGET = b"\xab" * 16
NEW = BankReport(TARGET, 4, 1, BankFlag(0))

slot_reports = st.builds(
    SlotReport,
    state=st.sampled_from([state for state in UpdateState if state != UpdateState.IDLE]),
    code=st.sampled_from([RefusalCode.NONE, RefusalCode.DIGEST, RefusalCode.FLASH_IO, RefusalCode.LOW_POWER]),
    have=st.integers(0, 9),
    total=st.just(9),
    attempt=st.integers(1, 3),
    target=st.sampled_from([TARGET, BANK.manifest_id]),
    run_bank=st.sampled_from([None, BANK, NEW]),
)
documents = st.builds(
    make_report,
    boot=st.integers(1, 2),
    n=st.integers(1, 6),
    desired_counter=st.integers(6, 8),
    slots=st.dictionaries(st.integers(0, 1), slot_reports, min_size=1),
)
told = st.lists(st.tuples(st.sampled_from((*NAMES, "ghost")), documents | st.booleans()), max_size=8)


@pytest.fixture
def jobs(now: datetime, make_job: Callable[..., Job]) -> None:
    """Devices; two have a job under way, one of them after two attempts that ended."""
    for name in NAMES:
        make_board(name, now)
    job = make_job("dev-1", target=(TARGET * 2).hex(), attempt=3, counter=7)
    for attempt, (state, code) in enumerate([("failed", "flash_io"), ("timed_out", "downloading")], 1):
        more = {"state": state, "code": code, "attempt": attempt, "counter": attempt}
        Job.objects.create(**_copied(job), **more, finished_at=now)
    Job.objects.create(**_copied(job, device_id="dev-2"), state="downloading", attempt=1, counter=7, have=2)


def _copied(job: Job, **changes: Any) -> dict[str, Any]:
    same = ("rollout_id", "wave_id", "device_id", "target", "created_at")
    return {name: getattr(job, name) for name in same} | changes


def state() -> list[Any]:
    """Everything that reports change, without the ids of rows."""
    tables: list[tuple[Any, tuple[str, ...]]] = [
        (Device, ("pk",)),
        (DeviceSlot, ("device_id", "slot")),
        (DeviceEvent, ("device_id", "id")),
        (Job, ("device_id", "attempt")),
        (AuditEvent, ("subject_id", "id")),
    ]
    found: list[Any] = []
    for model, order in tables:
        rows = list(model.objects.order_by(*order).values())
        found.append([{name: value for name, value in row.items() if name != "id"} for row in rows])
    return found


def apply(uplinks: Sequence[Told], now: datetime) -> None:
    """As the gateway takes a batch."""
    held = inventory.Held({name for name, _ in uplinks}, now=now)
    news = []
    for name, content in uplinks:
        if isinstance(content, bool):
            held.presence(name, content)
        elif held.report(name, content):
            news.append((name, content))
    held.save()
    reports.apply_all(news, now=now)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(told=told)
def test_a_batch_changes_what_its_messages_change_one_by_one(
    jobs: None, now: datetime, told: list[Told]
) -> None:
    found = []
    for batches in ([told], [[one] for one in told]):
        with transaction.atomic():
            for batch in batches:
                apply(batch, now)
            found.append(state())
            transaction.set_rollback(True)
    assert found[0] == found[1]


def test_a_slot_that_goes_and_comes_back_within_a_batch_is_there_once(jobs: None, now: datetime) -> None:
    one, two = SlotReport(UpdateState.CONFIRMED, run_bank=BANK), SlotReport(UpdateState.CONFIRMED)
    apply([("dev-1", make_report(1, 1, slots={0: one, 1: one}))], now)
    apply([("dev-1", make_report(1, 2, slots={0: one})), ("dev-1", make_report(1, 3, slots={1: two}))], now)
    assert list(DeviceSlot.objects.filter(device_id="dev-1").values_list("slot", "run")) == [(1, "")]


def test_the_same_batch_again_changes_nothing(jobs: None, now: datetime) -> None:
    slot = SlotReport(UpdateState.DOWNLOADING, have=3, total=9, attempt=3, target=TARGET)
    batch: list[Told] = [("dev-1", True), ("dev-1", make_report(1, 1, slot=slot, desired_counter=7))]
    apply(batch, now)
    before = state()
    apply(batch, now)
    assert state() == before


def test_two_reports_of_one_device_move_its_job_twice_in_their_order(jobs: None, now: datetime) -> None:
    steps = [
        SlotReport(UpdateState.DOWNLOADING, have=3, total=9, attempt=3, target=TARGET),
        SlotReport(UpdateState.TRIAL, have=9, total=9, attempt=3, target=TARGET),
    ]
    apply(
        [("dev-1", make_report(1, n, slot=slot, desired_counter=7)) for n, slot in enumerate(steps, 1)], now
    )
    trail = AuditEvent.objects.filter(subject_kind="job").order_by("id").values_list("verb", flat=True)
    assert list(trail) == ["job.downloading", "job.trial"]


def test_a_failure_does_not_count_an_attempt_that_the_same_batch_has_mended(
    jobs: None, now: datetime
) -> None:
    late = SlotReport(UpdateState.CONFIRMED, attempt=2, target=TARGET, run_bank=NEW)
    failed = SlotReport(UpdateState.REFUSED, RefusalCode.LEAF_LIST, attempt=3, target=TARGET)
    apply(
        [
            ("dev-1", make_report(1, n, slot=slot, desired_counter=7))
            for n, slot in enumerate((late, failed), 1)
        ],
        now,
    )
    ends = Job.objects.filter(device_id="dev-1").order_by("attempt")
    assert [job.state for job in ends] == ["failed", "confirmed", "failed"]
    assert ends[2].retry_at is not None  # two of three attempts have failed


def test_the_newest_attempt_moves_however_many_came_before(jobs: None, now: datetime) -> None:
    copied = _copied(Job.objects.get(device_id="dev-2"), device_id="dev-3")
    for attempt in range(1, 7):
        Job.objects.create(**copied, attempt=attempt, counter=7, state="offered" if attempt > 5 else "failed")
    slot = SlotReport(UpdateState.DOWNLOADING, have=3, total=9, attempt=6, target=TARGET)
    apply([("dev-3", make_report(1, 1, slot=slot, desired_counter=7))], now)
    assert Job.objects.get(device_id="dev-3", attempt=6).state == "downloading"


@pytest.mark.django_db(transaction=True)
def test_of_two_gateways_with_one_device_the_second_waits_and_sees_what_the_first_wrote(
    jobs: None, now: datetime
) -> None:
    slot = SlotReport(UpdateState.TRIAL, have=9, total=9, attempt=3, target=TARGET)
    old = SlotReport(UpdateState.DOWNLOADING, have=3, total=9, attempt=3, target=TARGET)
    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            apply([("dev-1", make_report(1, 2, slot=slot, desired_counter=7))], now)
            late = pool.submit(_in_a_thread, [("dev-1", make_report(1, 1, slot=old, desired_counter=7))], now)
            _until_somebody_waits()
        late.result(timeout=30)
    device = Device.objects.get(pk="dev-1")
    assert (device.report_n, Job.objects.get(device_id="dev-1", attempt=3).state) == (2, "trial")


@pytest.mark.django_db(transaction=True)
def test_a_job_that_a_worker_moves_meanwhile_is_judged_as_it_left_it(jobs: None, now: datetime) -> None:
    job = Job.objects.get(device_id="dev-1", attempt=3)
    slot = SlotReport(UpdateState.DOWNLOADING, have=3, total=9, attempt=3, target=TARGET)
    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            assert move_job(job, "cancelling", actor=SYSTEM, now=now)
            late = pool.submit(
                _in_a_thread, [("dev-1", make_report(1, 1, slot=slot, desired_counter=7))], now
            )
            _until_somebody_waits()
        late.result(timeout=30)
    assert Job.objects.get(pk=job.pk).state == "cancelling", "a download does not undo a withdrawal"


def _in_a_thread(uplinks: Sequence[Told], now: datetime) -> None:
    with closing(connection), transaction.atomic():
        apply(uplinks, now)


def _until_somebody_waits() -> None:
    for _ in range(600):
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            if cursor.fetchone()[0]:
                return
        time.sleep(0.05)
    raise AssertionError("nobody waited for the rows")
