"""Rows leave between any two statements of a look at the chain: nobody calls that a breach."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.utils import timezone

from fleet.accounts import audit_chain, audit_checks, audit_retention
from fleet.accounts.audit import SYSTEM
from fleet.accounts.audit_chain import LAG
from fleet.accounts.models import AuditAnchor, AuditCheck, AuditEvent
from tests.accounts.test_audit_chain import write

pytestmark = pytest.mark.django_db
DAYS = 30
NOW = timezone.now() - timedelta(days=100)
"""Long ago: what is written while rows leave has ids of the present, which come after all of these."""
SEALS = 6
Look = Callable[[], Any]


def seal_at(minute: int) -> None:
    """Two rows and the seal over them."""
    at = NOW + timedelta(minutes=minute)
    write(at, 2)
    assert audit_chain.seal(at + LAG + timedelta(seconds=1)) == 2


def prune(seals: int) -> None:
    """Let rows leave up to this seal, as another worker would: its statements are not counted."""
    audit_retention.prune(NOW + timedelta(days=DAYS, minutes=seals - 1, seconds=30), days=DAYS)


@pytest.fixture
def sealed() -> None:
    """Twelve rows under six seals, a minute apart; two seals have left, and a check ended at the third."""
    AuditEvent.objects.all().delete()
    for minute in range(3):
        seal_at(minute)
    prune(2)
    assert AuditAnchor.objects.get().n == 2
    audit_checks.start(actor=SYSTEM, now=NOW)
    row = audit_checks.go_on(now=NOW)
    assert row is not None
    assert (row.seals, row.broken_seal) == (3, None)
    for minute in range(3, SEALS):
        seal_at(minute)


@contextmanager
def before_statement(n: int, act: Callable[[], None]) -> Iterator[list[str]]:
    """Do something just before the n-th statement (from 0); the list is of those that were seen."""
    seen: list[str] = []
    is_busy = False

    def wrapper(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        nonlocal is_busy
        if not is_busy and sql.startswith(("SELECT", "DECLARE", "UPDATE")):
            if len(seen) == n:
                is_busy = True
                act()
                is_busy = False
            seen.append(sql)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(wrapper):
        yield seen


def verified() -> None:
    assert audit_chain.verify().broken is None


def checked() -> None:
    audit_checks.start(actor=SYSTEM, now=NOW + timedelta(days=1))
    row = audit_checks.go_on(now=NOW + timedelta(days=1))
    assert row is not None
    assert (row.broken_seal, row.broken_what, row.seals) == (None, "", SEALS)
    assert row.finished_at is not None


def went_on() -> None:
    """A reader that was told to go on behind seal 3."""
    begin = audit_chain.place_of(3)
    assert begin is not None
    *_, (place, broken) = audit_chain.walk(begin)
    assert (place.seals, broken) == (SEALS, None)


def held_to_a_digest() -> None:
    """The command, with the digest of the last seal that leaves."""
    digest = AuditCheck.objects.values_list("digest", flat=True)[0]
    call_command("audit", "verify", "--digest", digest, stdout=StringIO())


@pytest.mark.parametrize("left", [3, 4, 5])
@pytest.mark.parametrize("look", [verified, checked, went_on])
def test_rows_that_leave_meanwhile_are_no_breach(sealed: None, look: Look, left: int) -> None:
    n, statements = 0, 1
    while n < statements:
        with transaction.atomic():
            with before_statement(n, lambda: prune(left)) as seen:
                look()
            statements = len(seen)
            assert n >= statements or AuditAnchor.objects.get().n == left
            transaction.set_rollback(True)
        n += 1
    assert n > 3


def test_a_digest_that_was_noted_holds_while_its_seal_becomes_the_anchor(sealed: None) -> None:
    n, statements = 0, 1
    while n < statements:
        with transaction.atomic():
            with before_statement(n, lambda: prune(3)) as seen:
                held_to_a_digest()
            statements = len(seen)
            transaction.set_rollback(True)
        n += 1
    assert n > 3


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_reader_whose_place_has_left_goes_on_from_the_anchor(sealed: None, after: int) -> None:
    prune(4)
    begin = audit_chain.place_of(after)
    assert begin == audit_chain.begin()
    assert audit_chain.place_of(SEALS + 1) is None


def test_a_breach_is_told_although_rows_leave_meanwhile(sealed: None) -> None:
    AuditEvent.objects.filter(pk__in=AuditEvent.objects.order_by("id").values("pk")[6:7]).update(actor="eve")
    n, statements = 0, 1
    while n < statements:
        with transaction.atomic():
            with before_statement(n, lambda: prune(4)) as seen:
                broken = audit_chain.verify().broken
            assert broken is not None
            assert (broken.seal, broken.what) == (6, "altered")
            statements = len(seen)
            transaction.set_rollback(True)
        n += 1
