"""Scheduled work of `fleet.telemetry`."""

from celery import shared_task
from django.utils import timezone

from fleet.telemetry import compaction, gaps, partitions, retention


@shared_task(name="telemetry.make_partitions")  # type: ignore[untyped-decorator]
def make_partitions() -> None:
    """Make day partitions ahead, drop those past retention, forget gaps that are long closed."""
    now = timezone.now()
    partitions.make_ahead(now)
    retention.drop_expired(now)
    gaps.forget(now)


@shared_task(name="telemetry.compact")  # type: ignore[untyped-decorator]
def compact() -> None:
    """Compact the hours that are due."""
    compaction.run(timezone.now())
