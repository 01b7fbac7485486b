"""Labels that come later, joined to the sampled inference they are about: accuracy of kind `delayed`.

A sample is named `<device>:<boot>:<k>`, known to its device as soon as it has inferred. Whatever order
samples, labels, repetitions and corrections come in, of all labels of a sample the one of the highest rank
counts, of equal rank the newest, of equal time the largest class; the others stay as history. Counts move in
the transaction that moves the label, so that none is ever counted twice.

One writer at a time (an advisory lock): labels are few, and two requests about one sample must not both win.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import connection, transaction

from fleet.accounts import audit
from fleet.accounts.audit import Actor
from fleet.devices.models import Device
from fleet.telemetry import partitions
from fleet.telemetry.errors import TelemetryError

SOURCES: Final = {"system": 1, "person": 2, "audit": 3}
"""Who gives a label, with its rank: another system, a person, a second look that settles a dispute."""
MOST: Final = 10_000
CLASSES: Final = 256
WAITS: Final = timedelta(days=30)
_LOCK: Final = 0x7E1E_0002
_FIRST_PROBE: Final = timedelta(minutes=1)
_LAST_PROBE: Final = timedelta(hours=6)
_WAITING: Final = {
    name: f"{span.total_seconds():.0f} s"
    for name, span in (("first", _FIRST_PROBE), ("last", _LAST_PROBE), ("waits", WAITS))
}
_COLUMNS: Final = ("text", "int8", "int2", "text", "int2", "timestamptz")
Row = tuple[str, int, int, str, int, datetime]  # device, sample, label, source, rank, at


@dataclass(frozen=True)
class Given:
    """A label as it was sent: sample_id `<device>:<boot>:<k>`, the class, who says so and when that was."""

    sample_id: str
    label: int
    source: str
    at: datetime


@dataclass(frozen=True)
class Refusal:
    """A label that was not taken. index: its place among those that were sent."""

    index: int
    code: str
    text: str


@dataclass(frozen=True)
class Taken:
    """What became of labels. new: stored; known: here before. counted, pending: the new ones' samples."""

    new: int = 0
    known: int = 0
    counted: int = 0
    pending: int = 0
    refused: list[Refusal] = field(default_factory=list)


def store(given: Sequence[Given], *, actor: Actor, now: datetime) -> Taken:
    """Take labels; bad ones are refused one by one with `sample_invalid`, `unknown_device`, `label_unknown`
    (no class 0..255), `source_unknown`, `time_range` (more than 24 h ahead or without an offset) or
    `sample_expired` (given before the samples that are kept), the others are stored.

    Raises TelemetryError `too_large` for more than MOST, django.db.Error; nothing is then stored.
    """
    if len(given) > MOST:
        raise TelemetryError("too_large", f"{len(given):,} labels, at most {MOST:,} are taken")
    rows, refused = _checked(given, now)
    if not rows:
        return Taken(refused=refused)
    with transaction.atomic():
        _lock()
        fresh = _insert(rows, now)
        becomes = settle({(device, sample) for device, sample, *_ in rows})
        counted = sum(becomes.get(key) == "counted" for key in fresh)
        pending = sum(becomes.get(key) == "pending" for key in fresh)
        after = {"new": len(fresh), "known": len(rows) - len(fresh), "refused": len(refused)}
        audit.record(
            actor=actor, verb="telemetry.label", subject_kind="telemetry", subject_id="labels",
            at=now, after=after,
        )  # fmt: skip
    return Taken(len(fresh), len(rows) - len(fresh), counted, pending, refused)


def join(*, now: datetime, most: int = 5000) -> int:
    """Look for the samples of pending labels that are due; returns how many labels were joined.

    A label that still has none is looked for again after a quarter of its age, at least a minute and at most
    six hours, and becomes `unmatched` after 30 days.
    """
    with transaction.atomic():
        _lock()
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE tele_label SET probe_at = %(now)s + least(%(last)s::interval,"
                " greatest(%(first)s::interval, (%(now)s - received_at) / 4)),"
                " state = CASE WHEN received_at < %(now)s - %(waits)s::interval THEN 'unmatched'"
                " ELSE state END WHERE id IN (SELECT id FROM tele_label WHERE state = 'pending'"
                " AND probe_at <= %(now)s ORDER BY probe_at LIMIT %(most)s) RETURNING device_id, sample",
                {"now": now, "most": most, **_WAITING},
            )
            keys = set(cursor.fetchall())
        becomes = settle(keys)
    return sum(state == "counted" for state in becomes.values())


def counts() -> dict[str, int]:
    """How many labels there are in each state."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT state, count(*) FROM tele_label GROUP BY state")
        return {state: int(n) for state, n in cursor.fetchall()}


def unmatched(limit: int = 100) -> list[dict[str, Any]]:
    """The newest labels whose sample never came: sample_id, label, source, at, received_at."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT device_id, sample, label, source, at, received_at FROM tele_label"
            " WHERE state = 'unmatched' ORDER BY received_at DESC, id DESC LIMIT %s",
            [limit],
        )
        return [
            {"sample_id": sample_id(device, sample), "label": label, "source": source, "at": at,
             "received_at": received}
            for device, sample, label, source, at, received in cursor.fetchall()
        ]  # fmt: skip


def sample_id(device_id: str, sample: int) -> str:
    """How a sample is named outside."""
    return f"{device_id}:{sample >> 32}:{sample & 0xFFFF_FFFF}"


def forget(now: datetime) -> int:
    """Delete labels that came before what is kept 13 months; returns how many. Counts stay."""
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM tele_label WHERE received_at < %s",
            [now - timedelta(days=partitions.MONTHS_13)],
        )
        return int(cursor.rowcount)


def _checked(given: Sequence[Given], now: datetime) -> tuple[list[Row], list[Refusal]]:
    names = {one.sample_id.partition(":")[0] for one in given}
    known = set(Device.objects.filter(pk__in=names).values_list("pk", flat=True))
    rows: dict[tuple[Any, ...], Row] = {}
    refused = []
    for index, one in enumerate(given):
        try:
            row = _row(one, known, now)
        except TelemetryError as error:
            refused.append(Refusal(index, error.code, error.text))
        else:
            rows[row] = row  # the same twice in one request is one
    return list(rows.values()), refused


def _row(one: Given, known: set[str], now: datetime) -> Row:
    device, *numbers = one.sample_id.split(":")
    if len(numbers) != 2 or not all(
        text.isascii() and text.isdigit() and len(text) <= 10 for text in numbers
    ):
        raise TelemetryError("sample_invalid", "a sample is named <device>:<boot>:<number of the inference>")
    boot, k = (int(text) for text in numbers)
    if boot >= 2**31 or k >= 2**32:
        raise TelemetryError("sample_invalid", "boot is below 2^31, the number of the inference below 2^32")
    if device not in known:
        raise TelemetryError("unknown_device", f"no device {device[:32]!r} is enrolled")
    if not 0 <= one.label < CLASSES:
        raise TelemetryError("label_unknown", f"a class is 0..{CLASSES - 1}, not {one.label}")
    if one.source not in SOURCES:
        raise TelemetryError("source_unknown", f"{one.source[:16]!r} is none of {', '.join(SOURCES)}")
    if one.at.tzinfo is None or one.at > now + partitions.MAX_FUTURE:
        raise TelemetryError("time_range", "`at` needs an offset or Z, and lies at most 24 h ahead")
    if one.at < partitions.raw_from(now):
        raise TelemetryError("sample_expired", f"samples are kept {partitions.RAW_DAYS} days")
    return device, boot << 32 | k, one.label, one.source, SOURCES[one.source], one.at


def _lock() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])


def _insert(rows: Sequence[Row], now: datetime) -> list[tuple[str, int]]:
    """Store labels that are not here yet; returns their samples."""
    arrays = [list(column) for column in zip(*rows, strict=True)]
    places = ", ".join(f"%s::{kind}[]" for kind in _COLUMNS)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO tele_label"  # noqa: S608 - constants
            " (device_id, sample, label, source, rank, at, received_at, probe_at, state, device_class)"
            f" SELECT t.*, %s, %s, 'pending', '' FROM unnest({places}) t"
            " ON CONFLICT DO NOTHING RETURNING device_id, sample",
            [now, now + _FIRST_PROBE, *arrays],
        )
        return list(cursor.fetchall())


_SETTLE: Final = """
WITH asked AS (
    SELECT * FROM unnest(%(devices)s::text[], %(samples)s::int8[]) AS a(device_id, sample)
), known AS (
    SELECT l.*, row_number() OVER (PARTITION BY l.device_id, l.sample
        ORDER BY l.rank DESC, l.at DESC, l.label DESC) AS place
    FROM tele_label l JOIN asked USING (device_id, sample)
), seen AS (
    SELECT DISTINCT ON (device_id, sample) device_id, sample, ts, version_id, top, device_class FROM (
        SELECT device_id, sample, ts, version_id, top, device_class, 0 AS late FROM known WHERE ts IS NOT NULL
        UNION ALL
        SELECT i.device_id, i.sample, i.ts, i.version_id, i.top, coalesce(d.device_class_id, ''), 1
        FROM tele_inference i JOIN asked a ON a.device_id = i.device_id AND a.sample = i.sample
        LEFT JOIN devices_device d ON d.id = i.device_id WHERE i.top >= 0
    ) x ORDER BY device_id, sample, late, ts
), decided AS (
    SELECT k.id, k.device_id, k.sample, k.source, k.label, k.place, k.state AS was,
        CASE WHEN k.place > 1 THEN 'superseded' WHEN s.ts IS NOT NULL THEN 'counted' ELSE k.state END
            AS becomes,
        s.ts, s.version_id, s.top, s.device_class
    FROM known k LEFT JOIN seen s USING (device_id, sample)
), moved AS (
    UPDATE tele_label l SET state = d.becomes, ts = d.ts, version_id = d.version_id, top = d.top,
        device_class = coalesce(d.device_class, '')
    FROM decided d WHERE l.id = d.id AND (d.becomes <> d.was OR l.ts IS DISTINCT FROM d.ts)
), change AS (
    SELECT device_id, device_class, source, ts, version_id, (label = top)::int AS ok,
        CASE becomes WHEN 'counted' THEN 1 ELSE -1 END AS one
    FROM decided WHERE becomes <> was AND 'counted' IN (becomes, was)
), hours AS (
    INSERT INTO tele_accuracy AS t (version_id, device_class, hour, kind, source, ingest_slot, n, ok)
    SELECT version_id, device_class, date_trunc('hour', ts, 'UTC'), 'delayed', source, 0, sum(one),
        sum(one * ok)
    FROM change GROUP BY 1, 2, 3, 5 ORDER BY 1, 2, 3, 5
    ON CONFLICT (version_id, device_class, hour, kind, source, ingest_slot) DO UPDATE SET
        n = t.n + EXCLUDED.n, ok = t.ok + EXCLUDED.ok
), days AS (
    INSERT INTO tele_device_day AS t (day, device_id, version_id, delayed_n, delayed_ok)
    SELECT date_trunc('day', ts, 'UTC'), device_id, version_id, sum(one), sum(one * ok) FROM change
    GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    ON CONFLICT (day, device_id, version_id) DO UPDATE SET
        delayed_n = t.delayed_n + EXCLUDED.delayed_n, delayed_ok = t.delayed_ok + EXCLUDED.delayed_ok
)
SELECT device_id, sample, becomes FROM decided WHERE place = 1
"""


def settle(keys: Iterable[tuple[str, int]]) -> dict[tuple[str, int], str]:
    """Decide which label of each sample counts and move the counts; returns the state of the deciding ones.

    Call it inside a transaction that holds the writers' lock. Safe to repeat.
    """
    devices, samples = [], []
    for device, sample in sorted(set(keys)):
        devices.append(device)
        samples.append(sample)
    if not devices:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(_SETTLE, {"devices": devices, "samples": samples})
        return {(device, sample): state for device, sample, state in cursor.fetchall()}
