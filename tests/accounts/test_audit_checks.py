"""Checks of the whole chain: in slices, one at a time, and what they find stays to be read."""

import itertools
from datetime import datetime, timedelta

import pytest

from fleet.accounts import audit_chain, audit_checks
from fleet.accounts.audit import SYSTEM, Actor
from fleet.accounts.models import AuditCheck, AuditEvent, AuditSeal
from tests.accounts.test_audit_chain import NOW, write
from tests.accounts.test_audit_chain import sealed as sealed

pytestmark = pytest.mark.django_db
OLGA = Actor("user", "olga")


def checked(now: datetime = NOW) -> AuditCheck:
    audit_checks.start(actor=SYSTEM, now=now)
    found = audit_checks.go_on(now=now)
    assert found is not None
    return found


def test_a_check_goes_on_slice_by_slice_until_it_is_done(sealed: list[AuditEvent]) -> None:
    audit_checks.start(actor=OLGA, now=NOW)
    seen = []
    moments = itertools.count(0.0, audit_checks.SLICE_S + 1)  # every slice is over after one seal
    while (row := audit_checks.latest()) and row.finished_at is None:
        audit_checks.go_on(now=NOW, clock=lambda: next(moments))
        row.refresh_from_db()
        seen.append((row.seals, row.rows, row.finished_at is not None))
    assert seen == [(1, 2, False), (2, 4, False), (3, 6, False), (3, 6, True)]
    assert row is not None
    assert (row.digest, row.of_seals, row.broken_seal) == (audit_chain.verify().digest, 3, None)
    assert audit_checks.go_on(now=NOW) is None


def test_only_one_is_under_way_and_who_asked_is_in_the_trail(sealed: list[AuditEvent]) -> None:
    first = audit_checks.start(actor=OLGA, now=NOW)
    assert audit_checks.start(actor=Actor("user", "adam"), now=NOW).pk == first.pk
    rows = AuditEvent.objects.filter(verb="audit.check")
    assert list(rows.values_list("actor", "subject_id")) == [("olga", str(first.pk))]


def test_a_row_that_was_altered_is_named(sealed: list[AuditEvent]) -> None:
    AuditEvent.objects.filter(pk=sealed[3].pk).update(reason="nothing happened")
    row = checked()
    assert (row.broken_seal, row.broken_what, row.broken_row) == (2, "altered", sealed[3].pk)
    assert (row.seals, row.rows) == (1, 2)


def test_seals_taken_off_the_end_are_seen_by_the_next_check(sealed: list[AuditEvent]) -> None:
    assert checked().broken_seal is None
    AuditSeal.objects.filter(n=3).delete()
    assert audit_chain.verify().broken is None, "the walk alone cannot see it"
    row = checked(NOW + timedelta(hours=1))
    assert (row.broken_seal, row.broken_what) == (3, "chain")


def test_a_check_of_the_day_begins_by_itself_and_old_ones_go(
    sealed: list[AuditEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_checks, "KEPT", 2)
    for day in range(4):
        audit_checks.tick(now=NOW + timedelta(days=day))
        audit_checks.tick(now=NOW + timedelta(days=day, hours=1))
    assert list(AuditCheck.objects.values_list("started_at", flat=True)) == [
        NOW + timedelta(days=3),
        NOW + timedelta(days=2),
    ]


def test_a_slice_that_another_worker_did_counts_once(
    sealed: list[AuditEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    audit_checks.start(actor=SYSTEM, now=NOW)
    real = audit_chain.walk

    def late(place: audit_chain.Place):  # type: ignore[no-untyped-def]
        found = list(real(place))
        AuditCheck.objects.update(seals=3, rows=6, finished_at=NOW)  # while this worker was slow
        yield from found

    monkeypatch.setattr(audit_chain, "walk", late)
    AuditEvent.objects.filter(pk=sealed[5].pk).update(reason="changed meanwhile")
    audit_checks.go_on(now=NOW + timedelta(minutes=1))
    row = audit_checks.latest()
    assert row is not None
    assert (row.finished_at, row.broken_seal) == (NOW, None)


def test_nothing_sealed_yet_is_whole() -> None:
    AuditEvent.objects.all().delete()
    write(NOW)
    row = checked()
    assert (row.seals, row.rows, row.finished_at, row.broken_seal) == (0, 0, NOW, None)
