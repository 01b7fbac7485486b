"""What can be asked: metrics, their kinds and aggregations, and one checked form of a query (rest-api.md)."""

import re
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
MAX_RANGE: Final = timedelta(days=partitions.MONTHS_13)
GROUPS: Final = (
    "model", "version", "digest", "device_class", "rollout", "arm", "group", "firmware", "chip", "device",
)  # fmt: skip
COHORTS: Final = frozenset({"rollout", "arm", "group"})
OF_DEVICES: Final = COHORTS | {"firmware", "chip"}
"""Fields of devices, not of what they sent: rollout and arm as frozen at the start, the others as of now."""
FINE_STEPS_S: Final = (5, 10, 15, 20, 30)
ESTIMATE: Final = "estimate"
MEASURED: Final = ("golden", "delayed", "proxy")
KINDS: Final = (*MEASURED, ESTIMATE)
"""Kinds of accuracy: three that labels or vectors measure, and one without either (`estimates.py`)."""
_PERCENTILE: Final = re.compile(r"p(\d{1,3}(?:\.\d{1,3})?)")


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
            "share of labelled inferences whose class agrees; proxy: labels known on the device; golden:"
            " vectors of the self-test, as each sketch restates the last one; delayed: labels of sampled"
            " inferences that came later; estimate: no labels, mean confidence through a line that was"
            " fitted from some, and null with a reason unless drift was quiet",
            ("device_mean", "mean", "count"),
            KINDS,
        ),
        Metric(
            "anomaly_rate",
            "ratio",
            "share of inferences over the anomaly threshold",
            ("device_mean", "mean", "count"),
        ),
        Metric("inferences", "1", "inferences run", ("sum",)),
        Metric(
            "latency_us",
            "µs",
            "time of one inference on the device; percentiles from histograms, within 1 %, any from p0.001 to"
            " p99.999",
            ("mean", "max", "device_mean", "p50", "p95", "p99"),
        ),
        Metric(
            "confidence",
            "ratio",
            "mean top score; no accuracy: a fault can raise it",
            ("mean", "device_mean"),
        ),
        Metric(
            "class_mix",
            "ratio",
            "share of each class among the top classes of all inferences; a series per class, labelled"
            " `class` (63: every class from there on)",
            ("mean", "count"),
        ),
        Metric(
            "heap_min_free",
            "bytes",
            "lowest free heap that devices told of; from raw windows, 30 days",
            ("min",),
        ),
        Metric(
            "arena_used",
            "bytes",
            "most of the tensor arena that is in use; from raw sketches, 90 days",
            ("max",),
        ),
        Metric(
            "resets",
            "1",
            "resets that sketches tell of, for whatever reason; from raw sketches, 90 days; n: sketches",
            ("sum",),
        ),
    )
}


@dataclass(frozen=True)
class TelemetryQuery:
    """A question about [start, end) in steps of step_s seconds, aligned to the epoch in UTC.

    agg: "" takes the metric's default. group_by: of GROUPS, at most 3. models, versions, digests (mid, 16 hex
    digits), device_classes, devices, rollouts (ids), groups (names): filters, empty for all. q: a query over
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
    rollouts: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    q: str = ""
    limit: int | None = None

    @property
    def aggregation(self) -> str:
        """The aggregation asked for, or the metric's default."""
        return self.agg or METRICS[self.metric].aggs[0]

    @property
    def is_by_device(self) -> bool:
        """Whether devices must be told apart."""
        by_device = self.devices or "device" in self.group_by or self.aggregation == "device_mean"
        by_cohort = self.rollouts or self.groups or OF_DEVICES & set(self.group_by)
        return bool(by_device or by_cohort or (self.q and is_by_device(self.q)))

    @property
    def is_estimate(self) -> bool:
        """Whether it asks for what nobody measured."""
        return self.kind == ESTIMATE

    @property
    def is_of_bins(self) -> bool:
        """Whether histograms answer it: percentiles, and the mix of classes."""
        return self.metric == "class_mix" or self.percentile is not None

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels of each series."""
        return (*self.group_by, "class") if self.metric == "class_mix" else self.group_by

    @property
    def percentile(self) -> float | None:
        """Of `latency_us`: the percentile asked for, else None. Raises QueryError `quantile_range`."""
        if self.metric != "latency_us" or not self.agg.startswith("p"):
            return None
        match = _PERCENTILE.fullmatch(self.agg)
        if match is None or not 0 < float(match[1]) < 100:
            raise QueryError("quantile_range", f"a percentile is p0.001 to p99.999, not {self.agg[:40]!r}")
        return float(match[1])

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


def check(query: TelemetryQuery) -> None:
    """Refuse what makes no sense, before the database is asked. Raises QueryError with its code."""
    metric = METRICS.get(query.metric)
    if metric is None:
        raise QueryError("unknown_metric", f"{query.metric[:40]!r} is none of {', '.join(METRICS)}")
    _check_kind(query, metric)
    if query.percentile is None and query.aggregation not in metric.aggs:
        raise QueryError(
            "agg_not_supported", f"{metric.name} has {', '.join(metric.aggs)}, not {query.agg[:40]!r}"
        )
    if query.is_estimate and query.aggregation == "count":
        raise QueryError("agg_not_supported", "an estimate has no labels to count")
    _check_groups(query)
    _check_range(query)


def _check_kind(query: TelemetryQuery, metric: Metric) -> None:
    if not metric.kinds:
        if query.kind:
            raise QueryError("unknown_kind", f"{metric.name} has no kinds")
    elif not query.kind:
        raise QueryError("kind_required", f"{metric.name} needs a kind, one of {', '.join(KINDS)}")
    elif query.kind not in metric.kinds:
        raise QueryError("unknown_kind", f"kind {query.kind[:40]!r} is none of {', '.join(KINDS)}")


def _check_groups(query: TelemetryQuery) -> None:
    if len(query.group_by) > MAX_GROUPS or len(set(query.group_by)) != len(query.group_by):
        raise QueryError("group_by_not_supported", f"at most {MAX_GROUPS} different fields")
    for field in query.group_by:
        if field not in GROUPS:
            raise QueryError("group_by_not_supported", f"{field[:40]!r} is none of {', '.join(GROUPS)}")
    if "device" in query.group_by and not 1 <= len(query.devices) <= MAX_DEVICES:
        raise QueryError("group_by_not_supported", f"device needs a filter to 1..{MAX_DEVICES} devices")


def _check_range(query: TelemetryQuery) -> None:
    if query.start.tzinfo is None or query.end.tzinfo is None:
        raise QueryError("range_invalid", "from and to need an offset or Z")
    if query.start >= query.end:
        raise QueryError("range_invalid", "from is not before to")
    if query.end - query.start > MAX_RANGE:
        raise QueryError("range_too_wide", "at most 13 months")
    if query.is_of_bins:
        if query.step_s < 3600 or query.step_s % 3600:
            what = "class_mix has" if query.percentile is None else "percentiles have"
            raise QueryError("step_not_supported", f"{what} steps of whole hours")
    elif query.step_s < 1 or (query.step_s % 60 and query.step_s not in FINE_STEPS_S):
        fine = ", ".join(map(str, FINE_STEPS_S))
        raise QueryError("step_not_supported", f"step is a multiple of 60 s, or {fine} s from raw windows")
    if query.n_points > MAX_POINTS:
        whole_s = 3600 if query.is_of_bins else 60
        least = ceil((query.end - query.start).total_seconds() / (MAX_POINTS - 1) / whole_s) * whole_s
        raise QueryError(
            "too_many_points",
            f"{query.n_points:,} points a series, at most {MAX_POINTS:,}: step {least} s fits",
            least_step_s=least,
        )


def _floor(moment: datetime, step_s: int) -> datetime:
    """The start of the bucket that holds this time."""
    seconds = int(moment.timestamp() // step_s) * step_s
    return datetime.fromtimestamp(seconds, tz=moment.tzinfo)
