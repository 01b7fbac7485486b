"""The jobs of an opening wave, made by one statement a batch."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import connection

from fleet.devices.models import Device, DeviceSlot
from fleet.ids import uuid7
from ota.choices import Arm, JobState
from ota.models import Job, Membership, Rollout, Wave


def make_jobs(wave: Wave, rollout: Rollout, *, now: datetime, limit: int) -> list[int]:
    """Make a job for up to `limit` members of a wave that have none, in the order of the draw.

    A device that runs the candidate already, or is quarantined or retired by now, gets a job that says so and
    counts as neither success nor failure. A device whose older job is still live keeps it (one live job per
    slot) and is looked at again next time. Returns the attempt numbers given.
    """
    job = Job(
        rollout=rollout,
        wave=wave,
        device_id="",
        slot=rollout.slot,
        target=rollout.manifest_id,
        created_at=now,
        state_at=now,
    )
    ended = "d.retired_at IS NOT NULL OR s.run IS NOT NULL OR d.quarantined_at IS NOT NULL"
    given = {
        "id": "(%(ids)s::uuid[])[row_number() OVER (ORDER BY m.arm, m.stratum, m.rank)]",
        "device_id": "m.device_id",
        "h": "m.h",
        "attempt": (
            f'1 + coalesce((SELECT max(attempt) FROM "{Job._meta.db_table}" a '  # noqa: S608 - own names
            "WHERE a.device_id = m.device_id AND a.slot = %(slot)s), 0)"
        ),
        "state": (
            f"CASE WHEN d.retired_at IS NOT NULL THEN '{JobState.REMOVED}' "
            f"WHEN {ended} THEN '{JobState.SKIPPED}' ELSE '{JobState.QUEUED}' END"
        ),
        "code": (
            "CASE WHEN d.retired_at IS NOT NULL THEN '' WHEN s.run IS NOT NULL THEN 'already_installed' "
            "WHEN d.quarantined_at IS NOT NULL THEN 'quarantined' ELSE '' END"
        ),
        "finished_at": f"CASE WHEN {ended} THEN %(now)s::timestamptz END",
    }
    fields = {str(field.column): field for field in Job._meta.concrete_fields}
    same: dict[str, Any] = {
        column: field.get_db_prep_save(getattr(job, field.attname), connection)
        for column, field in fields.items()
        if column not in given
    }
    values = [given.get(column, f"%({column})s") for column in fields]
    sql = (
        f'INSERT INTO "{Job._meta.db_table}" ({", ".join(fields)}) '  # noqa: S608
        f"SELECT {', '.join(values)} FROM ("
        f'SELECT device_id, arm, stratum, rank, h FROM "{Membership._meta.db_table}" m '
        "WHERE rollout_id = %(rollout_id)s AND wave = %(n)s AND arm <> %(skipped)s AND NOT EXISTS ("
        f'SELECT 1 FROM "{Job._meta.db_table}" j WHERE j.rollout_id = %(rollout_id)s AND '
        "j.device_id = m.device_id AND j.kind = %(kind)s) "
        "ORDER BY arm, stratum, rank LIMIT %(limit)s) m "
        f'JOIN "{Device._meta.db_table}" d ON d.id = m.device_id '
        f'LEFT JOIN "{DeviceSlot._meta.db_table}" s ON s.device_id = m.device_id AND s.slot = %(slot)s '
        "AND s.run = %(run)s ON CONFLICT DO NOTHING RETURNING attempt"
    )
    more: dict[str, Any] = {
        "ids": [uuid7() for _ in range(limit)],
        "now": now,
        "n": wave.n,
        "skipped": str(Arm.SKIPPED),
        "limit": limit,
        "run": rollout.manifest.id16,
    }
    with connection.cursor() as cursor:
        cursor.execute(sql, same | more)
        return [attempt for (attempt,) in cursor.fetchall()]
