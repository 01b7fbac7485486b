"""Telemetry queries."""

import dataclasses
from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from ninja import Query, Router
from pydantic import Field

from fleet.api import within
from fleet.api.asked import Asked
from fleet.api.auth import Scope
from fleet.api.moments import Moment
from fleet.api.render import stamp
from fleet.api.routes.devices import Strict
from fleet.telemetry import queries

router = Router(tags=["telemetry"])
MAX_PERCENTILES = 5


class Filters(Strict):
    """Which rows count; an empty list means all."""

    models: list[str] = Field(default_factory=list, max_length=50)
    versions: list[str] = Field(default_factory=list, max_length=50)
    digests: list[str] = Field(default_factory=list, max_length=50)
    device_classes: list[str] = Field(default_factory=list, max_length=50)
    devices: list[str] = Field(default_factory=list, max_length=200)
    rollouts: list[str] = Field(default_factory=list, max_length=50)
    groups: list[str] = Field(default_factory=list, max_length=50)


class QueryBody(Strict):
    """A question about telemetry. step: seconds. q: a query as the device list takes it, also over `model`,
    `version`, `digest` of what reported and `rollout`, the id of a rollout whose devices count.
    """

    metric: str = Field(max_length=32)
    kind: str = Field("", max_length=16)
    agg: str = Field("", max_length=16)
    group_by: list[str] = Field(default_factory=list, max_length=8)
    filters: Filters = Field(default_factory=Filters)
    q: str = Field("", max_length=2_000)
    start: Moment = Field(alias="from")
    end: Moment = Field(alias="to")
    step: int = Field(3600, ge=1, le=31 * 86_400)
    limit: int | None = Field(None, ge=1, le=50)


@router.post("/telemetry:query", auth=Scope("telemetry:read", knows_limits=True), response=dict[str, Any])
def query(request: HttpRequest, body: QueryBody) -> Any:
    """Answer a telemetry question: series of [time, value, lower, upper, n_devices, n]."""
    asked = queries.TelemetryQuery(
        metric=body.metric,
        start=body.start,
        end=body.end,
        step_s=body.step,
        kind=body.kind,
        agg=body.agg,
        group_by=tuple(body.group_by),
        q=within.narrowed(request, body.q.strip()),
        limit=body.limit,
        models=tuple(body.filters.models),
        versions=tuple(body.filters.versions),
        digests=tuple(body.filters.digests),
        device_classes=tuple(body.filters.device_classes),
        devices=tuple(body.filters.devices),
        rollouts=tuple(body.filters.rollouts),
        groups=tuple(body.filters.groups),
    )
    return result_json(queries.query(asked, now=timezone.now()))


@router.get("/telemetry/metrics", auth=Scope("telemetry:read", knows_limits=True), response=dict[str, Any])
def metrics(request: HttpRequest) -> Any:
    """The catalogue: metric, unit, kinds, aggregations (the default first)."""
    return {"items": [dataclasses.asdict(metric) for metric in queries.METRICS.values()]}


class FixedQuery(Asked):
    """The range of a fixed read. where: as `q` of a telemetry query. step: seconds."""

    start: Moment = Field(alias="from")
    end: Moment = Field(alias="to")
    step: int = Field(3600, ge=1, le=31 * 86_400)
    group_by: list[str] = Field(default_factory=lambda: ["model", "version"], max_length=8)
    where: str = Field("", max_length=2_000)
    limit: int | None = Field(None, ge=1, le=50)

    def question(self, metric: str, *, kind: str = "", agg: str = "") -> queries.TelemetryQuery:
        """The telemetry query that this read is an alias of."""
        return queries.TelemetryQuery(
            metric, self.start, self.end, self.step, kind=kind, agg=agg, group_by=tuple(self.group_by),
            q=self.where.strip(), limit=self.limit,
        )  # fmt: skip


class AccuracyQuery(FixedQuery):
    """A fixed read of accuracy. kind: golden, delayed, proxy or estimate, never two of them."""

    kind: str = Field("", max_length=16)
    agg: str = Field("mean", max_length=16)


class LatencyQuery(FixedQuery):
    """A fixed read of latency percentiles. q: percentiles, parted by commas, at most five."""

    q: str = Field("50,95,99", max_length=64)


class TopQuery(Asked):
    """A fixed read of the most anomalous devices. from, to: by default yesterday and today so far."""

    start: Moment | None = Field(None, alias="from")
    end: Moment | None = Field(None, alias="to")
    where: str = Field("", max_length=2_000)
    limit: int = 20
    exact: bool = False


class DriftQuery(Asked):
    """A fixed read of drift. from: a whole hour. step: windows of whole hours, in seconds."""

    start: Moment = Field(alias="from")
    end: Moment = Field(alias="to")
    step: int = Field(3600, ge=1, le=31 * 86_400)
    where: str = Field("", max_length=2_000)


@router.get("/telemetry/drift", auth=Scope("telemetry:read"), response=dict[str, Any])
def drift(request: HttpRequest, asked: Query[DriftQuery]) -> Any:
    """Whether classes and embedding distances moved since the reference, by model run and device class."""
    found = queries.drift_answer(
        start=asked.start, end=asked.end, step_s=asked.step, q=asked.where.strip(), now=timezone.now()
    )
    return {
        "source": found.source,
        "step": found.step_s,
        "as_of": stamp(found.as_of),
        "gaps": found.gaps,
        "series": [
            {
                "labels": one.labels,
                "statistic": one.statistic,
                "state": one.state,
                "reference_n": one.reference_n,
                "points": [[stamp(p.t), p.value, p.limit, p.n] for p in one.points],
            }
            for one in found.series
        ],
    }


class CoverageQuery(Asked):
    """A fixed read of coverage. from, to: by default the last 24 h. by: device or version."""

    start: Moment | None = Field(None, alias="from")
    end: Moment | None = Field(None, alias="to")
    by: str = Field("device", max_length=32)
    where: str = Field("", max_length=2_000)
    limit: int = 50


@router.get("/telemetry/accuracy", auth=Scope("telemetry:read", knows_limits=True), response=dict[str, Any])
def accuracy(request: HttpRequest, asked: Query[AccuracyQuery]) -> Any:
    """Accuracy of one kind by model run over time."""
    asked.where = within.narrowed(request, asked.where.strip())
    question = asked.question("accuracy", kind=asked.kind, agg=asked.agg)
    return result_json(queries.query(question, now=timezone.now()))


@router.get("/telemetry/latency", auth=Scope("telemetry:read", knows_limits=True), response=dict[str, Any])
def latency(request: HttpRequest, asked: Query[LatencyQuery]) -> Any:
    """Percentiles of the time of one inference; every series has the label `percentile`."""
    names = list(dict.fromkeys(f"p{part.strip()}" for part in asked.q.split(",")))
    if len(names) > MAX_PERCENTILES:
        raise queries.QueryError("quantile_range", f"at most {MAX_PERCENTILES} percentiles")
    now, asked.where = timezone.now(), within.narrowed(request, asked.where.strip())
    found = [result_json(queries.query(asked.question("latency_us", agg=name), now=now)) for name in names]
    for name, one in zip(names, found, strict=True):
        for series in one["series"]:
            series["labels"]["percentile"] = name
    return found[0] | {"agg": ",".join(names), "series": [each for one in found for each in one["series"]]}


@router.get(
    "/telemetry/anomalies/top", auth=Scope("telemetry:read", knows_limits=True), response=dict[str, Any]
)
def anomalies_top(request: HttpRequest, asked: Query[TopQuery]) -> Any:
    """Devices by share of anomalous inferences: whole UTC days, or any range with `exact`."""
    found = queries.top_anomalous(
        now=timezone.now(),
        start=asked.start,
        end=asked.end,
        q=within.narrowed(request, asked.where.strip()),
        limit=asked.limit,
        exact=asked.exact,
    )
    return {
        "source": found.source,
        "step": found.step_s,
        "from": stamp(found.start),
        "to": stamp(found.end),
        "as_of": stamp(found.as_of),
        "gaps": found.gaps,
        "items": [dataclasses.asdict(one) for one in found.items],
    }


@router.get("/telemetry/coverage", auth=Scope("telemetry:read", knows_limits=True), response=dict[str, Any])
def coverage(request: HttpRequest, asked: Query[CoverageQuery]) -> Any:
    """Records expected, received, open and lost of boots that were heard in the range, worst first."""
    found = queries.coverage(
        now=timezone.now(),
        start=asked.start,
        end=asked.end,
        by=asked.by,
        q=within.narrowed(request, asked.where.strip()),
        limit=asked.limit,
    )
    return {
        "from": stamp(found.start),
        "to": stamp(found.end),
        "by": asked.by,
        "gaps": found.gaps,
        "total": _covered(found.total),
        "items": [_covered(one) for one in found.items],
    }


def _covered(one: queries.Covered) -> dict[str, Any]:
    """Names of what it is about, then figures."""
    about = {name: value for name, value in dataclasses.asdict(one).items() if value != ""}
    return about | {"missing": one.missing}


def result_json(result: queries.TelemetryResult) -> dict[str, Any]:
    """The answer as JSON; an empty bucket has value null and n 0. Series of estimates have a reason, null
    when they have values, and the answer says what their lines were fitted from.
    """
    is_estimate = result.kind == queries.ESTIMATE
    return {
        "metric": result.metric,
        "kind": result.kind,
        "agg": result.agg,
        "unit": result.unit,
        "source": result.source,
        "step": result.step_s,
        "as_of": stamp(result.as_of),
        "gaps": result.gaps,
        "series_left_off": result.series_left_off,
        "series": [
            {
                "labels": one.labels,
                "points": [[stamp(p.t), p.value, p.lower, p.upper, p.n_devices, p.n] for p in one.points],
                **({"reason": one.reason or None} if is_estimate else {}),
            }
            for one in result.series
        ],
        **({"calibrations": [_calibration(one) for one in result.calibrations]} if is_estimate else {}),
    }


def _calibration(one: dict[str, Any]) -> dict[str, Any]:
    return one | {name: stamp(one[name]) for name in ("from", "to", "made_at")}
