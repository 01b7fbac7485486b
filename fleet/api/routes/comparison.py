"""Two cohorts of devices compared."""

import dataclasses
from typing import Any
from uuid import UUID

from django.http import HttpRequest
from django.utils import timezone
from ninja import Query, Router
from pydantic import Field

from fleet.api.asked import Asked
from fleet.api.auth import Scope
from fleet.api.moments import Moment
from fleet.api.render import stamp
from fleet.telemetry import queries

router = Router(tags=["telemetry"])


class CompareQuery(Asked):
    """A comparison. rollout: its waves (a) and its control (b). a, b: queries that narrow each arm, or say
    what the arms are where no rollout is named. where: a query over both.
    """

    metric: str = Field(max_length=32)
    kind: str = Field("", max_length=16)
    start: Moment = Field(alias="from")
    end: Moment = Field(alias="to")
    rollout: UUID | None = None
    a: str = Field("", max_length=2_000)
    b: str = Field("", max_length=2_000)
    where: str = Field("", max_length=2_000)


@router.get("/telemetry/compare", auth=Scope("telemetry:read"), response=dict[str, Any])
def compare(request: HttpRequest, asked: Query[CompareQuery]) -> Any:
    """Means over devices of two arms with 95 % intervals, their difference, and that of devices in both."""
    found = queries.compare(
        asked.metric, asked.start, asked.end, now=timezone.now(), kind=asked.kind, rollout=asked.rollout,
        a=asked.a.strip(), b=asked.b.strip(), q=asked.where.strip(),
    )  # fmt: skip
    return {
        "metric": found.metric,
        "kind": found.kind,
        "agg": "device_mean",
        "unit": found.unit,
        "source": found.source,
        "from": stamp(found.start),
        "to": stamp(found.end),
        "as_of": stamp(found.as_of),
        "gaps": found.gaps,
        "a": dataclasses.asdict(found.a),
        "b": dataclasses.asdict(found.b),
        "difference": found.difference and dataclasses.asdict(found.difference),
        "paired": found.paired and dataclasses.asdict(found.paired),
    }
