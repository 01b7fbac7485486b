"""Day partitions: made ahead and on demand, dropped when their rows are past retention.

There is no default partition on purpose: a row without its day is refused by PostgreSQL, not hidden in a
corner.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Final

from django.db import connection, transaction
from psycopg import sql

RETENTION_DAYS: Final[Mapping[str, int]] = {
    "tele_window": 30,
    "tele_inference": 30,
    "tele_sketch": 90,
    "tele_minute": 30,
    "tele_dead": 14,
}
AHEAD_DAYS: Final = 7
MAX_FUTURE: Final = timedelta(hours=24)
_LOCK: Final = 0x7E1E_0001  # advisory lock of everyone who adds or drops partitions
_NAME: Final = re.compile(r"(tele_[a-z]+)_(\d{8})")


def day_of(moment: datetime) -> date:
    """The UTC day whose partition holds this time."""
    return moment.astimezone(UTC).date()


def raw_from(now: datetime) -> datetime:
    """The oldest time of a record that is still taken."""
    return now - timedelta(days=RETENTION_DAYS["tele_window"])


def ensure(days: Iterable[date], *, tables: Iterable[str] = tuple(RETENTION_DAYS)) -> int:
    """Make the partitions of these days that do not exist; returns how many were made.

    Safe from many processes.

    Call it before the transaction that writes. Asks PostgreSQL each time (0.1 ms): a remembered answer would
    be wrong after a drop or a roll-back.
    """
    wanted = {f"{table}_{day:%Y%m%d}": (table, day) for table in tables for day in set(days)}
    if not wanted:
        return 0
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relname = ANY(%s) AND relkind = 'r'", [list(wanted)]
        )
        missing = sorted(wanted.keys() - {name for (name,) in cursor.fetchall()})
    if not missing:
        return 0
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        for name in missing:
            table, day = wanted[name]
            # A table of its own, then ATTACH: CREATE ... PARTITION OF would lock out every reader of the
            # parent.
            cursor.execute("SELECT to_regclass(%s)", [name])
            if cursor.fetchone() != (None,):
                continue
            names = {"name": sql.Identifier(name), "parent": sql.Identifier(table)}
            bounds = {
                "first": sql.Literal(_midnight(day)),
                "last": sql.Literal(_midnight(day + timedelta(days=1))),
            }
            for statement in (
                "CREATE TABLE {name} (LIKE {parent} INCLUDING DEFAULTS)",
                "ALTER TABLE {parent} ATTACH PARTITION {name} FOR VALUES FROM ({first}) TO ({last})",
            ):
                cursor.execute(sql.SQL(statement).format(**names, **bounds))
    return len(missing)


def _midnight(day: date) -> str:
    return f"{day:%Y-%m-%d} 00:00:00+00"


def existing(table: str) -> dict[date, str]:
    """Days of a table that have a partition, with the partition's name."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            " WHERE i.inhparent = to_regclass(%s)",
            [table],
        )
        names = [name for (name,) in cursor.fetchall()]
    found = {}
    for name in names:
        if match := _NAME.fullmatch(name):
            found[datetime.strptime(match[2], "%Y%m%d").date()] = name
    return found


def make_ahead(now: datetime) -> int:
    """Make the partitions of yesterday up to AHEAD_DAYS from now; returns how many were made."""
    today = day_of(now)
    return ensure([today + timedelta(days=n) for n in range(-1, AHEAD_DAYS + 1)])


def drop_expired(now: datetime) -> list[str]:
    """Drop partitions whose whole day is past retention; returns their names.

    Waits at most 2 s for readers and leaves the rest to the next run: a DROP that waits behind a long export
    would make ingest wait behind the DROP.
    """
    dropped = []
    for table, days in RETENTION_DAYS.items():
        oldest = day_of(now - timedelta(days=days))
        for day, name in sorted(existing(table).items()):
            if day >= oldest:
                continue
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = '2s'")
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
                cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(name)))
            dropped.append(name)
    return dropped
