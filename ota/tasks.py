"""Celery tasks: shells over named verbs. Each is short, idempotent and safe to lose; `ota.reconcile` sends
again what got lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog
from celery import current_app, shared_task
from django.utils import timezone

from fleet.mqtt.client import MqttError
from ota import fleet_samples, resend, staging, ticking, verdicts
from ota import reconcile as reconciling
from ota.staging import StagingError

log = structlog.get_logger(__name__)

TICK_EXPIRES_S = 3.0


def _with_broker(task: str, work: Callable[[], Any]) -> None:
    """Do `work`; a broker that does its part badly is logged with its code and left to the next round."""
    try:
        work()
    except (MqttError, StagingError) as problem:
        log.warning("task_put_off", task=task, code=problem.code, reason=problem.text)


@shared_task(name="ota.inspect_version")  # type: ignore[untyped-decorator]
def inspect_version(version_id: int) -> None:
    """Inspect, probe and preflight an uploaded version."""
    verdicts.inspect_version(version_id, now=timezone.now())


@shared_task(name="ota.stage_manifest")  # type: ignore[untyped-decorator]
def stage_manifest(manifest_id: str) -> None:
    """Publish a manifest's chunks and read them back."""
    _with_broker("ota.stage_manifest", lambda: staging.stage(manifest_id, now=timezone.now()))


@shared_task(name="ota.ensure_staged")  # type: ignore[untyped-decorator]
def ensure_staged() -> None:
    """Repair what the broker lost."""
    _with_broker("ota.ensure_staged", lambda: staging.ensure_staged(now=timezone.now()))


@shared_task(name="ota.collect_chunks")  # type: ignore[untyped-decorator]
def collect_chunks() -> None:
    """Clear chunks that nothing refers to."""
    _with_broker("ota.collect_chunks", lambda: staging.collect(now=timezone.now()))


@shared_task(name="ota.publish_desired")  # type: ignore[untyped-decorator]
def publish_desired() -> None:
    """Publish signed desired documents that the broker lacks."""
    _with_broker("ota.publish_desired", reconciling.publish_desired)


@shared_task(name="ota.tick_rollout")  # type: ignore[untyped-decorator]
def tick_rollout(rollout_id: str) -> None:
    """Move one rollout on."""
    ticking.tick(rollout_id, timezone.now())


@shared_task(name="ota.tick_rollouts")  # type: ignore[untyped-decorator]
def tick_rollouts() -> None:
    """Send a tick for each rollout that needs one; one that waited too long is dropped for the next."""
    for rollout_id in ticking.due(now=timezone.now()):
        current_app.send_task("ota.tick_rollout", args=(str(rollout_id),), expires=TICK_EXPIRES_S)


@shared_task(name="ota.reconcile")  # type: ignore[untyped-decorator]
def reconcile() -> None:
    """Send again what got lost."""
    reconciling.reconcile(now=timezone.now())


@shared_task(name="ota.repair_gaps")  # type: ignore[untyped-decorator]
def repair_gaps() -> None:
    """Find telemetry that is missing and ask devices for it."""
    _with_broker("ota.repair_gaps", lambda: resend.repair(now=timezone.now()))


@shared_task(name="ota.sample_fleet")  # type: ignore[untyped-decorator]
def sample_fleet() -> None:
    """Note how many devices are there, for the curves of the overview."""
    fleet_samples.sample(now=timezone.now())
