"""Work that a verb asked for and a worker does: how far it is, what came of it, and the rows to go on from.

A verb stores an operation in its own transaction, so whoever asked has either both or nothing. A worker that
was killed leaves it as far as its last transaction brought it; the next one goes on from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db import models
from django.db.models import F, Q

from fleet.accounts.audit import Actor
from fleet.ids import uuid7
from ota.choices import OPERATION_LIVE, OperationState

KEPT: Final = timedelta(days=30)
_FORGOTTEN_AT_ONCE: Final = 1_000


class Operation(models.Model):
    """One long piece of work on a rollout. `done` of `total` devices are dealt with."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    kind = models.CharField(max_length=24)  # rollout.start
    rollout = models.ForeignKey("ota.Rollout", on_delete=models.CASCADE, related_name="operations")
    rev = (
        models.PositiveIntegerField()
    )  # the rollout's while it waits: another one, and nobody wants it any more
    state = models.CharField(max_length=16, choices=OperationState.choices, default=OperationState.QUEUED)
    done = models.PositiveIntegerField(default=0)
    total = models.PositiveIntegerField()
    frozen = models.BinaryField(null=True)  # ota.frozen.pack: what it works on, until it has ended
    problem = models.JSONField(null=True)  # {"code", "text", "fix"} of a failed one
    actor = models.JSONField()  # who asked, fleet.accounts.audit.Actor
    asked_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-asked_at", "-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["rollout"],
                condition=Q(state__in=sorted(OPERATION_LIVE)),
                name="one_live_operation_per_rollout",
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} of {self.rollout_id}: {self.state}"

    @property
    def asked_by(self) -> Actor:
        """Who asked for it: what it does is done in their name."""
        return Actor(**self.actor)


def ask(
    kind: str, rollout_id: UUID, *, rev: int, total: int, frozen: bytes, actor: Actor, now: datetime
) -> Operation:
    """Store a queued operation; an older one of the rollout that has not ended is cancelled, for it was asked
    for at a revision that is no more.
    """
    older = Operation.objects.filter(rollout_id=rollout_id, state__in=OPERATION_LIVE)
    older.update(state=OperationState.CANCELLED, finished_at=now, frozen=None)
    return Operation.objects.create(
        kind=kind,
        rollout_id=rollout_id,
        rev=rev,
        total=total,
        frozen=frozen,
        actor=asdict(actor),
        asked_at=now,
    )


def live(rollout_id: UUID | str) -> Operation | None:
    """The operation of a rollout that has not ended, without what it works on; None when there is none."""
    rows = Operation.objects.filter(rollout_id=rollout_id, state__in=OPERATION_LIVE)
    return rows.defer("frozen").first()


def wanted(rollout_id: UUID | str, rev: int) -> Operation | None:
    """The same, unless the rollout has changed since: then nobody wants it any more."""
    operation = live(rollout_id)
    return operation if operation is not None and operation.rev == rev else None


def advance(operation: Operation, by: int) -> bool:
    """Count `by` more as done; call it in the transaction that does them. False when another worker was there
    first, or it has ended: then do nothing.
    """
    found = Operation.objects.filter(pk=operation.pk, state__in=OPERATION_LIVE, done=operation.done)
    if found.update(state=OperationState.RUNNING, done=F("done") + by) != 1:
        return False
    operation.state, operation.done = OperationState.RUNNING, operation.done + by
    return True


def end(
    operation: Operation, state: OperationState, *, now: datetime, problem: Mapping[str, Any] | None = None
) -> bool:
    """End an operation for good and drop what it worked on. False when it has ended already."""
    values: dict[str, Any] = {"state": state, "finished_at": now, "problem": problem, "frozen": None}
    if Operation.objects.filter(pk=operation.pk, state__in=OPERATION_LIVE).update(**values) != 1:
        return False
    for name, value in values.items():
        setattr(operation, name, value)
    return True


def forget(*, now: datetime) -> int:
    """Delete operations that ended more than `KEPT` ago, a bounded number a call; returns how many."""
    old = Operation.objects.filter(finished_at__lt=now - KEPT).order_by("pk").values_list("pk", flat=True)
    ids = list(old[:_FORGOTTEN_AT_ONCE])
    return Operation.objects.filter(pk__in=ids).delete()[0] if ids else 0
