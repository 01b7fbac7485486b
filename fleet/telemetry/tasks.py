"""Scheduled work of `fleet.telemetry`."""

from celery import shared_task
from django.utils import timezone

from fleet.telemetry import (
    arrivals,
    baselines,
    calibrations,
    compaction,
    export_jobs,
    gaps,
    judging,
    labels,
    partitions,
    retention,
    unproven,
)


@shared_task(name="telemetry.make_partitions")  # type: ignore[untyped-decorator]
def make_partitions() -> None:
    """Make partitions ahead, drop those past retention, forget what else is kept for a time."""
    now = timezone.now()
    partitions.make_ahead(now)
    retention.drop_expired(now)
    labels.forget(now)
    gaps.forget(now)
    export_jobs.forget(now=now)
    unproven.forget(now)
    arrivals.forget(now)


@shared_task(name="telemetry.compact")  # type: ignore[untyped-decorator]
def compact() -> None:
    """Compact the hours that are due, make references of runs whose first week that completes, and the lines
    of estimates that are due.
    """
    now = timezone.now()
    if compaction.run(now):
        baselines.ensure(now)
        calibrations.ensure(now)


@shared_task(name="telemetry.join_labels")  # type: ignore[untyped-decorator]
def join_labels() -> None:
    """Join pending labels with the samples that came since."""
    labels.join(now=timezone.now())


@shared_task(name="telemetry.judge_drift")  # type: ignore[untyped-decorator]
def judge_drift() -> None:
    """Compare windows that came since with the references of their runs."""
    judging.judge(timezone.now())


@shared_task(name="telemetry.write_exports", soft_time_limit=600, time_limit=660)  # type: ignore[untyped-decorator]
def write_exports() -> None:
    """Carry on with large exports; the last step of one, which makes one file of its parts, may take long."""
    export_jobs.work(now=timezone.now())


@shared_task(name="telemetry.cool", soft_time_limit=3_000, time_limit=3_060)  # type: ignore[untyped-decorator]
def cool() -> None:
    """Export raw partitions past retention to the cold tier, where one is configured, and drop them."""
    now = timezone.now()
    if retention.cool_expired(now):
        retention.drop_expired(now)
