"""Scheduled work of `fleet.alerts`: shells over named verbs, safe to lose."""

import random

from celery import shared_task
from django.utils import timezone

from fleet.alerts import evaluation, gathering, mailing, outbox, rules, sending


@shared_task(name="alerts.evaluate")  # type: ignore[untyped-decorator]
def evaluate() -> None:
    """Evaluate every alert rule."""
    now = timezone.now()
    rules.ensure_defaults(now)
    evaluation.evaluate(now)


@shared_task(name="alerts.send")  # type: ignore[untyped-decorator]
def send() -> None:
    """Put what was gathered into messages, and send the deliveries that are due."""
    now = timezone.now()
    outbox.tell_late(now)
    gathering.tell_due(now)
    sending.send_due(now, rng=random.Random())  # noqa: S311 - jitter is no secret


@shared_task(name="alerts.mail")  # type: ignore[untyped-decorator]
def mail() -> None:
    """Write to the recipients of e-mail that are due."""
    mailing.send_due(timezone.now(), rng=random.Random())  # noqa: S311 - jitter is no secret


@shared_task(name="alerts.forget")  # type: ignore[untyped-decorator]
def forget() -> None:
    """Delete messages that ended long ago."""
    sending.forget(timezone.now())
