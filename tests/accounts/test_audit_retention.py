"""Old audit rows leave whole seal by whole seal, and what is left still proves itself."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import StringIO

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from fleet.accounts import audit_chain, audit_checks, audit_retention
from fleet.accounts.audit import SYSTEM
from fleet.accounts.audit_chain import LAG, PRUNED, Broken
from fleet.accounts.models import AuditAnchor, AuditEvent, AuditSeal
from tests.accounts.test_audit_chain import write

pytestmark = pytest.mark.django_db
DAYS = 30
NOW = timezone.now() - timedelta(days=100)
"""Long ago: what is written while rows leave has ids of the present, which come after all of these."""
LATER = NOW + timedelta(days=DAYS, minutes=1, seconds=30)
"""The rows of the first two seals are past retention then."""


@pytest.fixture
def sealed() -> list[AuditEvent]:
    """Six rows under three seals, a minute apart."""
    AuditEvent.objects.all().delete()
    rows = []
    for minute in range(3):
        at = NOW + timedelta(minutes=minute)
        rows += write(at, 2)
        assert audit_chain.seal(at + LAG + timedelta(seconds=1)) == 2
    return rows


@pytest.fixture
def pruned(sealed: list[AuditEvent]) -> list[AuditEvent]:
    """Six rows under three seals, of which two have left."""
    assert audit_retention.prune(LATER, days=DAYS) == 4
    return sealed


def test_rows_leave_with_their_seals_and_the_rest_verifies(sealed: list[AuditEvent]) -> None:
    digest = bytes(AuditSeal.objects.get(n=2).digest)
    before = audit_chain.verify().digest
    assert audit_retention.prune(LATER, days=DAYS) == 4
    assert audit_retention.prune(LATER, days=DAYS) == 0
    assert set(AuditEvent.objects.exclude(verb=PRUNED).values_list("id", flat=True)) == {
        row.pk for row in sealed[4:]
    }
    anchor = AuditAnchor.objects.get()
    assert (anchor.n, anchor.rows, bytes(anchor.digest)) == (2, 4, digest)
    row = AuditEvent.objects.get(verb=PRUNED)
    assert row.after == {"seal": 2, "rows": 4, "digest": digest.hex(), "last_row": str(sealed[3].pk)}
    found = audit_chain.verify()
    assert (found.seals, found.rows, found.broken, found.digest) == (3, 2, None, before)


def test_the_newest_seal_stays_however_old_it_is_and_a_second_pruning_goes_on(
    sealed: list[AuditEvent],
) -> None:
    assert audit_retention.prune(NOW + timedelta(days=900), days=DAYS) == 4
    write(NOW + timedelta(days=1), 2)
    assert audit_chain.seal(NOW + timedelta(days=1) + LAG + timedelta(seconds=1)) == 2
    assert audit_retention.prune(NOW + timedelta(days=900), days=DAYS) == 2
    anchor = AuditAnchor.objects.get()
    assert (anchor.n, anchor.rows) == (3, 6)
    assert audit_chain.verify().broken is None


def test_nothing_leaves_when_the_trail_is_kept_for_good_or_is_young(sealed: list[AuditEvent]) -> None:
    assert audit_retention.prune(NOW + timedelta(days=9_000), days=0) == 0
    assert audit_retention.prune(NOW + timedelta(days=DAYS), days=DAYS) == 0
    assert not AuditAnchor.objects.exists()


def test_a_trail_that_is_not_as_written_stays_as_evidence(sealed: list[AuditEvent]) -> None:
    AuditEvent.objects.filter(pk=sealed[2].pk).update(actor="eve")
    assert audit_retention.prune(LATER, days=DAYS) == 2, "what is before it was as written"
    assert audit_retention.prune(LATER, days=DAYS) == 0
    assert AuditEvent.objects.filter(pk=sealed[2].pk).exists()
    assert audit_chain.verify().broken == Broken(2, "altered", sealed[2].pk)


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (lambda rows: AuditAnchor.objects.update(digest=bytes(32)), "anchor"),
        (lambda rows: AuditAnchor.objects.update(last_id=rows[4].pk), "anchor"),
        (lambda rows: AuditAnchor.objects.update(rows=2), "anchor"),
        (lambda rows: AuditAnchor.objects.all().delete(), "anchor"),
        (lambda rows: AuditEvent.objects.filter(verb=PRUNED).delete(), "anchor"),
        (lambda rows: AuditEvent.objects.filter(verb=PRUNED).update(after={}), "anchor"),
        (lambda rows: _both(bytes(32)), "chain"),
        (lambda rows: write(NOW + timedelta(seconds=1)), "added"),
        (lambda rows: AuditEvent.objects.filter(pk=rows[5].pk).delete(), "missing"),
    ],
)
def test_what_is_done_to_the_anchor_or_past_it_is_found(
    pruned: list[AuditEvent], harm: Callable[[list[AuditEvent]], object], what: str
) -> None:
    assert audit_chain.verify().broken is None
    harm(pruned)
    broken = audit_chain.verify().broken
    assert broken is not None
    assert broken.what == what
    audit_checks.start(actor=SYSTEM, now=LATER)
    checked = audit_checks.go_on(now=LATER)
    assert checked is not None
    assert checked.broken_what == what
    with pytest.raises(CommandError, match="audit_broken"):
        call_command("audit", "verify", stdout=StringIO())


def _both(digest: bytes) -> None:
    """Change the anchor, and the row that tells of it to match."""
    AuditAnchor.objects.update(digest=digest)
    after = audit_chain.anchor_told(AuditAnchor.objects.get())
    AuditEvent.objects.filter(verb=PRUNED).update(after=after)


def test_a_check_that_is_under_way_while_rows_leave_finds_no_breach(
    sealed: list[AuditEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = audit_chain._compared, []

    def slow(one: AuditSeal, place: audit_chain.Place) -> Broken | None:
        if not seen:  # the rows of the first two seals leave under the walk
            seen.append(one.n)
            monkeypatch.setattr(audit_chain, "_compared", real)
            assert audit_retention.prune(LATER, days=DAYS) == 4
        return real(one, place)

    monkeypatch.setattr(audit_chain, "_compared", slow)
    found = audit_chain.verify()
    assert seen == [1]
    assert (found.seals, found.broken) == (3, None)


def test_the_daily_check_goes_on_after_rows_have_left(sealed: list[AuditEvent]) -> None:
    audit_checks.start(actor=SYSTEM, now=NOW)
    audit_checks.go_on(now=NOW)
    audit_retention.prune(LATER, days=DAYS)
    audit_checks.start(actor=SYSTEM, now=LATER)
    row = audit_checks.go_on(now=LATER)
    assert row is not None
    assert (row.broken_seal, row.seals, row.rows, row.of_seals) == (None, 3, 2, 3)


def test_the_command_says_what_left_and_takes_the_last_digest_that_did(pruned: list[AuditEvent]) -> None:
    out = StringIO()
    call_command("audit", "verify", "--digest", bytes(AuditAnchor.objects.get().digest).hex(), stdout=out)
    assert "2 rows under 1 seals are as written" in out.getvalue()
    assert "4 older rows have left, up to seal 2" in out.getvalue()
    with pytest.raises(CommandError, match="seals 1 to 2, which have left"):
        call_command("audit", "verify", "--digest", "ab" * 32, stdout=out)


def test_a_retention_shorter_than_a_month_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    from fleet import settings as module

    monkeypatch.setenv("FLEET_AUDIT_DAYS", "7")
    with pytest.raises(ImproperlyConfigured, match="FLEET_AUDIT_DAYS is 7"):
        importlib.reload(module)
    monkeypatch.undo()
    importlib.reload(module)


@pytest.mark.django_db(transaction=True)
def test_of_two_workers_at_once_one_lets_a_seal_leave(sealed: list[AuditEvent]) -> None:
    def work(_: int) -> int:
        try:
            return audit_retention.prune(LATER, days=DAYS)
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(work, range(2))) == [0, 4]
    assert AuditEvent.objects.filter(verb=PRUNED).count() == 1
    assert audit_chain.verify().broken is None
