"""The second factor: a code of an authenticator (TOTP, RFC 6238), or a recovery code that counts once.

A code is refused alike whatever is wrong with it. Every refusal is counted in the database, not in the
cache, so that the wait between guesses holds while Redis is away.
"""

from __future__ import annotations

import secrets
import uuid
from base64 import b32encode
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import quote, urlencode

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q
from django.utils.crypto import constant_time_compare, salted_hmac
from django_otp.oath import hotp  # type: ignore[import-untyped]

from fleet.accounts import audit
from fleet.accounts.audit import Actor
from fleet.accounts.errors import AccountError
from fleet.accounts.models import RecoveryCode, SecondFactor, User
from fleet.sealing import seal, unseal

STEP_S: Final = 30
DRIFT_STEPS: Final = 1
"""Codes of the step before and after count too: clocks differ."""
FREE_TRIES: Final = 5
LONGEST_HOLD: Final = timedelta(minutes=15)
PENDING: Final = timedelta(hours=1)
"""A secret that nobody confirmed in this time is not shown again."""
RECOVERY_CODES: Final = 10
_ALPHABET: Final = "abcdefghjkmnpqrstuvwxyz23456789"  # nothing that is read as something else
_SECRET_BYTES: Final = 20


def begin(user: User, *, now: datetime) -> SecondFactor:
    """Make a secret for `user`, which counts once it is confirmed; one that waits already is made anew.

    Raises AccountError `illegal_transition` when a second factor is confirmed already, SealError
    `passphrase_missing`.
    """
    made_id = uuid.uuid4()
    sealed = seal(secrets.token_bytes(_SECRET_BYTES), purpose=_purpose(made_id), passphrase=_passphrase())
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)  # one enrolment at a time
        SecondFactor.objects.filter(user=user, confirmed_at=None).delete()
        if SecondFactor.objects.filter(user=user).exists():
            raise AccountError("illegal_transition", "a second factor is set up already: remove it first")
        return SecondFactor.objects.create(id=made_id, user=user, sealed_secret=sealed, made_at=now)


def pending(user: User, *, now: datetime) -> SecondFactor | None:
    """The secret that waits for its first code, when it is young enough to be shown."""
    return SecondFactor.objects.filter(user=user, confirmed_at=None, made_at__gt=now - PENDING).first()


def secret_text(factor: SecondFactor) -> str:
    """The secret as people type it into an authenticator: base32. Raises SealError."""
    return b32encode(_secret(factor)).decode()


def uri(factor: SecondFactor, *, account: str, issuer: str = "TinyFleet") -> str:
    """The secret as an `otpauth:` address, which a QR code shows. Raises SealError."""
    asked = urlencode({"secret": secret_text(factor), "issuer": issuer, "period": STEP_S}, quote_via=quote)
    return f"otpauth://totp/{quote(issuer)}:{quote(account, safe='')}?{asked}"


def confirm(factor: SecondFactor, code: str, *, actor: Actor, now: datetime) -> list[str] | None:
    """Let the second factor count from now on. Returns the recovery codes, shown once; None for a wrong code.

    Raises AccountError `illegal_transition` when it counts already or was made anew, SealError.
    """
    if not _is_right(factor, code, now=now):
        return None
    user = factor.user
    with transaction.atomic():
        waiting = SecondFactor.objects.filter(pk=factor.pk, confirmed_at=None)
        if waiting.update(confirmed_at=now, failures=0, held_until=None) != 1:
            raise AccountError("illegal_transition", "this second factor was set up or replaced meanwhile")
        User.objects.filter(pk=user.pk).update(second_factor=str(factor.pk))
        codes = _new_codes(user)
        _record("second_factor.confirm", user, actor, now)
    user.second_factor = str(factor.pk)
    return codes


def passes(user: User, code: str, *, actor: Actor, now: datetime) -> bool:
    """True when `code` is a code of the person's authenticator that was not used, or a recovery code.

    Using a recovery code is recorded; it never counts again. Raises SealError.
    """
    factor = SecondFactor.objects.filter(user=user, confirmed_at__isnull=False).first()
    if factor is None:
        return False
    text = code.strip().replace(" ", "").lower()
    if text.isascii() and text.isdigit():
        return _is_right(factor, text, now=now)
    return _recovers(factor, user, text, actor=actor, now=now)


def remove(user: User, *, actor: Actor, now: datetime, reason: str = "") -> bool:
    """Take the second factor and its recovery codes away. True when there was one.

    Sessions that it had let in need the next one, once there is one again.
    """
    with transaction.atomic():
        gone, _ = SecondFactor.objects.filter(user=user).delete()
        RecoveryCode.objects.filter(user=user).delete()
        User.objects.filter(pk=user.pk).update(second_factor="")
        if gone:
            _record("second_factor.remove", user, actor, now, reason)
    user.second_factor = ""
    return bool(gone)


def renew_codes(user: User, *, actor: Actor, now: datetime) -> list[str]:
    """Ten new recovery codes in place of those there are; shown once.

    Raises AccountError `illegal_transition` without a second factor.
    """
    with transaction.atomic():
        if not SecondFactor.objects.filter(user=user, confirmed_at__isnull=False).exists():
            raise AccountError("illegal_transition", "there is no second factor to recover")
        codes = _new_codes(user)
        _record("second_factor.renew_codes", user, actor, now)
    return codes


def _is_right(factor: SecondFactor, code: str, *, now: datetime) -> bool:
    """Compare with the codes around now; a code, and any before it, is used up by the one who wins."""
    if factor.held_until is not None and factor.held_until > now:
        return False
    key, step, used = _secret(factor), int(now.timestamp()) // STEP_S, 0
    text = code.strip().replace(" ", "")
    for one in range(step - DRIFT_STEPS, step + DRIFT_STEPS + 1):
        # every step is compared, so that the time taken does not tell which one it was
        if constant_time_compare(text, f"{hotp(key, one):06d}"):
            used = one
    if not used:
        return _refuse(factor, now)
    free = SecondFactor.objects.filter(pk=factor.pk, last_step__lt=used)
    if free.update(last_step=used, failures=0, held_until=None) != 1:
        return _refuse(factor, now)
    return True


def _recovers(factor: SecondFactor, user: User, text: str, *, actor: Actor, now: datetime) -> bool:
    if factor.held_until is not None and factor.held_until > now:
        return False
    with transaction.atomic():
        gone, _ = RecoveryCode.objects.filter(user=user, digest=_digest(user, text)).delete()
        if gone:
            SecondFactor.objects.filter(pk=factor.pk).update(failures=0, held_until=None)
            _record("second_factor.recover", user, actor, now)
            return True
    return _refuse(factor, now)


def _refuse(factor: SecondFactor, now: datetime) -> bool:
    """Count a wrong code; past FREE_TRIES each doubles the wait. Always False."""
    row = SecondFactor.objects.filter(pk=factor.pk)
    row.update(failures=F("failures") + 1)
    n = row.values_list("failures", flat=True).first() or 0
    if n >= FREE_TRIES:
        hold = min(LONGEST_HOLD, timedelta(seconds=2 ** min(n - FREE_TRIES, 20)))
        row.filter(Q(held_until=None) | Q(held_until__lt=now + hold)).update(held_until=now + hold)
    return False


def _new_codes(user: User) -> list[str]:
    RecoveryCode.objects.filter(user=user).delete()
    codes = ["-".join(_letters(5) for _ in range(2)) for _ in range(RECOVERY_CODES)]
    RecoveryCode.objects.bulk_create(RecoveryCode(user=user, digest=_digest(user, code)) for code in codes)
    return codes


def _letters(n: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(n))


def _digest(user: User, code: str) -> bytes:
    text = f"{user.pk}:{code.replace('-', '')}"
    return salted_hmac("fleet.accounts.second_factor", text, algorithm="sha256").digest()


def _secret(factor: SecondFactor) -> bytes:
    return unseal(bytes(factor.sealed_secret), purpose=_purpose(factor.pk), passphrase=_passphrase())


def _purpose(factor_id: uuid.UUID) -> str:
    return f"second factor {factor_id}"


def _passphrase() -> str:
    return str(settings.KEY_PASSPHRASE)


def _record(verb: str, user: User, actor: Actor, now: datetime, reason: str = "") -> None:
    audit.record(actor=actor, verb=verb, subject_kind="user", subject_id=user.username, at=now, reason=reason)
