"""What `tests.bench.web` asks pages about: a large fleet with its rollouts, jobs, audit trail and telemetry.

Devices come from `tests.bench.enrolled`. Of the jobs, whole rollouts have ended and the newest one is under
way, as a fleet looks after a year of use; every row has the form that the product writes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import connection, transaction

from fleet.accounts.models import AuditEvent
from fleet.devices.models import Device, DeviceEvent
from fleet.ids import uuid7
from fleet.telemetry import partitions
from fleet.telemetry.models import DeviceLast, Minute, Version
from ota.choices import Arm, JobState, RolloutState, WaveState
from ota.copying import copy_rows
from ota.models import FleetSample, Job, Manifest, Membership, Rollout, Wave
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
ROWS: Final = 20_000


def fill(
    devices: int, jobs: int, *, now: datetime, seed: int = 1, told: Callable[[str], None] = print
) -> dict[str, str]:
    """Write the fleet. Returns what its pages are called by: rollouts `running` and `ended`, `device`, `run`.

    jobs: about so many, in whole rollouts over all devices.
    """
    dice = random.Random(seed)
    enrolled.prepare(now)
    manifests = [
        enrolled.manifest(seq, kib=40, now=now - timedelta(days=30 - seq), seed=seed) for seq in (1, 2, 3, 4)
    ]
    enrolled.enrol(devices, manifests[2], now=now)
    told(f"{devices:,} devices")
    count = max(1, jobs // devices)
    made = []
    for number in range(count):
        is_last = number == count - 1
        manifest = manifests[3] if is_last else manifests[number % 3]
        at = now - (timedelta(minutes=40) if is_last else timedelta(days=count - number))
        made.append(_rollout(number, manifest, devices, at, is_last=is_last, dice=dice))
        told(f"{(number + 1) * devices:,} jobs")
    _trail(devices, made, now)
    _telemetry(devices, manifests, now, dice)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    return {
        "running": str(made[-1].pk),
        "ended": str(made[0].pk),
        "device": enrolled.device_id(devices // 2),
        "run": manifests[2].id16,
        "manifest": manifests[2].mid,
    }


def _rollout(
    number: int, manifest: Manifest, devices: int, at: datetime, *, is_last: bool, dice: random.Random
) -> Rollout:
    row = Rollout.objects.create(
        name=f"release {number}",
        manifest=manifest,
        plan=Plan.parse(PLAN).to_json(),
        salt=b"0123456789abcdef",
        target={},
        state=RolloutState.RUNNING if is_last else RolloutState.COMPLETED,
        summary={"eligible": devices, "control": 0, "waves": [], "classes": {}, "skipped": {}, "notes": []},
        created_by="admin",
        created_at=at,
        started_at=at,
        finished_at=None if is_last else at + timedelta(hours=3),
    )
    waves, first = [], 0
    for n, share in enumerate(WAVES, start=1):
        end = int(devices * share)
        state = WaveState.PASSED if not is_last or n < len(WAVES) else WaveState.OPEN
        waves.append(
            (
                Wave.objects.create(
                    rollout=row, n=n, state=state, is_gated=n < 3, size=end - first, opened_at=at
                ),
                range(first, end),
            )
        )
        first = end
    for wave, numbers in waves:
        states = _MOVING if is_last and wave.n == len(WAVES) else _ENDED
        for start in range(numbers.start, numbers.stop, ROWS):
            part = range(start, min(numbers.stop, start + ROWS))
            with transaction.atomic():
                copy_rows(Membership, _MEMBER, _members(row, wave, part))
                copy_rows(Job, _JOB, _jobs(row, wave, part, number + 1, states, at, dice))
    return row


_MEMBER: Final = ("rollout", "device", "arm", "wave", "stratum", "h", "rank", "skip_reason", "baseline_run",
                  "baseline")  # fmt: skip
_JOB: Final = ("id", "rollout", "wave", "device", "slot", "kind", "attempt", "target", "h", "state", "code",
               "detail", "have", "total", "counter", "created_at", "offered_at", "state_at", "away",
               "confirmed_at", "finished_at", "is_reconciled")  # fmt: skip


def _members(row: Rollout, wave: Wave, numbers: range) -> Iterator[list[Any]]:
    for n in numbers:
        name, drawn = enrolled.device_id(n), f"{n:016x}"
        yield [row.pk, name, Arm.WAVE, wave.n, "host-a/new", drawn, n, "", "", "{}"]


def _jobs(
    row: Rollout, wave: Wave, numbers: range, attempt: int, states: Any, at: datetime, dice: random.Random
) -> Iterator[list[Any]]:
    target = row.manifest_id
    for n in numbers:
        state = dice.choice(states)
        is_over = state in (JobState.CONFIRMED, JobState.FAILED, JobState.REJECTED, JobState.TIMED_OUT)
        is_waiting = state == JobState.QUEUED
        then = at + timedelta(seconds=dice.randrange(3600))
        code = "selftest_mismatch" if state in (JobState.FAILED, JobState.REJECTED) else ""
        have = 0 if is_waiting else 11
        yield [
            uuid7(), row.pk, wave.pk, enrolled.device_id(n), 0, "install", attempt, target, f"{n:016x}",
            state, code, 0, have, 11, attempt, at, None if is_waiting else at, then, timedelta(0),
            then if state == JobState.CONFIRMED else None, then if is_over else None, False,
        ]  # fmt: skip


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
