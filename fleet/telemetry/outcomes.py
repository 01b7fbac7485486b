"""What gates ask: how each device did with one model over its own span of time. Raw windows, one statement.

The device is the unit: nothing here adds devices together, and a device without windows has no value at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.db import connection
from django.db.models import QuerySet

from fleet.telemetry.errors import QueryError

METRICS: Final = {
    "accuracy": ("proxy", "estimate"),
    "anomaly": ("", "proxy"),
    "reporting": ("", "proxy"),
    "latency": ("",),
    "resets": ("",),
}


@dataclass(frozen=True)
class Span:
    """A device and the half-open time [start, end) to look at.

    mid: 16 hex digits, or None for any model. expected: windows a device that reports all the time would
    send; read by metric `reporting` alone.
    """

    device_id: str
    mid: str | None
    start: datetime
    end: datetime
    expected: float | None = None


@dataclass(frozen=True)
class Outcome:
    """How a device did.

    n: samples (labels, inferences, windows or slots). mean: in [0, 1], higher is better, None when
    nothing arrived. windows: telemetry windows in the span."""

    n: int
    mean: float | None
    windows: int


def device_outcomes(
    spans: Sequence[Span],
    *,
    metric: str,
    kind: str = "",
    budget_us: int | None = None,
    slot_s: float | None = None,
) -> list[Outcome]:
    """One outcome per span, in the order of the spans.

    metric, kind: `accuracy` of kind `proxy` (agreeing labels / labels) or `estimate` (mean top score,
    weighted by inferences), `anomaly` (1 - share of anomalous inferences), `reporting` (windows seen /
    expected, at most 1), `latency` (share of windows with inferences whose mean time is at most
    `budget_us`), `resets` (share of slots of `slot_s` seconds without an unexpected reset, of those in which
    the device was heard).
    A window belongs to the span in which it ends. Raises QueryError `unknown_metric`, `kind_required`,
    `unknown_kind`, and `budget_required` where the budget or the slot is missing.
    """
    if metric not in METRICS:
        raise QueryError("unknown_metric", f"{metric[:40]!r} is none of {', '.join(METRICS)}")
    if metric == "accuracy" and not kind:
        raise QueryError("kind_required", "accuracy needs a kind: proxy or estimate")
    if kind not in METRICS[metric]:
        raise QueryError("unknown_kind", f"kind {kind[:40]!r} of {metric} is not measured here")
    if metric == "latency" and not budget_us:
        raise QueryError("budget_required", "latency needs a budget in microseconds")
    if metric == "resets":
        if not slot_s or slot_s <= 0:
            raise QueryError("budget_required", "resets needs a slot length in seconds")
        return _slots(spans, slot_s)
    key = f"{metric}:{kind}" if metric == "accuracy" else metric
    return [_outcome(span, sums, key) for span, sums in zip(spans, _sums(spans, budget_us or 0), strict=True)]


@dataclass(frozen=True)
class _Sums:
    """Windows of one span and what they add up to."""

    windows: int
    n: int
    anom_n: int
    lab_n: int
    lab_ok: int
    score: int
    busy: int
    in_budget: int


def _outcome(span: Span, sums: _Sums, key: str) -> Outcome:
    if key == "reporting":
        mean = min(1.0, sums.windows / span.expected) if span.expected else None
        return Outcome(sums.windows, mean, sums.windows)
    n, good = {
        "accuracy:proxy": (sums.lab_n, float(sums.lab_ok)),
        "accuracy:estimate": (sums.n, sums.score / 1e4),
        "anomaly": (sums.n, float(sums.n - sums.anom_n)),
        "latency": (sums.busy, float(sums.in_budget)),
    }[key]
    return Outcome(n, good / n if n else None, sums.windows)


def _sums(spans: Sequence[Span], budget_us: int) -> list[_Sums]:
    """What the windows of each span add up to. budget_us: 0 when nobody asks for it."""
    if not spans:
        return []
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT x.windows, x.n, x.anom_n, x.lab_n, x.lab_ok, x.score, x.busy, x.in_budget
            FROM unnest(%s::int[], %s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[])
                AS s(i, device_id, mid, t0, t1)
            CROSS JOIN LATERAL (
                SELECT count(*) AS windows, coalesce(sum(w.n), 0) AS n, coalesce(sum(w.anom_n), 0) AS anom_n,
                    coalesce(sum(w.lab_n), 0) AS lab_n, coalesce(sum(w.lab_ok), 0) AS lab_ok,
                    coalesce(sum(w.score::bigint * w.n), 0) AS score,
                    count(*) FILTER (WHERE w.n > 0) AS busy,
                    count(*) FILTER (WHERE w.n > 0 AND w.us_mean <= %s) AS in_budget
                FROM tele_window w
                WHERE w.device_id = s.device_id AND w.ts >= s.t0 AND w.ts < s.t1 AND (s.mid IS NULL
                    OR w.version_id IN (SELECT v.id FROM tele_version v WHERE v.mid = s.mid))
            ) x ORDER BY s.i
            """,
            [*_arrays(spans), budget_us],
        )
        return [_Sums(*(int(value) for value in row)) for row in cursor.fetchall()]


def _slots(spans: Sequence[Span], slot_s: float) -> list[Outcome]:
    """Slots in which a device was heard, and the share of them without an unexpected reset.

    A reset is the first report of a boot whose reason is neither power nor a restart that was asked for; its
    time is that report's arrival. The model it ran then is not told, so `mid` narrows the windows only.
    """
    if not spans:
        return []
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT x.slots, x.bad, x.windows
            FROM unnest(%s::int[], %s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[])
                AS s(i, device_id, mid, t0, t1)
            CROSS JOIN LATERAL (
                SELECT count(*) AS slots, count(*) FILTER (WHERE y.resets > 0) AS bad,
                    coalesce(sum(y.windows), 0) AS windows
                FROM (
                    SELECT z.slot, sum(z.reset) AS resets, sum(1 - z.reset) AS windows FROM (
                        SELECT floor(extract(epoch FROM w.ts - s.t0) / %s) AS slot, 0 AS reset
                        FROM tele_window w
                        WHERE w.device_id = s.device_id AND w.ts >= s.t0 AND w.ts < s.t1 AND (s.mid IS NULL
                            OR w.version_id IN (SELECT v.id FROM tele_version v WHERE v.mid = s.mid))
                        UNION ALL
                        SELECT floor(extract(epoch FROM e.at - s.t0) / %s), 1
                        FROM devices_deviceevent e
                        WHERE e.device_id = s.device_id AND e.at >= s.t0 AND e.at < s.t1
                            AND e.kind = 'boot' AND e.code <> ''
                    ) z GROUP BY z.slot
                ) y
            ) x ORDER BY s.i
            """,
            [*_arrays(spans), slot_s, slot_s],
        )
        return [
            Outcome(int(slots), 1 - int(bad) / int(slots) if windows else None, int(windows))
            for slots, bad, windows in cursor.fetchall()
        ]


def _arrays(spans: Sequence[Span]) -> list[list[Any]]:
    return [
        list(range(len(spans))),
        [span.device_id for span in spans],
        [span.mid for span in spans],
        [span.start for span in spans],
        [span.end for span in spans],
    ]


def count_reporting(devices: QuerySet[Any, str], mid: str, since: datetime) -> int:
    """How many of the devices sent a window of this model (16 hex digits) ending at or after `since`.

    devices: selects ids. The newest window of nearly every device answers for it; raw windows are looked
    through for the others alone.
    """
    selected, parameters = devices.query.sql_with_params()
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM tele_version WHERE mid = %s", [mid])
        versions = [number for (number,) in cursor.fetchall()]
        if not versions:
            return 0
        cursor.execute(
            f"""
            SELECT count(*) FROM ({selected}) AS d(id)
            LEFT JOIN tele_device_last l ON l.device_id = d.id
            WHERE l.ts >= %s AND l.version_id = ANY(%s) OR EXISTS (
                SELECT 1 FROM tele_window w
                WHERE w.device_id = d.id AND w.ts >= %s AND w.version_id = ANY(%s)
            )
            """,  # noqa: S608 - the SQL of a query set, its values are parameters
            [*parameters, since, versions, since, versions],
        )
        return int(cursor.fetchone()[0])
