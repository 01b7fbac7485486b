"""Devices of a rollout whose newest attempt failed, by state and code, most of them first."""

from __future__ import annotations

from typing import Any, Final

from django.db.models import Count, F, Window
from django.db.models.functions import RowNumber

from ota.choices import JobState
from ota.gates.failures import failure_class
from ota.job_counts import newest_of
from ota.models import Rollout
from ota.offers import install_jobs

FAILED: Final = (JobState.REJECTED, JobState.FAILED, JobState.SELF_REVERTED, JobState.TIMED_OUT)
"""States in which an attempt ended without the candidate running."""
NAMED: Final = 20
_MOST: Final = 50


def failed_devices(rollout: Rollout) -> list[dict[str, Any]]:
    """[{"state", "code", "class", "n", "devices": first NAMED ids}], at most 50 kinds, most devices first.

    One statement however many codes there are: each failed attempt is asked once whether a newer one exists.
    """
    kinds = [F("state"), F("code")]
    newest = newest_of(install_jobs(rollout).filter(state__in=FAILED)).order_by()
    numbered = newest.annotate(
        n=Window(Count("*"), partition_by=kinds),
        place=Window(RowNumber(), partition_by=kinds, order_by="device_id"),
    ).filter(place__lte=NAMED)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for state, code, device_id, n, _ in sorted(
        numbered.values_list("state", "code", "device_id", "n", "place"), key=lambda row: row[4]
    ):
        kind = {"state": str(state), "code": code, "class": failure_class(state, code), "n": n, "devices": []}
        found.setdefault((state, code), kind)["devices"].append(device_id)
    ordered = sorted(found.values(), key=lambda one: (-one["n"], one["state"], one["code"]))
    return ordered[:_MOST]
