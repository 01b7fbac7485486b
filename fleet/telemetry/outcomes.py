"""What gates ask: how each device did with one model over its own span of time. Raw windows, one statement.

The device is the unit: nothing here adds devices together, and a device without windows has no value at all.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.db import connection

from fleet.telemetry.errors import QueryError

METRICS: Final = {"accuracy": ("proxy",), "anomaly": ("", "proxy"), "reporting": ("", "proxy")}


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

    n: samples (labels, inferences or windows). mean: in [0, 1], higher is better, None when
    nothing arrived. windows: telemetry windows in the span."""

    n: int
    mean: float | None
    windows: int


def device_outcomes(spans: Sequence[Span], *, metric: str, kind: str = "") -> list[Outcome]:
    """One outcome per span, in the order of the spans.

    metric, kind: `accuracy` of kind `proxy` (agreeing labels / labels), `anomaly` (1 - share of anomalous
    inferences), `reporting` (windows seen / expected, at most 1). A window belongs to the span in which it
    ends. Raises QueryError `unknown_metric`, `kind_required`, `unknown_kind`.
    """
    if metric not in METRICS:
        raise QueryError("unknown_metric", f"{metric[:40]!r} is none of {', '.join(METRICS)}")
    if metric == "accuracy" and not kind:
        raise QueryError("kind_required", "accuracy needs a kind: proxy")
    if kind not in METRICS[metric]:
        raise QueryError("unknown_kind", f"kind {kind[:40]!r} of {metric} is not measured here")
    return [_outcome(span, sums, metric) for span, sums in zip(spans, _sums(spans), strict=True)]


def _outcome(span: Span, sums: tuple[int, int, int, int, int], metric: str) -> Outcome:
    windows, n, anom_n, lab_n, lab_ok = sums
    if metric == "accuracy":
        return Outcome(lab_n, lab_ok / lab_n if lab_n else None, windows)
    if metric == "anomaly":
        return Outcome(n, 1 - anom_n / n if n else None, windows)
    mean = min(1.0, windows / span.expected) if span.expected else None
    return Outcome(windows, mean, windows)


def _sums(spans: Sequence[Span]) -> list[tuple[int, int, int, int, int]]:
    """Windows, inferences, anomalous ones, labels and agreeing labels of each span."""
    if not spans:
        return []
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT x.windows, x.n, x.anom_n, x.lab_n, x.lab_ok FROM unnest(%s::int[], %s::text[], %s::text[],
            %s::timestamptz[], %s::timestamptz[]) AS s(i, device_id, mid, t0, t1) CROSS JOIN LATERAL ( SELECT
            count(*) AS windows, coalesce(sum(w.n), 0) AS n, coalesce(sum(w.anom_n), 0) AS anom_n,
            coalesce(sum(w.lab_n), 0) AS lab_n, coalesce(sum(w.lab_ok), 0) AS lab_ok FROM tele_window w WHERE
            w.device_id = s.device_id AND w.ts >= s.t0 AND w.ts < s.t1 AND (s.mid IS NULL OR w.version_id IN
            (SELECT v.id FROM tele_version v WHERE v.mid = s.mid)) ) x ORDER BY s.i """,
            [
                list(range(len(spans))),
                [span.device_id for span in spans],
                [span.mid for span in spans],
                [span.start for span in spans],
                [span.end for span in spans],
            ],
        )
        return [tuple(int(value) for value in row) for row in cursor.fetchall()]  # type: ignore[misc]


def has_window(device_ids: Collection[str], mid: str, since: datetime) -> set[str]:
    """Those of the devices that sent a window of this model (16 hex digits) ending at or after `since`."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT d.id FROM unnest(%s::text[]) AS d(id)
            WHERE EXISTS (
                SELECT 1 FROM tele_window w JOIN tele_version v ON v.id = w.version_id
                WHERE w.device_id = d.id AND w.ts >= %s AND v.mid = %s
            )
            """,
            [list(device_ids), since, mid],
        )
        return {device_id for (device_id,) in cursor.fetchall()}
