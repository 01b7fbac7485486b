"""Labels that come later, for sampled inferences."""

from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from ninja import Query, Router
from pydantic import Field, ValidationError

from fleet.api.asked import Asked
from fleet.api.auth import Scope, actor
from fleet.api.errors import ApiProblem
from fleet.api.idempotency import idempotent
from fleet.api.moments import Moment
from fleet.api.render import stamp
from fleet.api.routes.devices import Strict
from fleet.telemetry import labels

router = Router(tags=["telemetry"])


class LabelItem(Strict):
    """A label. sample_id: `<device>:<boot>:<number of the inference>`. source: system, person or audit."""

    sample_id: str = Field(max_length=64)
    label: int
    source: str = Field(max_length=16)
    at: Moment


class LabelsBody(Strict):
    """Labels, at most 10,000. Each is a `LabelItem`; one that is none is refused alone."""

    labels: list[Any] = Field(min_length=1)


@router.post("/telemetry/labels", auth=Scope("models:write"), response=dict[str, Any])
@idempotent(is_required=False)
def store_labels(request: HttpRequest, body: LabelsBody) -> Any:
    """Take labels that came later. Bad ones are in `refused` by index, the others are stored."""
    given, places, refused = [], [], []
    for index, item in enumerate(body.labels):
        try:
            found = LabelItem.model_validate(item)
        except ValidationError as error:
            refused.append(labels.Refusal(index, "validation", error.errors()[0]["msg"]))
        else:
            given.append(labels.Given(found.sample_id, found.label, found.source, found.at))
            places.append(index)
    taken = labels.store(given, actor=actor(request), now=timezone.now())
    refused += [labels.Refusal(places[one.index], one.code, one.text) for one in taken.refused]
    return {
        "new": taken.new,
        "known": taken.known,
        "counted": taken.counted,
        "pending": taken.pending,
        "refused": [
            {"index": one.index, "status": 422, "code": one.code, "detail": one.text}
            for one in sorted(refused, key=lambda one: one.index)
        ],
    }


class StatesQuery(Asked):
    """How many of the labels that stayed unmatched are listed."""

    limit: int = 100


@router.get("/telemetry/labels", auth=Scope("telemetry:read"), response=dict[str, Any])
def label_states(request: HttpRequest, asked: Query[StatesQuery]) -> Any:
    """How many labels are counted, pending, superseded, unmatched; the newest that stayed unmatched."""
    if not 0 <= asked.limit <= 500:
        raise ApiProblem("limit", f"limit is 0..500, not {asked.limit}")
    items = [
        {**one, "at": stamp(one["at"]), "received_at": stamp(one["received_at"])}
        for one in labels.unmatched(asked.limit)
    ]
    return {"states": labels.counts(), "unmatched": items}
