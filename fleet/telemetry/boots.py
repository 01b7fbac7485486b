"""Which counters of each boot have arrived, kept up by ingest in the transaction of the records.

A boot's counters are dense from 0, so what arrived says what is missing. It is kept as a set of ranges, one
range in the good case: adding to a set is idempotent and knows no order, so a redelivery, a permutation of
batches or two ingesting slots cannot make it wrong, and it needs neither the rows that were inserted (a count
would) nor raw rows, which retention takes away.
"""

# ruff: noqa: S608 - statements are put together from constants of this module only

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from django.db import connection

from fleet.mqtt.codec.telemetry import Batch

_ALL: Final = "(t.counters + EXCLUDED.counters)"
_KNOWN: Final = f"({_ALL} + t.filled)"


def _size(ranges: str) -> str:
    return f"(SELECT sum(upper(r) - lower(r)) FROM unnest({ranges}) r)"


def _is_whole(ranges: str) -> str:
    return f"{ranges} = int8multirange(int8range(0, upper({ranges})))"


# `unsettled_at` changes only with gaps: PostgreSQL can then update the row in its page, without its indexes.
_ADD: Final = f"""
    INSERT INTO tele_boot AS t (device_id, boot, highest, received, heard_at, unsettled_at, counters)
    SELECT device_id, boot, upper(m) - 1, {_size("m")}, %(now)s,
        CASE WHEN {_is_whole("m")} THEN NULL ELSE %(now)s::timestamptz END, m
    FROM (
        SELECT device_id, boot, range_agg(int8range(first, after)) AS m
        FROM unnest(%(devices)s::text[], %(boots)s::bigint[], %(firsts)s::bigint[], %(ends)s::bigint[])
            AS b (device_id, boot, first, after) GROUP BY 1, 2
    ) x ORDER BY 1, 2
    ON CONFLICT (device_id, boot) DO UPDATE SET counters = {_ALL}, highest = upper({_ALL}) - 1,
        received = {_size(_ALL)} - t.scattered, heard_at = greatest(t.heard_at, EXCLUDED.heard_at),
        unsettled_at = CASE WHEN {_is_whole(_KNOWN)} AND NOT {_ALL} && t.filled THEN NULL
            ELSE coalesce(t.unsettled_at, EXCLUDED.heard_at) END
    WHERE NOT t.counters @> EXCLUDED.counters
"""


def record(batches: Sequence[tuple[str, Batch]], *, now: datetime) -> int:
    """Note that every record of these batches has arrived, in the caller's transaction.

    batches: (device id, batch), in any order and any number of times. now: their arrival. Returns how many
    boots had something new. Boots are taken in key order, so that two slots do not wait for each other in a
    circle. Raises django.db.Error.
    """
    if not batches:
        return 0
    devices, boots, firsts, ends = (list(column) for column in zip(*merged_ranges(batches), strict=True))
    with connection.cursor() as cursor:
        cursor.execute(_ADD, {"now": now, "devices": devices, "boots": boots, "firsts": firsts, "ends": ends})
        return int(cursor.rowcount)


def merged_ranges(batches: Sequence[tuple[str, Batch]]) -> list[tuple[str, int, int, int]]:
    """(device id, boot, first counter, end), those that touch or overlap as one: sending 20,000 batches of a
    record each to the database costs more than putting them together here.
    """
    spans = sorted(
        (
            device_id,
            one.boot,
            one.first,
            one.first + len(one.windows) + len(one.inferences) + len(one.sketches),
        )
        for device_id, one in batches
    )
    device_id, boot, first, end = spans[0]
    found = []
    for span in spans:
        if span[0] == device_id and span[1] == boot and span[2] <= end:
            end = max(end, span[3])
        else:
            found.append((device_id, boot, first, end))
            device_id, boot, first, end = span
    found.append((device_id, boot, first, end))
    return found
