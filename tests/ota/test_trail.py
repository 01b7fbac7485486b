"""The audit rows of one rollout among very many of others."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from fleet.accounts.models import AuditEvent
from ota.models import Wave
from ota.trail import trail_of
from tests import plans
from tests.console import rows

pytestmark = pytest.mark.django_db


def test_the_trail_is_of_the_rollout_and_its_waves_and_its_index_finds_it() -> None:
    now: datetime = rows.present()
    filled = rows.fill(now, telemetry=False)
    row, other = filled.rollouts["running"], filled.rollouts["completed"]
    own = {("rollout", str(row.pk))} | {
        ("wave", f"{row.pk}/{n}") for n in Wave.objects.filter(rollout=row).values_list("n", flat=True)
    }
    assert len(own) > 2
    others = [("wave", f"{other.pk}/1"), ("wave", f"{row.pk}/99"), ("rollout", str(other.pk))]
    AuditEvent.objects.bulk_create(
        AuditEvent(
            at=now - timedelta(minutes=n % 3), actor_kind="tick", actor="tick", verb="x.y",
            subject_kind=kind, subject_id=name,
        )
        for n in range(1_500)
        for kind, name in [
            *(own if n < 3 else ()), ("job", f"{row.pk}/{n}"), ("wave", f"{n}{row.pk}/1"),
            *(others if n < 9 else ()),
        ]
    )  # fmt: skip
    plans.analyze("accounts_auditevent")
    found = list(trail_of(row))
    assert {(event.subject_kind, event.subject_id) for event in found} == own
    assert [event.at for event in found] == sorted((event.at for event in found), reverse=True)
    assert "audit_subject" in plans.plan_of(trail_of(row)[:20])
