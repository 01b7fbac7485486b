"""What was sealed cannot be changed, removed or slipped in unseen."""

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.accounts import audit_chain
from fleet.accounts.audit import SYSTEM, record
from fleet.accounts.audit_chain import LAG, Broken
from fleet.accounts.models import AuditEvent, AuditSeal

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 5, 2, 12, 0, tzinfo=UTC)


def write(at: datetime, n: int = 1) -> list[AuditEvent]:
    """Rows of a moment, their ids of that time too."""
    made = []
    for number in range(n):
        row = record(actor=SYSTEM, verb="made", subject_kind="thing", subject_id=str(number), at=at,
                     after={"size": 1.5, "name": "ü"})  # fmt: skip
        AuditEvent.objects.filter(pk=row.pk).delete()
        row.pk = uuid.UUID(int=(int(at.timestamp() * 1000) << 80) | (0x7 << 76) | (0x2 << 62) | number)
        row.save(force_insert=True)
        made.append(row)
    return made


@pytest.fixture
def sealed() -> list[AuditEvent]:
    """Six rows under three seals."""
    AuditEvent.objects.all().delete()
    rows = []
    for minute in range(3):
        rows += write(NOW + timedelta(minutes=minute), 2)
        assert audit_chain.seal(NOW + timedelta(minutes=minute) + LAG + timedelta(seconds=1)) == 2
    return rows


def test_rows_are_sealed_once_when_they_are_old_enough() -> None:
    AuditEvent.objects.all().delete()
    write(NOW, 3)
    assert audit_chain.seal(NOW + LAG) == 0
    assert audit_chain.seal(NOW + LAG + timedelta(seconds=1)) == 3
    assert audit_chain.seal(NOW + LAG + timedelta(seconds=1)) == 0
    write(NOW + timedelta(seconds=5))
    found = audit_chain.verify()
    assert (found.seals, found.rows, found.unsealed, found.broken) == (1, 3, 1, None)


def test_many_rows_are_sealed_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    AuditEvent.objects.all().delete()
    monkeypatch.setattr(audit_chain, "BATCH", 2)
    write(NOW, 5)
    assert audit_chain.seal(NOW + timedelta(hours=1)) == 5
    assert list(AuditSeal.objects.values_list("n", "count")) == [(1, 2), (2, 2), (3, 1)]
    assert audit_chain.verify().broken is None


@pytest.mark.parametrize(
    ("harm", "what", "row"),
    [
        (lambda rows: AuditEvent.objects.filter(pk=rows[2].pk).update(actor="eve"), "altered", 2),
        (lambda rows: AuditEvent.objects.filter(pk=rows[3].pk).update(after={"size": 2}), "altered", 3),
        (lambda rows: AuditEvent.objects.filter(pk=rows[2].pk).delete(), "missing", None),
        (lambda rows: AuditEvent.objects.filter(pk=rows[3].pk).delete(), "missing", 2),
    ],
)
def test_the_first_row_that_is_not_as_sealed_is_named(
    sealed: list[AuditEvent], harm: Callable[[list[AuditEvent]], object], what: str, row: int | None
) -> None:
    harm(sealed)
    expected = Broken(2, what, sealed[row].pk if row is not None else None)
    assert audit_chain.verify().broken == expected


def test_a_row_slipped_in_is_named(sealed: list[AuditEvent]) -> None:
    (late,) = write(NOW + timedelta(seconds=1))
    assert audit_chain.verify().broken == Broken(2, "added", late.pk)


def test_a_seal_that_is_gone_or_changed_breaks_the_chain(sealed: list[AuditEvent]) -> None:
    AuditSeal.objects.filter(n=2).update(digest=bytes(32))
    assert audit_chain.verify().broken == Broken(2, "chain")
    AuditSeal.objects.filter(n=2).delete()
    assert audit_chain.verify().broken == Broken(3, "chain")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(which=st.integers(0, 5), field=st.sampled_from(["actor", "verb", "reason", "subject_id", "source_ip"]))
def test_no_field_of_a_sealed_row_can_change_unseen(sealed: list[AuditEvent], which: int, field: str) -> None:
    row = AuditEvent.objects.filter(pk=sealed[which].pk)
    before = row.values_list(field, flat=True)[0]
    row.update(**{field: f"{before}x"})
    found = audit_chain.verify().broken
    row.update(**{field: before})
    assert found == Broken(which // 2 + 1, "altered", sealed[which].pk)
    assert audit_chain.verify().broken is None


def test_the_command_verifies_and_holds_the_chain_to_a_noted_digest(sealed: list[AuditEvent]) -> None:
    out = StringIO()
    call_command("audit", "verify", stdout=out)
    assert "6 rows under 3 seals are as written; 0 are younger" in out.getvalue()
    noted = audit_chain.verify().digest
    call_command("audit", "verify", "--digest", noted, stdout=out)
    AuditSeal.objects.all().delete()
    AuditEvent.objects.filter(pk=sealed[0].pk).update(actor="eve")
    audit_chain.seal(NOW + timedelta(hours=1))
    call_command("audit", "verify", stdout=out)
    with pytest.raises(CommandError, match="made anew"):
        call_command("audit", "verify", "--digest", noted, stdout=out)
    AuditEvent.objects.filter(pk=sealed[1].pk).delete()
    with pytest.raises(CommandError, match=r"audit_broken: seal 1: a row behind .* is gone"):
        call_command("audit", "verify", stdout=out)


def test_the_trail_is_exported_oldest_first(sealed: list[AuditEvent]) -> None:
    out = StringIO()
    call_command("audit", "export", "--from", "2026-05-02T12:01:00Z", stdout=out)
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [row["id"] for row in rows] == [str(row.pk) for row in sealed[2:]]
    assert rows[0]["after"] == {"size": 1.5, "name": "ü"}
    out = StringIO()
    call_command("audit", "export", "--format", "csv", stdout=out)
    assert len(out.getvalue().splitlines()) == 7
