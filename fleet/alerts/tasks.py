"""Scheduled work of `fleet.alerts`: shells over named verbs, safe to lose."""

from celery import shared_task
from django.utils import timezone

from fleet.alerts import evaluation, rules


@shared_task(name="alerts.evaluate")  # type: ignore[untyped-decorator]
def evaluate() -> None:
    """Evaluate every alert rule."""
    now = timezone.now()
    rules.ensure_defaults(now)
    evaluation.evaluate(now)
