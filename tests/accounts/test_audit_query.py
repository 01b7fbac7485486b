"""Filters of the audit trail, and the indexes that answer them."""

from datetime import datetime, timedelta

import pytest
from django.db import connection

from fleet.accounts.audit import SYSTEM, Actor, record
from fleet.accounts.audit_query import AuditQuery
from fleet.accounts.models import STEPS, AuditEvent
from tests import plans

pytestmark = pytest.mark.django_db


def said(query: AuditQuery) -> list[str]:
    return list(query.rows().order_by("id").values_list("reason", flat=True))


@pytest.fixture
def trail(now: datetime) -> None:
    """Seven rows, named by their reasons."""
    rows = (
        (Actor("user", "olga"), "rollout.pause", "rollout", "r1", "by hand"),
        (Actor("token", "olga/tfk_0123"), "rollout.running", "rollout", "r1", "by token"),
        (Actor("user", "olga2"), "rollout.pause", "rollout", "r2", "another person"),
        (Actor("token", "olga_/tfk_1"), "rollout.pause", "rollout", "r3", "a person whose name is a pattern"),
        (Actor("device", "olga"), "job.trial", "job", "j1", "a device of that name"),
        (SYSTEM, "rollouts.note", "thing", "r1", "not the noun"),
        (Actor("gate", "olga"), "wave.failed", "wave", "r1/1", "a gate"),
    )
    for minute, (actor, verb, kind, name, reason) in enumerate(rows):
        at = now + timedelta(minutes=minute)
        record(actor=actor, verb=verb, subject_kind=kind, subject_id=name, at=at, reason=reason)


def test_a_person_is_found_through_every_token_and_nobody_else_is(trail: None) -> None:
    assert said(AuditQuery(actor="olga")) == ["by hand", "by token"]
    assert said(AuditQuery(actor="olga_")) == ["a person whose name is a pattern"]
    assert said(AuditQuery(actor="olga", actor_kind="device")) == ["a device of that name"]
    assert said(AuditQuery(actor_kind="gate")) == ["a gate"]
    assert len(said(AuditQuery())) == 7


def test_a_verb_is_exact_or_all_of_a_noun(trail: None) -> None:
    assert said(AuditQuery(verb="rollout.pause", actor="olga")) == ["by hand"]
    assert said(AuditQuery(verb="rollout.*", subject_id="r1", subject_kind="rollout")) == [
        "by hand",
        "by token",
    ]
    assert said(AuditQuery(verb="job.*")) == ["a device of that name"]
    assert said(AuditQuery(verb="rollout.pause.*")) == []


def test_times_are_half_open(trail: None, now: datetime) -> None:
    query = AuditQuery(start=now + timedelta(minutes=1), end=now + timedelta(minutes=3))
    assert said(query) == ["by token", "another person"]


@pytest.mark.parametrize(
    ("query", "name"),
    [
        (AuditQuery(verb="rollout pause"), "verb"),
        (AuditQuery(verb="*"), "verb"),
        (AuditQuery(subject_id="r1"), "subject_id"),
        (AuditQuery(start=datetime(2026, 5, 2)), "from"),
    ],
)
def test_what_cannot_be_meant_is_named(query: AuditQuery, name: str) -> None:
    found = query.problem()
    assert found is not None
    assert found[0] == name


def test_a_range_that_ends_before_it_begins_is_named(now: datetime) -> None:
    assert AuditQuery(start=now, end=now).problem() == ("to", "to is not after from")


def test_people_and_verbs_have_indexes_that_job_steps_do_not_swell(now: datetime) -> None:
    AuditEvent.objects.bulk_create(
        AuditEvent(
            at=now,
            actor_kind="device",
            actor=f"d{n}",
            verb="job.trial",
            subject_kind="job",
            subject_id=str(n),
        )
        for n in range(3_000)
    )
    AuditEvent.objects.bulk_create(  # among many people and verbs a few rows are looked for
        AuditEvent(
            at=now,
            actor_kind="user",
            actor=f"p{n}",
            verb=f"verb{n % 200}.do",
            subject_kind="device",
            subject_id=str(n),
        )
        for n in range(2_000)
    )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE accounts_auditevent")
        for query, index in (
            (AuditQuery(actor="olga"), "audit_people"),
            (AuditQuery(verb="rollout.*"), "audit_verbs"),
        ):
            sql, parameters = query.rows().order_by("-id")[:50].query.sql_with_params()
            cursor.execute(f"EXPLAIN {sql}", parameters)
            plan = "\n".join(line for (line,) in cursor.fetchall())
            assert index in plan, plan


def test_the_newest_of_all_but_steps_passes_no_step(now: datetime) -> None:
    """What the overview shows: behind the rows of a rollout under way there may be a million."""
    AuditEvent.objects.bulk_create(
        AuditEvent(
            at=now + timedelta(seconds=n), actor_kind="device", actor="d", verb="job.trial",
            subject_kind="job" if n else "rollout", subject_id=str(n),
        )
        for n in range(3_000)
    )  # fmt: skip
    plans.analyze("accounts_auditevent")
    newest = AuditEvent.objects.exclude(subject_kind__in=STEPS)[:200]
    assert [row.subject_id for row in newest] == ["0"]
    assert "audit_newest" in plans.plan_of(newest)
    assert plans.rows_read(newest) == 1
