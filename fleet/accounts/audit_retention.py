"""Audit rows past retention leave with the seals over them, and the chain goes on from an anchor.

Only what verifies leaves: a trail that is not as written is evidence, and stays whole until somebody has
looked at it. Rows, seals and the anchor before go, and the new anchor and the trail's own row about it come,
in one transaction; a killed worker has changed nothing. The newest seal always stays, so there is something
to hold the anchor to.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import structlog
from django.db import transaction

from fleet.accounts import audit, audit_chain
from fleet.accounts.audit import SYSTEM
from fleet.accounts.audit_chain import Place
from fleet.accounts.models import AuditAnchor, AuditEvent, AuditSeal
from fleet.ids import least_uuid7

log = structlog.get_logger(__name__)
LEAST_DAYS: Final = 30
"""The daily check holds each chain to the check before; a month leaves room for one that was not made."""
SEALS: Final = 5
"""Most seals of one transaction: at most 50,000 rows, which are hashed before they go."""
TURNS: Final = 10


class _Overtaken(Exception):
    """Another worker was quicker; nothing of this transaction happens."""


def prune(now: datetime, *, days: int) -> int:
    """Let rows leave whose whole seal is older than `days`, at most TURNS x SEALS seals; returns how many.

    days: 0 keeps them for good. Safe from many workers: of two, one takes a seal.
    """
    if days <= 0:
        return 0
    done = 0
    for _ in range(TURNS):
        left = _turn(now, days)
        done += left
        if not left:
            break
    return done


def _turn(now: datetime, days: int) -> int:
    start = audit_chain.begin()
    end = _end(start, now - timedelta(days=days))
    if end is None:
        return 0
    reached: Place | None = None
    for place, broken in audit_chain.walk(start):
        if broken is not None:
            log.error("audit_not_pruned", seal=broken.seal, what=broken.what, row=str(broken.row))
            break
        reached = place
        if place.seals >= end:
            break
    if reached is None or reached.seals <= start.seals:
        return 0
    try:
        return _leave(start, reached, now, days)
    except _Overtaken:
        return 0


def _end(start: Place, before: datetime) -> int | None:
    """Number of the last seal to take in this turn; None when none is old enough."""
    newest = AuditSeal.objects.order_by("-n").values_list("n", flat=True).first() or 0
    old = AuditSeal.objects.filter(n__gt=start.seals, n__lt=newest, last_id__lt=least_uuid7(before))
    return max(old.order_by("n").values_list("n", flat=True)[:SEALS], default=None)


def _leave(start: Place, reached: Place, now: datetime, days: int) -> int:
    with transaction.atomic():
        seals = AuditSeal.objects.filter(n__gt=start.seals, n__lte=reached.seals)
        if seals.delete()[0] != reached.seals - start.seals:
            raise _Overtaken
        before = AuditAnchor.objects.filter(n=start.seals).first()
        count, _ = AuditEvent.objects.filter(id__gt=start.last, id__lte=reached.last).delete()
        if count != reached.rows:
            raise _Overtaken
        AuditAnchor.objects.all().delete()
        made = AuditAnchor.objects.create(
            n=reached.seals,
            at=now,
            last_id=reached.last,
            rows=count + (before.rows if before else 0),
            digest=reached.digest,
        )
        audit.record(
            actor=SYSTEM,
            verb=audit_chain.PRUNED,
            subject_kind="audit",
            subject_id=str(made.n),
            at=now,
            after=audit_chain.anchor_told(made),
            reason=f"kept for {days} days",
        )
    log.info("audit_pruned", seal=made.n, rows=count, digest=made.digest.hex())
    return count
