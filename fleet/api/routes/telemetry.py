"""Telemetry queries."""

import dataclasses
from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from ninja import Router
from pydantic import Field

from fleet.api.auth import Scope
from fleet.api.render import stamp
from fleet.api.routes.devices import Strict
from fleet.telemetry import queries

router = Router(tags=["telemetry"])


class Filters(Strict):
    """Which rows count; an empty list means all."""

    models: list[str] = Field(default_factory=list, max_length=50)
    versions: list[str] = Field(default_factory=list, max_length=50)
    digests: list[str] = Field(default_factory=list, max_length=50)
    device_classes: list[str] = Field(default_factory=list, max_length=50)
    devices: list[str] = Field(default_factory=list, max_length=200)


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
    start: datetime = Field(alias="from")
    end: datetime = Field(alias="to")
    step: int = Field(3600, ge=1, le=31 * 86_400)
    limit: int | None = Field(None, ge=1, le=50)


@router.post("/telemetry:query", auth=Scope("telemetry:read"), response=dict[str, Any])
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
        q=body.q.strip(),
        limit=body.limit,
        models=tuple(body.filters.models),
        versions=tuple(body.filters.versions),
        digests=tuple(body.filters.digests),
        device_classes=tuple(body.filters.device_classes),
        devices=tuple(body.filters.devices),
    )
    return result_json(queries.query(asked, now=timezone.now()))


@router.get("/telemetry/metrics", auth=Scope("telemetry:read"), response=dict[str, Any])
def metrics(request: HttpRequest) -> Any:
    """The catalogue: metric, unit, kinds, aggregations (the default first)."""
    return {"items": [dataclasses.asdict(metric) for metric in queries.METRICS.values()]}


def result_json(result: queries.TelemetryResult) -> dict[str, Any]:
    """The answer as JSON; an empty bucket has value null and n 0."""
    return {
        "metric": result.metric,
        "kind": result.kind,
        "agg": result.agg,
        "unit": result.unit,
        "source": result.source,
        "step": result.step_s,
        "as_of": stamp(result.as_of),
        "series_left_off": result.series_left_off,
        "series": [
            {
                "labels": one.labels,
                "points": [[stamp(p.t), p.value, p.lower, p.upper, p.n_devices, p.n] for p in one.points],
            }
            for one in result.series
        ],
    }
