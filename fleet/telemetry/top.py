"""The devices with the largest share of anomalous inferences, from days of a device or from raw windows."""

# ruff: noqa: S608 - statements are put together from constants and the SQL of query sets

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from fleet.telemetry import gap_times, partitions, sources
from fleet.telemetry.catalogue import MAX_RANGE
from fleet.telemetry.errors import QueryError
from fleet.telemetry.rows import rows_of
from fleet.telemetry.selection import condition

MOST: Final = 500
_Z: Final = 1.959963984540054  # two-sided 95 %


@dataclass(frozen=True)
class Anomalous:
    """One device. value: anomalies / inferences. lower: what that share is at least, Wilson, 95 %.

    anomaly_max: highest score, in units of the score.
    """

    device_id: str
    device_class: str
    inferences: int
    anomalies: int
    value: float
    lower: float
    anomaly_max: float


@dataclass(frozen=True)
class TopResult:
    """An answer, as `series.TelemetryResult`. step_s: 86,400 from days, None from raw windows."""

    source: str
    step_s: int | None
    start: datetime
    end: datetime
    as_of: datetime
    items: list[Anomalous]
    gaps: int


def top_anomalous(
    *,
    now: datetime,
    start: datetime | None = None,
    end: datetime | None = None,
    q: str = "",
    limit: int = 20,
    exact: bool = False,
) -> TopResult:
    """The devices with the highest lower bound of their anomaly share, so that three inferences top nothing.

    start, end: whole UTC days; by default yesterday and today so far. exact: any range, from raw windows,
    slower. q: as in a telemetry query. limit: 1..500. Raises QueryError `limit`, `range_invalid`,
    `range_too_wide`, `raw_expired`, `query_timeout`, and what `selection.condition` raises.
    """
    selected = condition(q, now=now) if q else None
    if not 1 <= limit <= MOST:
        raise QueryError("limit", f"limit is 1..{MOST}, not {limit}")
    midnight = datetime.combine(partitions.day_of(now), datetime.min.time(), UTC)
    start = start or (now - timedelta(hours=24) if exact else midnight - timedelta(days=1))
    end = end or now
    source = _source(start, end, now=now, exact=exact)
    where = [f"{source.time} >= %(start)s", f"{source.time} < %(end)s"]
    parameters: dict[str, Any] = {"start": start, "end": end, "limit": limit, "z": _Z}
    if selected is not None:
        where.append(selected.sql)
        parameters |= selected.parameters
    table = "tele_window" if exact else "tele_device_day"
    rows = rows_of(
        f"""
        SELECT y.device_id, coalesce(d.device_class_id, ''), n, a, p, lower, top FROM (
            SELECT device_id, n, a, p, greatest(0,
                (p + %(z)s ^ 2 / (2 * n) - %(z)s * sqrt(p * (1 - p) / n + %(z)s ^ 2 / (4 * n::float8 ^ 2)))
                / (1 + %(z)s ^ 2 / n)) AS lower, top
            FROM (
                SELECT w.device_id, sum(w.n::float8) AS n, sum(w.anom_n::float8) AS a,
                    sum(w.anom_n::float8) / sum(w.n::float8) AS p, max(w.anom_max) AS top
                FROM {table} w WHERE {" AND ".join(where)}
                GROUP BY w.device_id HAVING sum(w.anom_n::float8) > 0
            ) x ORDER BY lower DESC, device_id LIMIT %(limit)s
        ) y LEFT JOIN devices_device d ON d.id = y.device_id ORDER BY lower DESC, y.device_id
        """,
        parameters,
    )
    return TopResult(
        source.name,
        None if exact else sources.DAY_S,
        start,
        end,
        min(now, end),
        [Anomalous(d, c, int(n), int(a), p, lower, top / 1000) for d, c, n, a, p, lower, top in rows],
        gap_times.touching(
            start,
            end,
            where=selected.sql if selected else "",
            parameters=selected.parameters if selected else None,
        ),
    )


def _source(start: datetime, end: datetime, *, now: datetime, exact: bool) -> sources.Source:
    if start.tzinfo is None or end.tzinfo is None:
        raise QueryError("range_invalid", "from and to need an offset or Z")
    if start >= end:
        raise QueryError("range_invalid", "from is not before to")
    if end - start > MAX_RANGE:
        raise QueryError("range_too_wide", "at most 13 months")
    if exact:
        oldest = partitions.day_of(partitions.raw_from(now))
        if partitions.day_of(start) < oldest:
            raise QueryError(
                "raw_expired",
                f"raw windows are kept {partitions.RAW_DAYS} days, from {oldest:%Y-%m-%d}T00:00:00Z on;"
                " whole UTC days without `exact` reach 13 months back",
                least_step_s=sources.DAY_S,
                available_from=datetime.combine(oldest, datetime.min.time(), UTC),
            )
        return sources.WINDOWS
    day_s = sources.DAY_S
    if start.timestamp() % day_s or (end < now and end.timestamp() % day_s):
        raise QueryError("range_invalid", "whole UTC days are asked for, or `exact=true` for any range")
    return sources.DEVICE_DAYS
