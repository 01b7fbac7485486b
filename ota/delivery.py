"""What devices are told, as rows: one desired state per device.

A change is written by one conditional UPDATE in the caller's transaction: entries, configuration and a
counter that strictly rises. `ota.publishing` signs and sends it after commit.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final, TypeVar
from uuid import UUID

import structlog
from django.db import connection, transaction
from django.db.models import Q

from fleet.accounts import audit
from fleet.accounts.audit import SYSTEM, Actor
from fleet.devices.models import Device, DeviceSlot
from fleet.mqtt.codec.names import Action
from ota import keys
from ota.config_ranges import config_errors
from ota.desired import DesiredError, next_counter
from ota.errors import OtaError
from ota.models import DesiredState, Job, Manifest
from ota.queues import enqueue

log = structlog.get_logger(__name__)

LIFETIME: Final = timedelta(days=7)
"""A desired document expires after this long (the device then reports `stale` and keeps running); it is
signed anew at half of it.
"""
BATCH: Final = 500
REPAIR_AFTER: Final = timedelta(seconds=30)
CONNECT_S = 10.0
PUBLISH_DEADLINE_S: Final = 20.0
_PASSES: Final = 5

Entries = dict[str, list[Any]]
Edit = Callable[[DesiredState], None]
T = TypeVar("T")


class DeliveryError(OtaError):
    """A device could not be told. Codes: `config_invalid`, `contended`, `not_found`."""


def offer(
    jobs: Sequence[Job],
    *,
    now: datetime,
    deadlines: Mapping[UUID, datetime] | None = None,
    windows: Mapping[str, Sequence[int]] | None = None,
    action: Action = Action.RUN,
) -> dict[UUID, int]:
    """Put each job's target into its slot of the device's desired document.

    action: RUN_OTHER_BANK asks for what the device holds already. deadlines: job -> no trial begins on the
    device after it; None = none. windows: device -> the maintenance window it is told (config key 6), None
    leaves what it has. Call it in the transaction that moves the jobs. Returns the counter that carries each
    job's entry; a job is missing from it when its device cannot be told now (its counters are burned).
    Raises DeliveryError `contended` when other writers kept changing the same documents, and KeysError
    `keys_missing`.
    """

    def entry(job: Job) -> list[Any]:
        until_s = int(deadlines[job.pk].timestamp()) if deadlines else 0
        return [int(action), job.target, 0, until_s, job.attempt]

    return _put(jobs, entry, now=now, windows=windows)


def revert(jobs: Sequence[Job], *, now: datetime, action: Action = Action.RUN_OTHER_BANK) -> dict[UUID, int]:
    """Send each job's device back to the job's target from its other bank, without a download; a slot that
    was empty is stopped. A revert waits for no window.

    action: RUN for devices that no longer hold the target and must fetch a manifest signed anew. Returns and
    raises as `offer`.
    """

    def entry(job: Job) -> list[Any]:
        return [int(action if job.target else Action.STOP), job.target, 0, 0, job.attempt]

    return _put(jobs, entry, now=now, windows=dict.fromkeys((job.device_id for job in jobs), None))


def withdraw(jobs: Sequence[Job], *, now: datetime) -> dict[UUID, int]:
    """Take offers back: the documents name what the devices run now; a slot that runs nothing is stopped.

    A device that runs a manifest this installation does not know keeps its slot as it is. Returns and raises
    as `offer`.
    """
    running = _running_manifests(jobs)

    def entry(job: Job) -> list[Any] | None:
        held = running.get((job.device_id, job.slot), "")
        if held is None:
            return None
        return [int(Action.RUN if held else Action.STOP), held, 0, 0, job.attempt]

    return _put(jobs, entry, now=now)


def set_config(
    device_ids: Iterable[str], config: Mapping[int, Any], *, now: datetime, actor: Actor = SYSTEM
) -> dict[str, int]:
    """Set configuration keys (SPEC.md section 6) of devices; a value of None goes back to the device's
    default.

    Returns the new counter per device. Raises DeliveryError `config_invalid` with the keys out of range and
    `not_found` for an unknown device, before anything changes, and as `offer`.
    """
    given = {key: value for key, value in config.items() if value is not None}
    if invalid := config_errors(given):
        raise DeliveryError("config_invalid", f"configuration keys {invalid} are unknown or out of range")

    def edit(row: DesiredState) -> None:
        for key, value in config.items():
            if value is None:
                row.config.pop(str(key), None)
            else:
                row.config[str(key)] = list(value) if isinstance(value, tuple) else value

    names = sorted(set(device_ids))
    with transaction.atomic():
        counters = write(dict.fromkeys(names, edit), now=now)
        audit.record(
            actor=actor,
            verb="config.set",
            subject_kind="devices",
            subject_id=names[0] if len(names) == 1 else f"{len(names)} devices",
            at=now,
            after={"config": {str(key): value for key, value in config.items()}, "devices": len(names)},
        )
    return counters


def write(edits: Mapping[str, Edit], *, now: datetime) -> dict[str, int]:
    """Apply an edit to each device's desired row under a new counter, and have the documents published after
    commit.

    Each edit may run several times, on a fresh row each. Returns the new counters. Raises DeliveryError
    `contended`, and `not_found` for an unknown device.
    """
    trust, _ = keys.current_trust()
    counters: dict[str, int] = {}
    with transaction.atomic():
        for batch in _batches(sorted(edits), BATCH):
            left = list(batch)
            for _ in range(_PASSES):
                changed, left = _write_once(left, edits, trust.version, now)
                counters.update(changed)
                if not left:
                    break
            else:
                raise DeliveryError("contended", f"{len(left)} desired documents kept changing underneath")
        if counters:
            enqueue("ota.publish_desired")
    return counters


def _write_once(
    device_ids: list[str], edits: Mapping[str, Edit], trust_version: int, now: datetime
) -> tuple[dict[str, int], list[str]]:
    """(new counters, devices whose row changed between our reading and our writing)."""
    reported = dict(Device.objects.filter(pk__in=device_ids).values_list("pk", "desired_counter"))
    if unknown := set(device_ids) - set(reported):
        raise DeliveryError("not_found", f"no device {min(unknown)}")
    rows, old = [], []
    for row in _rows(device_ids):
        try:
            counter = next_counter(
                trust_version, int(now.timestamp()), row.counter, reported.get(row.device_id, 0)
            )
        except DesiredError as problem:
            log.error("counter_burned", device=row.device_id, reason=problem.text)
            continue
        old.append(row.counter)
        edits[row.device_id](row)
        row.counter = counter
        rows.append(row)
    if not rows:
        return {}, []
    sql = (
        f'UPDATE "{DesiredState._meta.db_table}" AS d SET counter = n.counter, entries = n.entries::jsonb, '  # noqa: S608 - own names
        'config = n.config::jsonb, "window" = n.told::jsonb, message = NULL, issued_at = %s, expires_at = %s '
        "FROM unnest(%s::text[], %s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::text[]) "
        "AS n(device_id, seen, counter, entries, config, told) "
        "WHERE d.device_id = n.device_id AND d.counter = n.seen RETURNING d.device_id"
    )
    columns: list[list[Any]] = [
        [row.device_id for row in rows],
        old,
        [row.counter for row in rows],
        [json.dumps(row.entries) for row in rows],
        [json.dumps(row.config) for row in rows],
        [None if row.window is None else json.dumps(row.window) for row in rows],
    ]
    with connection.cursor() as cursor:
        cursor.execute(sql, [now, now + LIFETIME, *columns])
        done = {name for (name,) in cursor.fetchall()}
    changed = {row.device_id: row.counter for row in rows if row.device_id in done}
    return changed, [row.device_id for row in rows if row.device_id not in done]


def _rows(device_ids: Sequence[str]) -> list[DesiredState]:
    """The rows of these devices without the message; those never told anything get one first."""
    found = DesiredState.objects.only("counter", "entries", "config", "window")
    rows = list(found.filter(device_id__in=device_ids))
    missing = sorted(set(device_ids) - {row.device_id for row in rows})
    if missing:
        sql = (
            f'INSERT INTO "{DesiredState._meta.db_table}" '
            "(device_id, counter, entries, config, published_counter) "
            "SELECT unnest(%s::text[]), 0, '{}'::jsonb, '{}'::jsonb, 0 ON CONFLICT DO NOTHING"
        )
        with connection.cursor() as cursor:
            cursor.execute(sql, [missing])
        rows += found.filter(device_id__in=missing)
    return rows


def sign_anew(*, now: datetime, limit: int = BATCH) -> int:
    """Give documents past half of their life a new counter and expiry. Returns how many."""
    due = DesiredState.objects.filter(
        counter__gt=0, expires_at__lt=now + LIFETIME / 2, device__retired_at=None
    )
    names = list(due.order_by("expires_at").values_list("device_id", flat=True)[:limit])
    return len(write(dict.fromkeys(names, _unchanged), now=now)) if names else 0


def _put(
    jobs: Sequence[Job],
    entry_of: Callable[[Job], list[Any] | None],
    *,
    now: datetime,
    windows: Mapping[str, Sequence[int] | None] | None = None,
) -> dict[UUID, int]:
    by_device: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        by_device[job.device_id].append(job)

    def editor(mine: list[Job]) -> Edit:
        def edit(row: DesiredState) -> None:
            for job in mine:
                entry = entry_of(job)
                if entry is None:
                    row.entries.pop(str(job.slot), None)
                else:
                    row.entries[str(job.slot)] = entry
                if windows and job.device_id in windows:
                    told = windows[job.device_id]
                    row.window = None if told is None else list(told)

        return edit

    counters = write({name: editor(mine) for name, mine in by_device.items()}, now=now)
    return {job.pk: counters[job.device_id] for job in jobs if job.device_id in counters}


def _running_manifests(jobs: Sequence[Job]) -> dict[tuple[str, int], str | None]:
    """Manifest id that each job's device runs in the job's slot; "" = nothing, None = one we never signed."""
    slots = DeviceSlot.objects.filter(device_id__in={job.device_id for job in jobs})
    runs = {(slot.device_id, slot.slot): slot.run for slot in slots}
    wanted = {run for run in runs.values() if run}
    known: dict[str, str] = {}
    if wanted:
        shared = Q()
        for run in wanted:
            shared |= Q(pk__startswith=run)
        known = {pk[:32]: pk for pk in Manifest.objects.filter(shared).values_list("pk", flat=True)}
    return {key: known.get(run) if run else "" for key, run in runs.items()}


def _unchanged(row: DesiredState) -> None:
    """An edit that leaves entries and configuration as they are."""


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch
