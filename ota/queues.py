"""Hand work to the workers once the transaction that asks for it has committed.

The queue is a cache: a task that could not be sent is found again by `ota.reconcile`, which looks at the
database. So losing Redis loses no work, and no request fails because Redis is away.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import structlog
from celery import current_app
from django.db import transaction
from kombu.exceptions import OperationalError

log = structlog.get_logger(__name__)

_RETRY = {"max_retries": 1, "interval_start": 0.1, "interval_max": 0.1}


def enqueue(task: str, *args: Any, expires_s: float | None = None) -> None:
    """Send the task named `task` after commit; without an open transaction, now. Never raises for a missing
    broker.
    """
    transaction.on_commit(partial(_send, task, args, expires_s))


def _send(task: str, args: tuple[Any, ...], expires_s: float | None) -> None:
    try:
        current_app.send_task(task, args=args, expires=expires_s, retry=True, retry_policy=_RETRY)
    except (OperationalError, OSError) as problem:
        log.warning("task_not_sent", task=task, reason=type(problem).__name__)
