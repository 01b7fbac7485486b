"""Exports of more than a million rows: an operation that workers carry on with, part by part, into a file.

A part is the rows of some time, written under a temporary name, synced and renamed; then one conditional
UPDATE says that it is there. A worker that was killed leaves the parts that were counted and perhaps one
more, which the next worker writes again under the same name. In the end the parts become one file.

Unlike a small export this is no single snapshot: each part has one of its own, and a late record for a time
that was passed is not in the file. A day that retention took before its part was written ends the export
with `raw_expired`. No transaction is open for longer than a part takes.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import psycopg
import structlog
from django.conf import settings
from django.db import Error, connection, transaction

from fleet.accounts import audit
from fleet.accounts.audit import Actor
from fleet.devices.errors import DeviceError
from fleet.telemetry import export, export_forms
from fleet.telemetry.errors import ExportError, QueryError
from fleet.telemetry.export import Wanted
from fleet.telemetry.export_models import EXPORT_LIVE, ExportJob, ExportState

log = structlog.get_logger(__name__)

MOST_LIVE: Final = 4
MOST_ROWS: Final = 20_000_000
PART_ROWS: Final = 250_000
"""Rows that a part is cut for, by their average density: some seconds of work."""
KEPT: Final = timedelta(days=30)
WORK_S: Final = 10.0
COUNT_S: Final = 40
FILE_BYTES: Final = 1 << 18
_LOCK: Final = 0x7E1E_0020
_LEASE: Final = 0x7E1E_0021 << 32
_FORGOTTEN_AT_ONCE: Final = 100


def folder(job_id: UUID) -> Path:
    """Where an export's parts, and then its file, are. Web servers and workers share it."""
    return Path(settings.EXPORT_DIR) / str(job_id)


def ask(wanted: Wanted, *, actor: Actor, now: datetime) -> ExportJob:
    """Store a queued export; the same person asking again while it is written gets the one they have.

    Raises QueryError as `export.check`, and `contended` while MOST_LIVE exports are written.
    """
    export.check(wanted, now=now)
    about = {
        "kind": wanted.kind, "form": wanted.form, "start": wanted.start, "end": wanted.end, "q": wanted.q,
    }  # fmt: skip
    with transaction.atomic():
        live = list(ExportJob.objects.select_for_update().filter(state__in=EXPORT_LIVE))
        for one in live:
            if one.asked_by.person == actor.person and all(
                getattr(one, name) == value for name, value in about.items()
            ):
                return one
        if len(live) >= MOST_LIVE:
            raise QueryError("contended", f"{MOST_LIVE} large exports are being written: ask later")
        job = ExportJob.objects.create(reached=wanted.start, actor=asdict(actor), asked_at=now, **about)
        _record(job, "export.ask", actor, now)
    return job


def cancel(job: ExportJob, *, actor: Actor, now: datetime) -> ExportJob:
    """End an export that is not finished and delete what it wrote.

    Raises ExportError `illegal_transition` when it has ended.
    """
    with transaction.atomic():
        if not _end(job, ExportState.CANCELLED, now=now):
            state = ExportJob.objects.values_list("state", flat=True).get(pk=job.pk)
            raise ExportError("illegal_transition", f"the export is {state}", state=state)
        _record(job, "export.cancel", actor, now)
        transaction.on_commit(partial(shutil.rmtree, folder(job.pk), ignore_errors=True))
    return job


def file_of(job: ExportJob) -> Path | None:
    """The whole file of an export that succeeded, None while there is none or any more."""
    path = folder(job.pk) / job.filename
    return path if job.state == ExportState.SUCCEEDED and path.is_file() else None


class FileParts:
    """A finished file in parts, as `export.Parts`. size: bytes of all of it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.size = os.fstat(self._file.fileno()).st_size

    def chunk(self) -> bytes:
        """The next 256 KiB."""
        return self._file.read(FILE_BYTES)

    def close(self) -> None:
        """Close the file; safe to call again."""
        self._file.close()


def open_file(job: ExportJob) -> FileParts | None:
    """The whole file, to be read; None as of `file_of`."""
    path = file_of(job)
    try:
        return FileParts(path) if path is not None else None
    except FileNotFoundError:  # forgotten in between
        return None


def work(*, now: datetime, clock: Callable[[], float] = time.monotonic, most_s: float = WORK_S) -> int:
    """Carry on with the oldest exports for about `most_s` seconds; returns how many parts were written.

    Of many workers one does it at a time, so that however many exports there are, the others are free for
    rollouts; 0 for the rest. A problem ends its own export and holds up no other one.
    """
    with _lease() as is_mine:
        return _work(now=now, clock=clock, most_s=most_s) if is_mine else 0


def _work(*, now: datetime, clock: Callable[[], float], most_s: float) -> int:
    until, parts = clock() + most_s, 0
    for job in ExportJob.objects.filter(state__in=EXPORT_LIVE).order_by("asked_at", "id"):
        while clock() < until:
            try:
                if not _step(job, now=now):
                    break
            except (QueryError, DeviceError) as error:
                _fail(job, error.code, error.text, now=now)
                break
            except OSError as error:
                _fail(job, "unavailable", f"the file cannot be written: {error.strerror}", now=now)
                break
            except (Error, psycopg.Error) as error:  # the database is away or busy: the next run goes on
                log.warning("export_put_off", export=str(job.pk), reason=str(error).strip()[:200])
                break
            parts += 1
    return parts


@contextmanager
def _lease() -> Iterator[bool]:
    """Hold the lock of whoever writes exports; False when another session has it. It ends with its holder."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [_LEASE])
        is_mine = bool(cursor.fetchone()[0])
    try:
        yield is_mine
    finally:
        if is_mine and connection.connection is not None:  # a connection that is gone has given it back
            with suppress(Error), connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [_LEASE])


def forget(*, now: datetime) -> int:
    """Delete exports, with their files, that ended more than KEPT ago; at most 100 a call."""
    old = ExportJob.objects.filter(finished_at__lt=now - KEPT).order_by("pk")
    ids = list(old.values_list("pk", flat=True)[:_FORGOTTEN_AT_ONCE])
    for job_id in ids:
        shutil.rmtree(folder(job_id), ignore_errors=True)
    return ExportJob.objects.filter(pk__in=ids).delete()[0] if ids else 0


def _step(job: ExportJob, *, now: datetime) -> bool:
    """Count it, write the next part, or end it; False when there is nothing to do for this worker."""
    if job.total is None:
        return _count(job, now=now)
    if job.reached >= job.end:
        return _join(job, now=now)
    reached = job.reached
    upto = min(job.end, reached + timedelta(seconds=job.step_s))
    part = Wanted(job.kind, job.form, reached, upto, job.q)
    found = export.open_part(part, asked_at=job.asked_at, now=now, lock=_lock(job), has_head=job.parts == 0)
    if found is None:
        return False
    try:
        job.refresh_from_db()
        if job.reached != reached or job.state not in EXPORT_LIVE:
            return job.state in EXPORT_LIVE  # another worker wrote it before this one had the lock
        place = folder(job.pk)
        place.mkdir(parents=True, exist_ok=True)
        _write(place / f"{job.parts:06d}", found)
        is_kept = found.rows > 0 or job.parts == 0  # the first one has the head, or the columns
        values = {
            "state": ExportState.RUNNING, "done": job.done + found.rows, "reached": upto,
            "parts": job.parts + is_kept,
        }  # fmt: skip
        return _move(job, {"reached": job.reached, "parts": job.parts}, values)
    finally:
        found.close()


def _count(job: ExportJob, *, now: datetime) -> bool:
    wanted = Wanted(job.kind, job.form, job.start, job.end, job.q)
    total = export.count(wanted, MOST_ROWS + 1, asked_at=job.asked_at, now=now, timeout_s=COUNT_S)
    if total > MOST_ROWS:
        raise QueryError("too_many_rows", f"more than {MOST_ROWS:,} rows: ask for less")
    length_s = (job.end - job.start).total_seconds()
    values = {"total": total, "step_s": max(1.0, min(86_400.0, length_s * PART_ROWS / max(total, 1)))}
    return _move(job, {"total": None}, {"state": ExportState.RUNNING, **values})


def _join(job: ExportJob, *, now: datetime) -> bool:
    """Make one file of the parts. Whoever is second finds no parts, or a file that is the same."""
    place = folder(job.pk)
    parts = [place / f"{n:06d}" for n in range(job.parts)]
    whole = place / job.filename
    if not whole.is_file():
        temporary = place / f"{job.filename}.{os.getpid()}"
        with temporary.open("wb") as file:
            export_forms.join(job.form, parts, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(whole)
    if _end(job, ExportState.SUCCEEDED, now=now, size=whole.stat().st_size):
        for one in place.iterdir():  # the parts, one without rows, and what a killed worker began
            if one != whole:
                one.unlink(missing_ok=True)
    return False


def _write(place: Path, found: export.Export) -> None:
    temporary = place.with_name(f"{place.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        while part := found.chunk():
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(place)


def _move(job: ExportJob, before: dict[str, Any], values: dict[str, Any]) -> bool:
    """One conditional UPDATE; False when another worker was there first, or the export has ended."""
    if ExportJob.objects.filter(pk=job.pk, state__in=EXPORT_LIVE, **before).update(**values) != 1:
        return False
    for name, value in values.items():
        setattr(job, name, value)
    return True


def _end(job: ExportJob, state: ExportState, *, now: datetime, **more: Any) -> bool:
    return _move(job, {}, {"state": state, "finished_at": now, **more})


def _fail(job: ExportJob, code: str, text: str, *, now: datetime) -> None:
    log.warning("export_failed", export=str(job.pk), code=code, reason=text)
    if _end(job, ExportState.FAILED, now=now, problem={"code": code, "text": text}):
        shutil.rmtree(folder(job.pk), ignore_errors=True)


def _lock(job: ExportJob) -> int:
    """Of one export: whoever holds it writes its parts."""
    return (_LOCK << 32) | (job.pk.int & 0xFFFF_FFFF)


def _record(job: ExportJob, verb: str, actor: Actor, now: datetime) -> None:
    about = {
        "kind": job.kind, "form": job.form, "from": job.start.isoformat(), "to": job.end.isoformat(),
        "q": job.q,
    }  # fmt: skip
    audit.record(actor=actor, verb=verb, subject_kind="export", subject_id=str(job.pk), at=now, after=about)
