"""Partitions by day or month: made ahead and on demand, dropped when their rows are past retention.

There is no default partition on purpose: a row without its partition is refused by PostgreSQL, not hidden in
a corner.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

from django.db import connection, transaction
from psycopg import sql


@dataclass(frozen=True)
class Partitioned:
    """How a table is cut. keep_days: its rows are kept so long. by_month: else by day. fillfactor: percent of
    a page that inserts may fill; less leaves room to update rows in their page.
    """

    keep_days: int
    by_month: bool = False
    fillfactor: int = 100

    def first(self, day: date) -> date:
        """First day of the partition that holds a day."""
        return day.replace(day=1) if self.by_month else day

    def end(self, day: date) -> date:
        """First day after the partition that holds a day."""
        if not self.by_month:
            return day + timedelta(days=1)
        return (day.replace(day=28) + timedelta(days=4)).replace(day=1)

    def suffix(self, day: date) -> str:
        """What the name of the partition that holds a day ends with."""
        return f"{day:%Y%m}" if self.by_month else f"{day:%Y%m%d}"


RAW_DAYS: Final = 30
MONTHS_13: Final = 396
TABLES: Final[Mapping[str, Partitioned]] = {
    "tele_window": Partitioned(RAW_DAYS),
    "tele_inference": Partitioned(RAW_DAYS),
    "tele_sketch": Partitioned(90),
    "tele_drift": Partitioned(90),
    "tele_minute": Partitioned(RAW_DAYS),
    "tele_dead": Partitioned(14),
    "tele_hour": Partitioned(MONTHS_13, by_month=True),
    "tele_hist": Partitioned(MONTHS_13, by_month=True),
    "tele_accuracy": Partitioned(MONTHS_13, by_month=True, fillfactor=70),
    "tele_device_day": Partitioned(MONTHS_13, by_month=True, fillfactor=70),
}
AHEAD_DAYS: Final = 7
MAX_FUTURE: Final = timedelta(hours=24)
_LOCK: Final = 0x7E1E_0001  # advisory lock of everyone who adds partitions
_NAME: Final = re.compile(r"(tele_[a-z_]+)_(\d{6})(\d{2})?")


def day_of(moment: datetime) -> date:
    """The UTC day whose partition holds this time."""
    return moment.astimezone(UTC).date()


def raw_from(now: datetime) -> datetime:
    """The oldest time of a record that is still taken."""
    return now - timedelta(days=RAW_DAYS)


def ensure(days: Iterable[date], *, tables: Iterable[str] = tuple(TABLES)) -> int:
    """Make the partitions of these days that do not exist; returns how many were made.

    Safe from many processes.

    Call it before the transaction that writes. Asks PostgreSQL each time (0.1 ms): a remembered answer would
    be wrong after a drop or a roll-back.
    """
    kept = set(days)
    wanted = {
        f"{table}_{TABLES[table].suffix(day)}": (table, TABLES[table].first(day))
        for table in tables
        for day in kept
    }
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
            parts = {
                "name": sql.Identifier(name),
                "parent": sql.Identifier(table),
                "fill": sql.Literal(TABLES[table].fillfactor),
                "first": sql.Literal(_midnight(day)),
                "last": sql.Literal(_midnight(TABLES[table].end(day))),
            }
            for statement in (
                "CREATE TABLE {name} (LIKE {parent} INCLUDING DEFAULTS) WITH (fillfactor = {fill})",
                "ALTER TABLE {parent} ATTACH PARTITION {name} FOR VALUES FROM ({first}) TO ({last})",
            ):
                cursor.execute(sql.SQL(statement).format(**parts))
    return len(missing)


def _midnight(day: date) -> str:
    return f"{day:%Y-%m-%d} 00:00:00+00"


def existing(table: str) -> dict[date, str]:
    """First days of a table's partitions, with the partition's name."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            " WHERE i.inhparent = to_regclass(%s)",
            [table],
        )
        return dict(dated([name for (name,) in cursor.fetchall()], table))


def dated(names: Iterable[str], table: str) -> Iterable[tuple[date, str]]:
    """Those of the names that are partitions of a table: (first day, name)."""
    for name in names:
        match = _NAME.fullmatch(name)
        if match and match[1] == table and bool(match[3]) != TABLES[table].by_month:
            yield datetime.strptime(match[2] + (match[3] or "01"), "%Y%m%d").date(), name


def make_ahead(now: datetime) -> int:
    """Make the partitions of yesterday up to AHEAD_DAYS from now; returns how many were made."""
    today = day_of(now)
    return ensure([today + timedelta(days=n) for n in range(-1, AHEAD_DAYS + 1)])
