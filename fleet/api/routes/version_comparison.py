"""Versions of a model side by side."""

import dataclasses
from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from ninja import Query, Router
from pydantic import Field

from fleet.api.asked import Asked
from fleet.api.auth import Scope
from fleet.api.render import stamp
from ota.version_comparison import Compared, compare_versions

router = Router(tags=["models"])


class VersionsQuery(Asked):
    """Which versions. versions: repeated once a version, or one text with commas; the first is the base."""

    versions: list[str] = Field(max_length=5)


@router.get("/{model}/compare", auth=Scope("models:read"), response=dict[str, Any])
def compare(request: HttpRequest, model: str, asked: Query[VersionsQuery]) -> Any:
    """Two to four versions: size, work, arena, latency, accuracy of each kind, operators, contract, verdicts.

    Figures of the field are over whole UTC days, from `from` to `to`. Accuracy on the evaluation set is of
    this host, the kinds in `field.accuracy` of devices; no two of them measure the same. What devices told is
    of `as_of`.
    """
    found = compare_versions(model, named(asked.versions), now=timezone.now())
    body = dataclasses.asdict(found) | {"from": stamp(found.start), "to": stamp(found.end)}
    body["as_of"] = stamp(found.as_of)
    del body["start"], body["end"]
    body["versions"] = [_version(one) for one in found.versions]
    return body


def named(given: list[str]) -> list[str]:
    """Versions by name from a query string: repeated, or one text with commas."""
    names = given[0].split(",") if len(given) == 1 else given
    return [name for name in names if name]


def _version(row: Compared) -> dict[str, Any]:
    return dataclasses.asdict(row) | {"devices": row.devices}
