"""Partitions past retention leave, without a lock that ingest or a reader would wait for.

`DETACH ... CONCURRENTLY` waits until nobody reads the partition any more, then the table of its own is
dropped. Both may be cut short at any point; the next run goes on from there.
"""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Final

import structlog
from django.db import OperationalError, connection
from psycopg import sql

from fleet.telemetry import cold, partitions
from fleet.telemetry.partitions import TABLES

log = structlog.get_logger(__name__)
WAIT_S: Final = 2


def drop_expired(now: datetime) -> list[str]:
    """Drop partitions whose whole time is past retention; returns their names.

    A partition that is read for more than WAIT_S stays for the next run, and minutes stay until their hours
    are compacted. With a cold tier a raw partition stays until it is in there (`cool_expired`). Must not be
    called inside a transaction: PostgreSQL refuses to detach concurrently there.
    """
    dropped = []
    for table, name, _ in list(_expired(now)):
        if cold.is_on() and table in cold.KINDS and not cold.is_exported(name):
            continue
        try:
            _detach(table, name)
            with connection.cursor() as cursor:
                cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(name)))
        except OperationalError as error:  # somebody reads it
            log.info("partition_kept", partition=name, reason=str(error).strip())
            continue
        finally:
            _set_wait(None)
        dropped.append(name)
    return dropped


def cool_expired(now: datetime) -> list[str]:
    """Export the raw partitions that are past retention to the cold tier, when there is one; names of those
    that are new there. Takes as long as they are large (`cold.export_partitions`).
    """
    return cold.export_partitions(list(_expired(now)), now=now) if cold.is_on() else []


def _expired(now: datetime) -> Iterator[tuple[str, str, date]]:
    """(table, partition, its first day) of what is past retention, those included that were detached but not
    dropped.
    """
    for table, cut in TABLES.items():
        oldest = partitions.day_of(now - timedelta(days=cut.keep_days))
        for day, name in sorted(_all(table)):
            if cut.end(day) <= oldest and (table != "tele_minute" or _is_compacted(day)):
                yield table, name, day


def _all(table: str) -> list[tuple[date, str]]:
    """Partitions of a table by their names, attached or not: `ensure` makes and attaches in one transaction,
    so one that stands alone was detached.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE %s", [f"{table}\\_%"]
        )
        return list(partitions.dated([name for (name,) in cursor.fetchall()], table))


def _is_compacted(day: date) -> bool:
    """Whether the hours of a day have taken over what its minutes know."""
    end = day + timedelta(days=1)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce((SELECT until >= %(end)s::date AT TIME ZONE 'UTC' FROM tele_compaction"
            " WHERE name = 'hour'), false) AND NOT EXISTS (SELECT 1 FROM tele_dirty"
            " WHERE hour >= %(day)s::date AT TIME ZONE 'UTC' AND hour < %(end)s::date AT TIME ZONE 'UTC')",
            {"day": day, "end": end},
        )
        return bool(cursor.fetchone()[0])


def _detach(table: str, name: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT i.inhdetachpending FROM pg_inherits i WHERE i.inhrelid = to_regclass(%s)", [name]
        )
        attached = cursor.fetchone()
        if attached is None:
            return
        _set_wait(WAIT_S)
        how = "FINALIZE" if attached[0] else "CONCURRENTLY"
        cursor.execute(
            sql.SQL("ALTER TABLE {} DETACH PARTITION {} " + how).format(
                sql.Identifier(table), sql.Identifier(name)
            )
        )


def _set_wait(seconds: int | None) -> None:
    with connection.cursor() as cursor:
        cursor.execute("RESET lock_timeout" if seconds is None else f"SET lock_timeout = '{seconds}s'")
