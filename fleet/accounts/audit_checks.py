"""Checks of the whole audit chain: in slices, by a worker, with a result that stays to be read.

Hashing a long trail takes minutes, which no request and no task may. A check walks on from where it is, a
slice a turn; each turn ends with one conditional UPDATE, so of two workers one counts and a killed one is
repeated. One begins each day, and whenever somebody asks for it. In the end the digest of the check before
must still be in the chain: that seals were taken off its end, the walk itself cannot see.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

import structlog
from django.db import IntegrityError, transaction

from fleet.accounts import audit, audit_chain
from fleet.accounts.audit import SYSTEM, Actor
from fleet.accounts.audit_chain import Place
from fleet.accounts.models import AuditCheck, AuditSeal

log = structlog.get_logger(__name__)
EVERY: Final = timedelta(hours=24)
KEPT: Final = 30
SLICE_S: Final = 20.0


def latest() -> AuditCheck | None:
    """The newest check, done or under way."""
    return AuditCheck.objects.order_by("-id").first()


def start(*, actor: Actor, now: datetime) -> AuditCheck:
    """Begin a check, or give the one that is under way. Written into the trail when a person asks."""
    try:
        with transaction.atomic():
            made = AuditCheck.objects.create(
                started_at=now, moved_at=now, started_by=actor.person, of_seals=_newest()
            )
            if actor is not SYSTEM:
                audit.record(
                    actor=actor, verb="audit.check", subject_kind="audit", subject_id=str(made.pk), at=now
                )
    except IntegrityError:  # the partial unique index: one is under way
        running = AuditCheck.objects.filter(finished_at=None).first()
        return running or start(actor=actor, now=now)
    old = AuditCheck.objects.order_by("-id").values_list("id", flat=True)[KEPT:]
    AuditCheck.objects.filter(id__in=list(old), finished_at__isnull=False).delete()
    return made


def go_on(*, now: datetime, clock: Callable[[], float] = time.monotonic) -> AuditCheck | None:
    """Do the next slice of the check under way, at most SLICE_S and one seal; None when none is."""
    row = AuditCheck.objects.filter(finished_at=None).first()
    if row is None:
        return None
    seen = row.seals
    begin = Place(row.seals, row.rows, row.last_id or audit_chain.START, bytes.fromhex(row.digest))
    until = clock() + SLICE_S
    row.moved_at = now
    row.finished_at = now  # unless the walk stops before its end
    for place, broken in audit_chain.walk(begin):
        row.seals, row.rows, row.last_id, row.digest = place.seals, place.rows, place.last, place.digest.hex()
        if broken is not None:
            row.broken_seal, row.broken_what, row.broken_row = broken.seal, broken.what, broken.row
            break
        if clock() > until:
            row.finished_at = None
            break
    if row.finished_at is not None and row.broken_seal is None:
        _compare(row)
    won = AuditCheck.objects.filter(pk=row.pk, seals=seen, finished_at=None)
    fields = (
        *("moved_at", "finished_at", "seals", "rows", "last_id", "digest"),
        *("broken_seal", "broken_what", "broken_row"),
    )
    if won.update(**{name: getattr(row, name) for name in fields}) and row.broken_seal is not None:
        log.error("audit_broken", seal=row.broken_seal, what=row.broken_what, row=str(row.broken_row))
    return row


def _compare(row: AuditCheck) -> None:
    """Hold a finished walk to the one before."""
    before = AuditCheck.objects.filter(id__lt=row.pk, broken_seal=None).exclude(digest="").first()
    if before is None or audit_chain.is_in_chain(before.digest):
        return
    if before.seals < audit_chain.begin().seals:
        return  # the seal it ended at has left since; looked up last, as it may leave in this moment
    row.broken_seal, row.broken_what = before.seals, "chain"


def _newest() -> int:
    """Number of the newest seal, 0 for none."""
    return AuditSeal.objects.order_by("-n").values_list("n", flat=True).first() or 0


def tick(*, now: datetime) -> None:
    """Begin the check of the day when it is due, and do a slice of what is under way."""
    newest = latest()
    if newest is None or newest.started_at <= now - EVERY:
        start(actor=SYSTEM, now=now)
    go_on(now=now)
