"""Find work in the database that nobody is doing and hand it out again.

A killed worker, a lost queue, a broker that was away: whatever a task did not finish is still a row in an
unfinished state.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import Final

from ota import delivery, device_windows, operations, publishing, staging, trust_renewal
from ota.choices import VersionState
from ota.models import ModelVersion
from ota.queues import enqueue

INSPECTIONS_AT_ONCE: Final = 20
PERIOD_S: Final = 5.0
"""A repeated task that no worker took within this time is dropped: the next round sends it again."""
PUBLISH_FOR_S: Final = 15.0


def reconcile(*, now: datetime) -> dict[str, int]:
    """Send tasks for unfinished inspections, stagings and unpublished documents; sign documents anew that age
    or are of an older trust document, take windows of rollouts that are over out of them, and forget
    operations that ended long ago.

    Returns counts by kind. Safe to call at any time: the tasks decide by themselves whether there is anything
    to do.
    """
    unfinished = (VersionState.UPLOADED, VersionState.INSPECTING)
    versions = ModelVersion.objects.filter(state__in=unfinished).order_by("pk").values_list("pk", flat=True)
    found = {"inspect": 0, "stage": 0, "signed_anew": delivery.sign_anew(now=now), "publish": 0}
    found["trusted_anew"] = trust_renewal.renew(now=now)
    found["windows"] = device_windows.clear(now=now)
    found["operations"] = operations.forget(now=now)
    for version_id in versions[:INSPECTIONS_AT_ONCE]:
        enqueue("ota.inspect_version", version_id, expires_s=PERIOD_S)
        found["inspect"] += 1
    for manifest_id in staging.waiting(now=now):
        enqueue("ota.stage_manifest", manifest_id, expires_s=PERIOD_S)
        found["stage"] += 1
    if publishing.is_pending():
        enqueue("ota.publish_desired", expires_s=PERIOD_S)
        found["publish"] = 1
    return found


def publish_desired() -> int:
    """Publish pending documents batch by batch over one connection, for at most PUBLISH_FOR_S of starting new
    batches; then ask for another task.

    Returns how many were published. Raises MqttError, KeysError.
    """
    until_s, total, idle = time.monotonic() + PUBLISH_FOR_S, 0, 0
    with publishing.Connection() as broker:
        while idle < 2:
            done = publishing.publish_pending(client=broker)
            total += done.count
            if not done.is_more:
                return total
            idle = 0 if done.count else idle + 1
            if time.monotonic() >= until_s:
                enqueue("ota.publish_desired")
                break
    return total
