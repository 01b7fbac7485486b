"""What `tests.bench.web` asks pages about: a large fleet with its rollouts, jobs, audit trail and telemetry.

Devices come from `tests.bench.enrolled`. Of the jobs, whole rollouts have ended, the one before the last has
halted with its devices exposed, and the newest one is under way, as a fleet looks after a year of use; every
row has the form that the product writes. Tables are vacuumed as the server does it by itself, and after that
a part of the devices and jobs is written once more: what moves all day is never all visible to an index.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import connection, transaction

from fleet.accounts.models import AuditEvent
from fleet.alerts.choices import AlertState
from fleet.alerts.models import Alert
from fleet.devices.models import Device, DeviceEvent, DeviceGroup, GroupMember, Presence
from fleet.devices.version_order import version_key
from fleet.ids import uuid7
from fleet.stack.paths import PROJECT_ROOT
from fleet.telemetry import partitions
from fleet.telemetry.models import DeviceLast, Minute, Version
from ota.choices import Arm, JobState, RolloutState, WaveState
from ota.copying import copy_rows
from ota.inspector import inspect
from ota.models import FleetSample, Job, Manifest, ModelVersion, Rollout, Wave
from ota.plan import Plan
from tests.bench import enrolled

WAVES: Final = (0.01, 0.1, 1.0)
PLAN: Final[dict[str, Any]] = {
    "waves": [{"percent": 1}, {"percent": 10}, {"percent": 100}],
    "control": {"percent": 5},
    "metrics": [{"metric": "accuracy", "kind": "proxy", "promote_margin": 0.03}],
    "accept_proxy": True,
}
_ENDED: Final = (JobState.CONFIRMED,) * 96 + (JobState.FAILED, JobState.REJECTED, JobState.TIMED_OUT) * 1
_MOVING: Final = (
    (JobState.CONFIRMED,) * 60
    + (JobState.DOWNLOADING,) * 3
    + (JobState.TRIAL,) * 2
    + (JobState.OFFERED,) * 2
    + (JobState.FAILED,)
    + (JobState.QUEUED,) * 32
)
MODEL: Final = PROJECT_ROOT / "deploy" / "models" / "activity-v1.tflite"
"""Whose report every version has: the inspector's, as large as it is."""
REPORTED: Final[dict[str, Any]] = {
    "operators": list(range(0, 96, 4)),
    "firmware_version": "1.4.0",
    "firmware_key": version_key("1.4.0"),
    "chip": "esp32s3",
    "tags": ["line-2"],
    "attributes": {"site": "hamburg", "hall": "3"},
}
"""What makes a row of a device as wide as it is in a fleet."""


def fill(
    devices: int, jobs: int, *, now: datetime, seed: int = 1, told: Callable[[str], None] = print
) -> dict[str, str]:
    """Write the fleet. Returns what its pages are called by: rollouts `running`, `halted` and `ended`,
    `device`, `run`, `manifest`.

    jobs: about so many, in whole rollouts over all devices.
    """
    with _unchecked("devices_device", "devices_deviceslot", "ota_job", "ota_membership"):
        names = _fill(devices, jobs, now, seed, told)
    with connection.cursor() as cursor:
        cursor.execute("VACUUM (ANALYZE)")
    _churn(Rollout.objects.get(pk=names["running"]), now)
    return names


@contextmanager
def _unchecked(*tables: str) -> Iterator[None]:
    """Inside the block nothing checks foreign keys, and the tables have no index that guards nothing: those
    are made once in the end, which takes a tenth of the time.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT i.indexname, i.indexdef FROM pg_indexes i WHERE i.tablename = ANY(%s) AND NOT EXISTS"
            " (SELECT 1 FROM pg_constraint c WHERE c.conname = i.indexname)",
            [list(tables)],
        )
        found = cursor.fetchall()
        for name, _ in found:
            cursor.execute(f'DROP INDEX "{name}"')
        cursor.execute("SET session_replication_role = replica")
        cursor.execute("SELECT setseed(0.5)")
        yield
        cursor.execute("SET session_replication_role = origin")
        for _, definition in found:
            cursor.execute(definition)


def _fill(devices: int, jobs: int, now: datetime, seed: int, told: Callable[[str], None]) -> dict[str, str]:
    dice = random.Random(seed)
    enrolled.prepare(now)
    manifests = [
        enrolled.manifest(seq, kib=40, now=now - timedelta(days=30 - seq), seed=seed) for seq in (1, 2, 3, 4)
    ]
    ModelVersion.objects.update(inspection=inspect(MODEL.read_bytes()).to_json())
    enrolled.enrol(devices, manifests[2], now=now, **REPORTED)
    told(f"{devices:,} devices")
    count = max(1, jobs // devices)
    made = []
    for number in range(count):
        state = _state(number, count)
        manifest = manifests[3] if state != RolloutState.COMPLETED else manifests[number % 3]
        at = now - (timedelta(days=count - number) if number < count - 1 else timedelta(minutes=40))
        made.append(_rollout(number, manifest, devices, at, state=state))
        told(f"{(number + 1) * devices:,} jobs")
    _inventory(made[-1])
    _trail(devices, made, now)
    _telemetry(devices, manifests, now, dice)
    _groups(devices, now)
    _alerts(now)
    return {
        "running": str(made[-1].pk),
        "halted": str(made[-2].pk) if count > 2 else str(made[-1].pk),
        "ended": str(made[0].pk),
        "device": enrolled.device_id(devices // 2),
        "run": manifests[2].id16,
        "manifest": manifests[2].mid,
    }


def _state(number: int, count: int) -> RolloutState:
    if number == count - 1:
        return RolloutState.RUNNING
    return RolloutState.HALTED if number == count - 2 and count > 2 else RolloutState.COMPLETED


def _rollout(
    number: int,
    manifest: Manifest,
    devices: int,
    at: datetime,
    *,
    state: RolloutState,
) -> Rollout:
    is_last, is_over = state == RolloutState.RUNNING, state == RolloutState.COMPLETED
    row = Rollout.objects.create(
        name=f"release {number}",
        manifest=manifest,
        plan=Plan.parse(PLAN).to_json(),
        salt=b"0123456789abcdef",
        target={},
        state=state,
        summary={"eligible": devices, "control": 0, "waves": [], "classes": {}, "skipped": {}, "notes": []},
        created_by="admin",
        created_at=at,
        started_at=at,
        finished_at=at + timedelta(hours=3) if is_over else None,
    )
    waves, first = [], 0
    for n, share in enumerate(WAVES, start=1):
        end = int(devices * share)
        at_end = {RolloutState.RUNNING: WaveState.OPEN, RolloutState.HALTED: WaveState.FAILED}
        wave_state = at_end.get(state, WaveState.PASSED) if n == len(WAVES) else WaveState.PASSED
        wave = Wave.objects.create(
            rollout=row, n=n, state=wave_state, is_gated=n < 3, size=end - first, opened_at=at
        )
        waves.append((wave, range(first, end)))
        first = end
    for wave, numbers in waves:
        states = _MOVING if is_last and wave.n == len(WAVES) else _ENDED
        _people(row, wave, numbers, number + 1, states, at)
    return row


# The database makes them: 1 M rows that come through COPY are made in Python first, ten times as slowly.
_NUMBERS: Final = "generate_series(%(first)s::int, %(last)s::int) n"
_DEVICE: Final = "'sc-' || lpad(n::text, 6, '0')"
_H: Final = "lpad(to_hex(n), 16, '0')"
_MEMBERS: Final = f"""
INSERT INTO ota_membership (rollout_id, device_id, arm, wave, stratum, h, rank, skip_reason, baseline_run,
    baseline)
SELECT %(rollout)s, {_DEVICE}, '{Arm.WAVE}', %(wave_n)s, 'host-a/new', {_H}, n, '', %(run)s, '{{}}'
FROM {_NUMBERS}
"""
# ids as uuid7 gives them: milliseconds, then what rises within one
_JOBS: Final = f"""
INSERT INTO ota_job (id, rollout_id, wave_id, device_id, slot, kind, attempt, target, h, state, code, detail,
    have, total, counter, created_at, offered_at, state_at, away, exposed_at, confirmed_at, finished_at,
    is_reconciled)
SELECT (lpad(to_hex(%(ms)s + n / 4096), 12, '0') || '7' || lpad(to_hex(n %% 4096), 3, '0') || '8'
        || lpad(to_hex(n), 15, '0'))::uuid,
    %(rollout)s, %(wave)s, {_DEVICE}, 0, 'install', %(attempt)s, %(target)s, {_H}, state,
    CASE WHEN state NOT IN ('failed', 'rejected') THEN '' WHEN n %% 500 = 0 THEN 'flash_io'
        ELSE 'selftest_mismatch' END,
    0, CASE WHEN state = 'queued' THEN 0 ELSE 11 END, 11, %(attempt)s, %(at)s,
    CASE WHEN state <> 'queued' THEN %(at)s::timestamptz END, late, '0'::interval,
    CASE WHEN state IN ('trial', 'confirmed') THEN late END, CASE WHEN state = 'confirmed' THEN late END,
    CASE WHEN state IN ('confirmed', 'failed', 'rejected', 'timed_out') THEN late END, false
FROM (
    SELECT n, (%(states)s::text[])[1 + floor(random() * cardinality(%(states)s::text[]))::int] AS state,
        %(at)s::timestamptz + random() * interval '1 hour' AS late
    FROM {_NUMBERS}
) x
"""


def _people(
    row: Rollout, wave: Wave, numbers: range, attempt: int, states: Sequence[str], at: datetime
) -> None:
    """Memberships and jobs of a wave."""
    given = {
        "rollout": row.pk, "wave": wave.pk, "wave_n": wave.n,
        "first": numbers.start, "last": numbers.stop - 1,
        "run": Manifest.objects.get(seq=3).id16, "attempt": attempt, "target": row.manifest_id, "at": at,
        "states": [str(state) for state in states], "ms": uuid7().int >> 80,
    }  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(_MEMBERS, given)
        cursor.execute(_JOBS, given)


def _inventory(running: Rollout) -> None:
    """Slots as devices report them: a tenth offline, the candidate on those that confirmed it, the model
    before in the other bank, and what the self-test gave.
    """
    Device.objects.filter(pk__endswith="7").update(presence=Presence.OFFLINE)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "UPDATE devices_deviceslot SET arena_used = 20480, selftest = '[8, 8, 1, 412]'::jsonb,"
            " other = run, other_flags = 1"
        )
        cursor.execute(
            "UPDATE devices_deviceslot s SET run = %s, target = %s, run_seq = %s FROM ota_job j"
            " WHERE j.rollout_id = %s AND j.state = %s AND j.device_id = s.device_id AND s.slot = 0",
            [
                running.manifest.id16, running.manifest.id16, running.manifest.seq, running.pk,
                JobState.CONFIRMED,
            ],
        )  # fmt: skip


def _trail(devices: int, rollouts: list[Rollout], now: datetime) -> None:
    """As many audit rows and device events as devices, and a day of samples."""
    names = ("id", "at", "actor_kind", "actor", "verb", "subject_kind", "subject_id", "before", "after",
             "reason", "request_id", "source_ip")  # fmt: skip
    events = (
        [
            uuid7(), now - timedelta(seconds=n), "tick", "tick", "job.confirmed", "job", str(n),
            json.dumps({"state": "trial"}), json.dumps({"state": "confirmed"}), "", "", "",
        ]
        for n in range(devices)
    )  # fmt: skip
    with transaction.atomic():
        copy_rows(AuditEvent, names, events)
        copy_rows(
            DeviceEvent,
            ("device", "at", "kind", "code", "text", "data", "boot", "n"),
            (
                [enrolled.device_id(n), now - timedelta(minutes=n % 60), "boot", "", "boot 3", "{}", 3, n]
                for n in range(devices)
            ),
        )
        FleetSample.objects.bulk_create(
            FleetSample(
                at=now - timedelta(minutes=5 * n), devices=devices, online=devices - n,
                on_newest=devices // 2, newest="ff" * 16,
            )
            for n in range(288)
        )  # fmt: skip


def _groups(devices: int, now: datetime) -> None:
    """A listed group of half the fleet and one that a query selects."""
    made = {"created_at": now, "changed_at": now, "created_by": "admin"}
    listed = DeviceGroup.objects.create(name="listed", kind="static", **made)
    DeviceGroup.objects.create(name="asked", kind="dynamic", q="class==host-a;online==true", **made)
    with transaction.atomic():
        rows = (["listed", enrolled.device_id(n)] for n in range(0, devices, 2))
        copy_rows(GroupMember, ("group", "device"), rows)
    listed.refresh_from_db()


def _alerts(now: datetime) -> None:
    """As many as stay after a year: 20 that are open, 5,000 that were resolved."""
    Alert.objects.bulk_create(
        Alert(
            rule_name="crash-loop", rule_version=1, kind="crash_loop", severity="critical", action="none",
            scope_key=f"device:{enrolled.device_id(n)}:{n}", device_id=enrolled.device_id(n),
            state=AlertState.OPEN if n < 20 else AlertState.RESOLVED,
            first_seen_at=now - timedelta(hours=n), last_seen_at=now - timedelta(hours=n),
            evaluated_at=now - timedelta(hours=n),
            resolved_at=None if n < 20 else now - timedelta(hours=n - 1),
            evidence={"value": 4, "limit": 3, "devices": {}},
        )
        for n in range(5_020)
    )  # fmt: skip


def _churn(running: Rollout, now: datetime) -> None:
    """Write a tenth of the devices and of the jobs under way once more, after the vacuum."""
    later = now + timedelta(seconds=1)
    devices = Device.objects.filter(pk__endswith="3").update(last_seen_at=later)
    moving = Job.objects.filter(rollout=running, h__endswith="3", state=JobState.CONFIRMED)
    if not devices or not moving.update(state_at=later):
        raise ValueError("nothing was written again")


def _telemetry(devices: int, manifests: list[Manifest], now: datetime, dice: random.Random) -> None:
    """A day of minutes of two runs, the newest window of every device, and its sums of three days."""
    partitions.ensure({partitions.day_of(now - timedelta(hours=hours)) for hours in range(0, 80)})
    runs = [
        Version.objects.create(
            model=one.version.model_id, version=one.version.version, mid=one.mid, first_seen_at=now
        )
        for one in manifests[2:]
    ]
    base = now.replace(second=0, microsecond=0)
    Minute.objects.bulk_create(
        Minute(
            minute=base - timedelta(minutes=minute), version_id=run.pk, device_class=enrolled.CLASS,
            ingest_slot=0, windows=devices, n=40 * devices, us_sum=40 * devices * 6400, us_max=9000,
            anom_n=devices // 3, lab_n=devices, lab_ok=int(devices * 0.9),
        )
        for run in runs
        for minute in range(1440)
    )  # fmt: skip
    last = [field.name for field in DeviceLast._meta.concrete_fields]
    with transaction.atomic():
        copy_rows(
            DeviceLast,
            last,
            (
                [enrolled.device_id(n), now, (3 << 32) | 7, runs[0].pk, 0, 40, 6400, 9000, 8800, 2, 100, 0,
                 20, dice.randrange(15, 21), 900, -55, 0]
                for n in range(devices)
            ),
        )  # fmt: skip
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO tele_device_day (day, device_id, version_id, windows, n, us_sum, anom_n, lab_n,"
                " lab_ok, score_sum, golden_n, golden_ok, delayed_n, delayed_ok, us_max, anom_max)"
                " SELECT d.day, l.device_id, l.version_id, 1440, 57600, 368640000, 400, 28800, 26000,"
                " 500000000, 8, 8, 0, 0, 9000, 100 FROM tele_device_last l,"
                " unnest(%s::timestamptz[]) AS d (day)",
                [[partitions_day(now - timedelta(days=back)) for back in range(3)]],
            )


def partitions_day(at: datetime) -> datetime:
    """Midnight, UTC."""
    return at.replace(hour=0, minute=0, second=0, microsecond=0)


def count() -> dict[str, int]:
    """Rows of the tables that pages read."""
    return {
        "devices": Device.objects.count(),
        "jobs": Job.objects.count(),
        "audit rows": AuditEvent.objects.count(),
    }
