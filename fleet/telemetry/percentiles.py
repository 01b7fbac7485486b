"""Percentiles of latency and the mix of classes, from histograms.

Compacted days and hours with what is live, or raw sketches.
"""

# ruff: noqa: S608 - statements are put together from constants and the SQL of query sets

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from fleet.telemetry import histograms, rollups
from fleet.telemetry.catalogue import TelemetryQuery
from fleet.telemetry.histograms import CLASS, DAY_S, HOUR_S, LATENCY, Counts
from fleet.telemetry.selection import Condition
from fleet.telemetry.sources import MINUTES, SKETCHES, Source, fits
from fleet.telemetry.sources import kept as kept_source
from fleet.telemetry.statements import frame

_VERSION: Final = "JOIN tele_version v ON v.id = w.version_id"


def choose(query: TelemetryQuery, *, now: datetime) -> Source:
    """Days or hours of a model run and class; sketches where devices are told apart or hours are cut.

    Raises QueryError `raw_expired`.
    """
    if query.is_by_device or not fits(query, HOUR_S, now=now):
        return kept_source(SKETCHES, query, now)
    name = "day" if fits(query, DAY_S, now=now) else "hour"
    return replace(MINUTES, name=name, table=f"tele_hist w {_VERSION}", time="w.start")


def statement(
    question: TelemetryQuery, source: Source, selected: Condition | None
) -> tuple[str, dict[str, Any]]:
    """Rows of (bucket, label..., bin, counts, n): a packed histogram from a bin on, or the n of one bin.

    One statement, one snapshot: compaction moves bins from one table to the other.
    """
    metric = LATENCY if question.percentile is not None else CLASS
    keys, chosen, where, parameters = frame(question, source, selected)
    if source.has_devices:
        return (
            f"SELECT {chosen}, k.bin, NULL::bytea, sum(k.n) FROM {source.table}"
            f" CROSS JOIN LATERAL ({rollups.BINS}) k".replace("f.body", "w.body")
            + f" WHERE {where} AND k.metric = {metric} GROUP BY {keys}, k.bin"
        ), parameters
    _, live_chosen, live_where, _ = frame(question, replace(source, time="w.hour"), selected)
    parts = [
        f"SELECT {live_chosen}, w.bin, NULL::bytea, sum(w.n) FROM tele_hist_live w {_VERSION}"
        f" WHERE {live_where} AND w.metric = {metric} GROUP BY {keys}, w.bin"
    ]
    stored = f"SELECT {chosen}, w.first_bin, w.counts, w.n::numeric FROM {source.table}"
    is_one = f"w.metric = {metric} AND w.span_s"
    hours = f"{stored} WHERE {where} AND {is_one} = {HOUR_S}"
    if source.name == "day":
        parts.append(f"{stored} WHERE {where} AND {is_one} = {DAY_S}")
        hours += (
            f" AND NOT EXISTS (SELECT 1 FROM tele_hist o WHERE o.metric = {metric} AND o.span_s = {DAY_S}"
            " AND o.start = date_trunc('day', w.start, 'UTC') AND o.start >= %(start)s AND o.start < %(end)s"
            " AND o.version_id = w.version_id AND o.device_class = w.device_class)"
        )
    return " UNION ALL ".join(f"({part})" for part in [*parts, hours]), parameters


def answer(percent: float, rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Rows of `statement` as (bucket, label..., percentile in µs, None, None, inferences)."""
    return [
        (*key, histograms.quantile_us(counts, percent), None, None, int(counts.sum()))
        for key, counts in _added(LATENCY, rows).items()
    ]


def mix(rows: Iterable[tuple[Any, ...]], *, is_share: bool) -> list[tuple[Any, ...]]:
    """Rows of `statement` as (bucket, label..., class, its share or count, None, None, inferences).

    A class that a group ever had is 0 in its other buckets with inferences, not absent.
    """
    found = _added(CLASS, rows)
    seen: dict[tuple[Any, ...], Counts] = {}
    for (_, *group), counts in found.items():
        seen.setdefault(tuple(group), histograms.empty(CLASS))[:] += counts
    return [
        (*key, number, counts[number] / n if is_share else float(counts[number]), None, None, n)
        for key, counts in found.items()
        if (n := int(counts.sum()))
        for number in map(int, seen[key[1:]].nonzero()[0])
    ]


def _added(metric: int, rows: Iterable[tuple[Any, ...]]) -> dict[tuple[Any, ...], Counts]:
    found: dict[tuple[Any, ...], Counts] = {}
    for *key, number, packed, n in rows:
        counts = found.setdefault(tuple(key), histograms.empty(metric))
        if packed is None:
            counts[number] += int(n)
        else:
            histograms.add_packed(counts, number, packed)
    return found
