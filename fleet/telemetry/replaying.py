"""Ask the workers to send dead letters through the pipeline once more (`fleet.gateway.replay` does it)."""

from __future__ import annotations

from dataclasses import astuple
from datetime import datetime
from typing import Final

from celery import current_app
from django.db import transaction
from kombu.exceptions import OperationalError

from fleet.accounts import audit
from fleet.accounts.audit import Actor
from fleet.telemetry import dead
from fleet.telemetry.errors import TelemetryError

TASK: Final = "gateway.replay"
EXPIRES_S: Final = 600
_RETRY: Final = {"max_retries": 1, "interval_start": 0.1, "interval_max": 0.1}


def ask(code: str, *, device_id: str = "", actor: Actor, now: datetime) -> None:
    """Queue a replay of the letters of a code, of one device when it is named. What it took is audited step
    by step as `telemetry.replay`, in the name of who asked.

    Unlike other tasks nobody finds this one again, so one that cannot be queued is refused, and not audited.
    Raises TelemetryError `unknown_code`, and `unavailable` when the queue does not answer.
    """
    if code not in dead.CODES:
        raise TelemetryError("unknown_code", f"no message is refused as {code[:40]!r}")
    with transaction.atomic():
        audit.record(
            actor=actor, verb="telemetry.ask_replay", subject_kind="telemetry", subject_id=code, at=now,
            after={"device": device_id} if device_id else None,
        )  # fmt: skip
        try:
            current_app.send_task(
                TASK, args=(code, device_id, list(astuple(actor))), expires=EXPIRES_S, retry=True,
                retry_policy=_RETRY,
            )  # fmt: skip
        except (OperationalError, OSError) as error:
            raise TelemetryError("unavailable", "the task queue does not answer; ask again later") from error
