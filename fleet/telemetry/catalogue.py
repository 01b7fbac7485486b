"""What can be asked: metrics, their kinds and aggregations, and one checked form of a query (rest-api.md)."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from typing import Final

from fleet.telemetry import partitions
from fleet.telemetry.errors import QueryError
from fleet.telemetry.fields import is_by_device

MAX_POINTS: Final = 2000
MAX_SERIES: Final = 50
MAX_DEVICES: Final = 200
MAX_GROUPS: Final = 3
MAX_RANGE: Final = timedelta(days=396)
GROUPS: Final = ("model", "version", "digest", "device_class", "device")
FINE_STEPS_S: Final = (5, 10, 15, 20, 30)
KINDS: Final = ("golden", "delayed", "proxy", "estimate")


@dataclass(frozen=True)
class Metric:
    """A measured quantity. kinds: those that exist, empty when the metric has none. aggs: default first."""

    name: str
    unit: str
    text: str
    aggs: tuple[str, ...]
    kinds: tuple[str, ...] = ()


METRICS: Final[Mapping[str, Metric]] = {
    metric.name: metric
    for metric in (
        Metric(
            "accuracy",
            "ratio",
            "share of labelled inferences whose class agrees; proxy: labels known on the device",
            ("device_mean", "mean", "count"),
            ("proxy",),
        ),
        Metric(
            "anomaly_rate",
            "ratio",
            "share of inferences over the anomaly threshold",
            ("device_mean", "mean", "count"),
        ),
        Metric("inferences", "1", "inferences run", ("sum",)),
        Metric("latency_us", "µs", "time of one inference on the device", ("mean", "max", "device_mean")),
    )
}


@dataclass(frozen=True)
class TelemetryQuery:
    """A question about [start, end) in steps of step_s seconds, aligned to the epoch in UTC.

    agg: "" takes the metric's default. group_by: of GROUPS, at most 3. models, versions, digests (mid, 16 hex
    digits), device_classes, devices: filters, empty for all. q: a query over
    `fleet.telemetry.fields.FIELDS`. limit: keep the series with the most samples.
    """

    metric: str
    start: datetime
    end: datetime
    step_s: int
    kind: str = ""
    agg: str = ""
    group_by: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    device_classes: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    q: str = ""
    limit: int | None = None

    @property
    def aggregation(self) -> str:
        """The aggregation asked for, or the metric's default."""
        return self.agg or METRICS[self.metric].aggs[0]

    @property
    def source(self) -> str:
        """`minute` when the rollup can answer, else `raw`."""
        by_device = self.devices or "device" in self.group_by or self.aggregation == "device_mean"
        is_raw = by_device or self.step_s % 60 or (self.q and is_by_device(self.q))
        return "raw" if is_raw else "minute"

    @property
    def n_points(self) -> int:
        """Points of each series."""
        step = timedelta(seconds=self.step_s)
        first = _floor(self.start, self.step_s)
        return ceil((self.end - first) / step)

    def buckets(self) -> list[datetime]:
        """Starts of the buckets, the first one aligned to the epoch."""
        first = _floor(self.start, self.step_s)
        return [first + timedelta(seconds=self.step_s * i) for i in range(self.n_points)]


def check(query: TelemetryQuery, *, now: datetime) -> None:
    """Refuse what cannot be answered, before the database is asked. Raises QueryError with its code."""
    metric = METRICS.get(query.metric)
    if metric is None:
        raise QueryError("unknown_metric", f"{query.metric[:40]!r} is none of {', '.join(METRICS)}")
    _check_kind(query, metric)
    if query.aggregation not in metric.aggs:
        raise QueryError(
            "agg_not_supported", f"{metric.name} has {', '.join(metric.aggs)}, not {query.agg[:40]!r}"
        )
    _check_groups(query)
    _check_range(query, now)


def _check_kind(query: TelemetryQuery, metric: Metric) -> None:
    if not metric.kinds:
        if query.kind:
            raise QueryError("unknown_kind", f"{metric.name} has no kinds")
    elif not query.kind:
        raise QueryError("kind_required", f"{metric.name} needs a kind, one of {', '.join(KINDS)}")
    elif query.kind not in metric.kinds:
        word = "not measured yet" if query.kind in KINDS else f"none of {', '.join(KINDS)}"
        raise QueryError("unknown_kind", f"kind {query.kind[:40]!r} is {word}")


def _check_groups(query: TelemetryQuery) -> None:
    if len(query.group_by) > MAX_GROUPS or len(set(query.group_by)) != len(query.group_by):
        raise QueryError("group_by_not_supported", f"at most {MAX_GROUPS} different fields")
    for field in query.group_by:
        if field not in GROUPS:
            raise QueryError("group_by_not_supported", f"{field[:40]!r} is none of {', '.join(GROUPS)}")
    if "device" in query.group_by and not 1 <= len(query.devices) <= MAX_DEVICES:
        raise QueryError("group_by_not_supported", f"device needs a filter to 1..{MAX_DEVICES} devices")


def _check_range(query: TelemetryQuery, now: datetime) -> None:
    if query.start.tzinfo is None or query.end.tzinfo is None:
        raise QueryError("range_invalid", "from and to need an offset or Z")
    if query.start >= query.end:
        raise QueryError("range_invalid", "from is not before to")
    if query.end - query.start > MAX_RANGE:
        raise QueryError("range_too_wide", "at most 13 months")
    is_fine = query.step_s in FINE_STEPS_S
    if query.step_s < 1 or (query.step_s % 60 and not is_fine):
        fine = ", ".join(map(str, FINE_STEPS_S))
        raise QueryError("step_not_supported", f"step is a multiple of 60 s, or {fine} s from raw windows")
    if query.n_points > MAX_POINTS:
        least = ceil((query.end - query.start).total_seconds() / (MAX_POINTS - 1) / 60) * 60
        raise QueryError(
            "too_many_points",
            f"{query.n_points:,} points a series, at most {MAX_POINTS:,}: step {least} s fits",
            least_step_s=least,
        )
    oldest = partitions.day_of(partitions.raw_from(now))
    if partitions.day_of(query.start) < oldest:
        raise QueryError("raw_expired", f"kept are 30 days: available from {oldest:%Y-%m-%d}T00:00:00Z")


def _floor(moment: datetime, step_s: int) -> datetime:
    """The start of the bucket that holds this time."""
    seconds = int(moment.timestamp() // step_s) * step_s
    return datetime.fromtimestamp(seconds, tz=moment.tzinfo)
