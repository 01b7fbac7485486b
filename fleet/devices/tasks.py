"""Scheduled work of `fleet.devices`."""

from celery import shared_task
from django.utils import timezone

from fleet.devices import presence


@shared_task(name="devices.mark_stale")  # type: ignore[untyped-decorator]
def mark_stale() -> None:
    """Set silent devices offline."""
    presence.mark_stale(timezone.now())
