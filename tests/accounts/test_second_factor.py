"""A second factor counts once it is confirmed; a code counts once, and guesses wait."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection

from fleet.accounts import second_factor
from fleet.accounts.audit import Actor
from fleet.accounts.errors import AccountError
from fleet.accounts.models import AuditEvent, RecoveryCode, SecondFactor, User
from fleet.sealing import SealError
from tests.accounts.authenticator import code_at

pytestmark = pytest.mark.django_db
HER = Actor("user", "viewer")
LATER = timedelta(minutes=5)


def enrol(user: User, now: datetime) -> tuple[str, list[str]]:
    """(secret, recovery codes) of a confirmed second factor."""
    factor = second_factor.begin(user, now=now)
    secret = second_factor.secret_text(factor)
    codes = second_factor.confirm(factor, code_at(secret, now), actor=HER, now=now)
    assert codes is not None
    user.refresh_from_db()
    return secret, codes


def passes(user: User, code: str, now: datetime) -> bool:
    return second_factor.passes(user, code, actor=HER, now=now)


def test_the_codes_are_those_of_rfc_6238() -> None:
    secret = (
        "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"  # appendix B: "12345678901234567890", last six of eight digits
    )
    for seconds, code in ((59, "287082"), (1111111109, "081804"), (20000000000, "353130")):
        assert code_at(secret, datetime.fromtimestamp(seconds)) == code


def test_it_counts_only_after_its_first_code(viewer: User, now: datetime) -> None:
    factor = second_factor.begin(viewer, now=now)
    secret = second_factor.secret_text(factor)
    assert second_factor.confirm(factor, "000000", actor=HER, now=now) is None
    assert not passes(viewer, code_at(secret, now), now)
    viewer.refresh_from_db()
    assert viewer.second_factor == ""
    codes = second_factor.confirm(factor, code_at(secret, now), actor=HER, now=now)
    assert codes is not None
    assert len(set(codes)) == second_factor.RECOVERY_CODES
    viewer.refresh_from_db()
    assert viewer.second_factor == str(factor.pk)
    assert AuditEvent.objects.get(verb="second_factor.confirm").subject_id == "viewer"


def test_a_code_is_accepted_once_and_so_are_those_before_it(viewer: User, now: datetime) -> None:
    secret, _ = enrol(viewer, now)
    assert not passes(viewer, code_at(secret, now), now), "the code that confirmed it is used up"
    later = now + LATER
    assert passes(viewer, code_at(secret, later), later)
    assert not passes(viewer, code_at(secret, later), later)
    assert not passes(viewer, code_at(secret, later, steps=-1), later)
    assert passes(
        viewer, f" {code_at(secret, later, steps=1)[:3]} {code_at(secret, later, steps=1)[3:]}", later
    )


def test_codes_far_from_now_are_refused(viewer: User, now: datetime) -> None:
    secret, _ = enrol(viewer, now)
    later = now + LATER
    for steps in (-2, 2, 100):
        assert not passes(viewer, code_at(secret, later, steps=steps), later)


@pytest.mark.django_db(transaction=True)
def test_of_many_requests_with_one_code_one_gets_in(make_user: Any, now: datetime) -> None:
    user = make_user("viewer")
    secret, codes = enrol(user, now)
    later = now + LATER

    def ask(code: str) -> bool:
        try:
            return passes(user, code, later)
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ask, [code_at(secret, later)] * 8)) == 1
        SecondFactor.objects.update(failures=0, held_until=None)
        assert sum(pool.map(ask, codes[:1] * 8)) == 1


def test_a_recovery_code_counts_once_and_is_recorded(viewer: User, now: datetime) -> None:
    _, codes = enrol(viewer, now)
    assert passes(viewer, codes[3].upper(), now)
    assert not passes(viewer, codes[3], now)
    assert AuditEvent.objects.filter(verb="second_factor.recover").count() == 1
    fresh = second_factor.renew_codes(viewer, actor=HER, now=now)
    assert not passes(viewer, codes[4], now)
    assert passes(viewer, fresh[0].replace("-", ""), now)


def test_guesses_wait_longer_and_longer_and_even_the_right_code_waits(viewer: User, now: datetime) -> None:
    secret, codes = enrol(viewer, now)
    later = now + LATER
    for _ in range(second_factor.FREE_TRIES + 3):
        SecondFactor.objects.update(held_until=None)
        assert not passes(viewer, "123456" if code_at(secret, later) != "123456" else "654321", later)
    held = SecondFactor.objects.get().held_until
    assert held == later + timedelta(seconds=8)
    assert not passes(viewer, code_at(secret, later), later)
    assert not passes(viewer, codes[0], later)
    assert passes(viewer, code_at(secret, later), later + timedelta(seconds=9))
    SecondFactor.objects.update(failures=60)
    assert not passes(viewer, "abcde-fghjk", later)
    assert SecondFactor.objects.get().held_until == later + second_factor.LONGEST_HOLD


def test_neither_secret_nor_codes_can_be_read_in_the_database(
    viewer: User, now: datetime, settings: Any
) -> None:
    secret, codes = enrol(viewer, now)
    kept = repr([bytes(row.sealed_secret) for row in SecondFactor.objects.all()])
    kept += repr([bytes(row.digest) for row in RecoveryCode.objects.all()]) + repr(
        AuditEvent.objects.values()
    )
    assert secret not in kept
    assert not any(code in kept for code in codes)
    settings.KEY_PASSPHRASE = "another"
    with pytest.raises(SealError):
        second_factor.secret_text(SecondFactor.objects.get())
    settings.KEY_PASSPHRASE = ""
    with pytest.raises(SealError):
        second_factor.begin(viewer, now=now)


def test_one_that_counts_is_not_replaced_unseen(viewer: User, now: datetime) -> None:
    enrol(viewer, now)
    with pytest.raises(AccountError, match="illegal_transition"):
        second_factor.begin(viewer, now=now)
    assert second_factor.remove(viewer, actor=HER, now=now, reason="lost")
    assert not second_factor.remove(viewer, actor=HER, now=now)
    viewer.refresh_from_db()
    assert (viewer.second_factor, RecoveryCode.objects.count()) == ("", 0)
    assert AuditEvent.objects.get(verb="second_factor.remove").reason == "lost"
    with pytest.raises(AccountError, match="illegal_transition"):
        second_factor.renew_codes(viewer, actor=HER, now=now)


def test_a_secret_begun_again_leaves_the_first_without_effect(viewer: User, now: datetime) -> None:
    first = second_factor.begin(viewer, now=now)
    text = second_factor.secret_text(first)
    second = second_factor.begin(viewer, now=now)
    assert second_factor.secret_text(second) != text
    assert second_factor.confirm(first, code_at(text, now), actor=HER, now=now) is None
    assert second_factor.pending(viewer, now=now) == second
    assert second_factor.pending(viewer, now=now + second_factor.PENDING) is None


def test_the_address_in_the_qr_code_names_installation_and_person(viewer: User, now: datetime) -> None:
    factor = second_factor.begin(viewer, now=now)
    uri = second_factor.uri(factor, account="o'l g/a?")
    assert uri.startswith("otpauth://totp/TinyFleet:o%27l%20g%2Fa%3F?secret=")
    assert f"secret={second_factor.secret_text(factor)}&issuer=TinyFleet&period=30" in uri
