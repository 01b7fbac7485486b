"""What the telemetry tables hold: partitions, bytes, and when the next one leaves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from django.db import connection

from fleet.telemetry import partitions
from fleet.telemetry.partitions import TABLES, Partitioned


@dataclass(frozen=True)
class Kept:
    """A partitioned table. bytes: on disk, with indexes and TOAST. oldest: first day it has rows of at the
    earliest, None without a partition. next_drop: the day from which its oldest partition is past retention;
    it leaves at the next hourly run after that, minutes not before their hours are compacted.
    """

    table: str
    cut: Partitioned
    partitions: int
    bytes: int
    oldest: date | None
    next_drop: date | None


def kept() -> list[Kept]:
    """Every partitioned table in the order of TABLES, by one query of the catalogue."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT p.relname, c.relname, pg_total_relation_size(c.oid) FROM pg_inherits i"
            " JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent"
            " WHERE p.relname = ANY(%s) AND p.relkind = 'p'",
            [list(TABLES)],
        )
        found: dict[str, dict[str, int]] = {table: {} for table in TABLES}
        for table, name, size in cursor.fetchall():
            found[table][name] = size
    return [_kept(table, cut, found[table]) for table, cut in TABLES.items()]


def _kept(table: str, cut: Partitioned, sizes: Mapping[str, int]) -> Kept:
    days = [day for day, _ in partitions.dated(sizes, table)]
    oldest = min(days, default=None)
    # `retention._expired`: the partition's end is at most the day that is keep_days back
    leaves = None if oldest is None else cut.end(oldest) + timedelta(days=cut.keep_days)
    return Kept(table, cut, len(sizes), sum(sizes.values()), oldest, leaves)


def sizes(tables: Iterable[str]) -> dict[str, int]:
    """Bytes on disk of tables that are not partitioned, with indexes and TOAST; absent ones are left out."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname, pg_total_relation_size(oid) FROM pg_class"
            " WHERE relkind = 'r' AND relname = ANY(%s) AND pg_table_is_visible(oid)",
            [list(tables)],
        )
        return dict(cursor.fetchall())


def counted_dead(now: datetime) -> dict[str, int]:
    """Dead letters that are kept, by code, most first."""
    since = now - timedelta(days=TABLES["tele_dead"].keep_days)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT code, count(*) FROM tele_dead WHERE at >= %s GROUP BY code ORDER BY 2 DESC, 1", [since]
        )
        return dict(cursor.fetchall())
