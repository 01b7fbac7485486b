"""From parsed batches to rows: one transaction that counts every record once, however often it arrives.

Rows are taken in the order in which all ingesters take them, so that two of them never wait for each other
in a circle. Nearly always all of them are new: they are copied straight into the table, and the rollups are
fed from a temporary copy of the same bytes. One window that is there already makes PostgreSQL refuse the
whole copy; then, and for a while after, rows are inserted from the temporary table with ON CONFLICT DO
NOTHING, and the rollups are fed from what that statement returned and nothing else. A redelivery adds nothing
anywhere, either way. `tests.bench.telemetry.read_path` measures both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from django.db import IntegrityError, connection, transaction
from psycopg.errors import UniqueViolation

from fleet.mqtt.codec.telemetry import Batch
from fleet.telemetry import boots, partitions, rollups, samples, staging
from fleet.telemetry.errors import TelemetryError

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_MS: Final = 86_400_000

_ROLL_UP: Final = f"""
WITH fresh AS (SELECT {staging.NAMES} FROM tele_stage), {rollups.FROM_WINDOWS}
SELECT count(*) FROM fresh
"""  # noqa: S608 - names are constants of this module
_MERGE: Final = f"""
WITH fresh AS (
    INSERT INTO tele_window ({staging.NAMES})
    SELECT {staging.NAMES} FROM tele_stage
    ON CONFLICT DO NOTHING
    RETURNING {staging.NAMES}
), {rollups.FROM_WINDOWS}
SELECT count(*) FROM fresh
"""  # noqa: S608 - names are constants of this module


@dataclass(frozen=True)
class Delivery:
    """A parsed batch and the device that authentically sent it."""

    device_id: str
    batch: Batch


@dataclass(frozen=True)
class Stored:
    """What a call kept: new windows, sampled inferences and sketches, and windows that were there already."""

    windows: int = 0
    inferences: int = 0
    sketches: int = 0
    duplicates: int = 0


def check_times(batch: Batch, *, now: datetime) -> None:
    """Refuse a batch with a record past retention of windows or more than 24 h ahead.

    Raises TelemetryError `time_range`.

    Time comes from the payload only: arrival would make a new row of every redelivery.
    """
    oldest_ms, newest_ms = _bounds_ms(now)
    for records in (batch.windows, batch.inferences, batch.sketches):
        for one in (records[0], records[-1]) if records else ():  # times never fall within a kind
            if not oldest_ms <= one.ts_ms <= newest_ms:
                ends = f"{_time(one.ts_ms):%Y-%m-%d %H:%M} UTC"
                text = f"a record ends at {ends}, 30 days back to 1 ahead are taken"
                raise TelemetryError("time_range", text)


def ensure_partitions(deliveries: Sequence[Delivery]) -> None:
    """Make the day partitions that these deliveries need. Call it before an outer transaction."""
    for tables, kind in (
        (rollups.WINDOW_TABLES, "windows"),
        (rollups.INFERENCE_TABLES, "inferences"),
        (rollups.SKETCH_TABLES, "sketches"),
    ):
        found = [records for one in deliveries if (records := getattr(one.batch, kind))]
        spans = {(records[0].ts_ms // _DAY_MS, records[-1].ts_ms // _DAY_MS) for records in found}
        # A record is at most a day after the one before, so no day between is left out.
        numbers = {number for first, last in spans for number in range(first, last + 1)}
        partitions.ensure({_time(number * _DAY_MS).date() for number in numbers}, tables=tables)


def store(
    deliveries: Sequence[Delivery], *, slot: int, now: datetime, expects_repeats: bool = False
) -> Stored:
    """Keep every record that is not kept yet, with its rollups, in one transaction.

    slot: the ingesting gateway's, 0..32,767; part of the rollup's key, so that slots never wait for each
    other. expects_repeats: that some windows may be stored already, which changes the way there, not what is
    stored: a straight copy that is refused was in vain and leaves dead rows. Call `check_times` first and
    `ensure_partitions` before an outer transaction. Raises django.db.Error; nothing is then stored.
    """
    batches = [(delivery.device_id, delivery.batch) for delivery in deliveries]
    n_windows, n_inferences, n_sketches = (
        sum(len(getattr(batch, kind)) for _, batch in batches)
        for kind in ("windows", "inferences", "sketches")
    )
    if not n_windows + n_inferences + n_sketches:
        return Stored()
    ensure_partitions(deliveries)
    windows = inferences = sketches = 0
    with transaction.atomic():
        versions = _version_ids(deliveries, now)
        if n_windows:
            packed = staging.pack(batches, versions, now=now)
            staging.fill_stage(packed)
            is_copied = not expects_repeats and _copied(packed)
            with connection.cursor() as cursor:
                cursor.execute(_ROLL_UP if is_copied else _MERGE, {"slot": slot, "now": now})
                windows = int(cursor.fetchone()[0])
        if n_inferences:
            inferences = samples.store_inferences(batches, versions, now=now)
        if n_sketches:
            sketches = samples.store_sketches(batches, versions, slot=slot, now=now)
        boots.record(batches, now=now)
    return Stored(windows, inferences, sketches, n_windows - windows)


def _copied(packed: bytes) -> bool:
    """Copy these windows into their table, or none of them: False when one is there already."""
    try:
        with transaction.atomic():
            staging.copy_into("tele_window", packed)
    except IntegrityError as error:
        if isinstance(error.__cause__, UniqueViolation):
            return False
        raise
    return True


def _version_ids(deliveries: Sequence[Delivery], now: datetime) -> dict[tuple[str, str, str], int]:
    """Ids of the model runs of these deliveries; new ones are added. Read first: INSERT would use up ids."""
    wanted = sorted({_run(delivery.batch) for delivery in deliveries})
    known = _known_versions(wanted)
    missing = [run for run in wanted if run not in known]
    if missing:
        mids, names, labels = zip(*missing, strict=True)
        brought = {_run(delivery.batch): delivery.device_id for delivery in reversed(deliveries)}
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO tele_version (mid, model, version, first_device, first_seen_at)"
                " SELECT m, n, v, d, %s"
                " FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[]) AS t(m, n, v, d)"
                " ON CONFLICT DO NOTHING",
                [now, list(mids), list(names), list(labels), [brought[run] for run in missing]],
            )
        known |= _known_versions(missing)
    return known


def _known_versions(runs: Sequence[tuple[str, str, str]]) -> dict[tuple[str, str, str], int]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT mid, model, version, id FROM tele_version WHERE mid = ANY(%s)", [[run[0] for run in runs]]
        )
        found = {(mid, model, version): number for mid, model, version, number in cursor.fetchall()}
    return {run: found[run] for run in runs if run in found}


def _run(batch: Batch) -> tuple[str, str, str]:
    return batch.mid, batch.model, batch.version


@lru_cache(maxsize=8)
def _bounds_ms(now: datetime) -> tuple[int, int]:
    """Times that are taken, as unix milliseconds; a batch of uplinks has one `now`."""
    return _ms(partitions.raw_from(now)), _ms(now + partitions.MAX_FUTURE)


def _ms(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def _time(ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=ms)
