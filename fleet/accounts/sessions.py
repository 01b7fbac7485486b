"""Sessions of people: begun with what they showed, seen and ended by them, asked again after a while.

What a session was let in by stands in the session itself: the second factor's id and the time of the last
password or code. Django's own check ends a session whose person's password changed or who is disabled.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from django.contrib import auth
from django.contrib.sessions.models import Session
from django.db import transaction
from django.http import HttpRequest

from fleet.accounts import audit
from fleet.accounts.audit import Actor
from fleet.accounts.models import SignIn, User

FRESH: Final = timedelta(minutes=10)
"""How long after a password or a code dangerous verbs do not ask again."""
HALFWAY: Final = timedelta(minutes=10)
"""How long after the password the second factor may be shown."""
_FACTOR: Final = "second_factor"
_ASKED: Final = "asked_at"
_HALF: Final = "half_signed_in"


def begin(request: HttpRequest, user: User, *, now: datetime, backend: str | None = None) -> None:
    """Sign in: a new session key, and a row that the person sees. Whoever calls has seen all that is due."""
    auth.login(request, user, backend=backend)
    passed(request, user, now=now)
    request.session.pop(_HALF, None)
    if request.session.session_key is None:
        request.session.save()
    with transaction.atomic():
        live = Session.objects.filter(expire_date__gt=now).values("session_key")
        SignIn.objects.filter(user=user).exclude(session_key__in=live).delete()
        SignIn.objects.update_or_create(
            session_key=str(request.session.session_key),
            defaults={
                "user": user,
                "begun_at": now,
                "address": request.META.get("REMOTE_ADDR", "")[:64],
                "browser": _printable(request.headers.get("User-Agent", ""))[:200],
            },
        )


def passed(request: HttpRequest, user: User, *, now: datetime) -> None:
    """Note that password or code were just shown: what asks again does not for FRESH."""
    request.session[_FACTOR] = user.second_factor
    request.session[_ASKED] = now.timestamp()


def is_fresh(request: HttpRequest, *, now: datetime) -> bool:
    """True when the person of this session showed password or code within FRESH."""
    asked_at = request.session.get(_ASKED)
    return isinstance(asked_at, int | float) and 0 <= now.timestamp() - asked_at < FRESH.total_seconds()


def is_verified(request: HttpRequest) -> bool:
    """True when the session was let in by the person's present second factor, or there is none."""
    factor = getattr(request.user, "second_factor", "")
    return not factor or request.session.get(_FACTOR) == factor


def begin_half(request: HttpRequest, user: User, wanted: str, *, now: datetime) -> None:
    """The password was right and a second factor is due: nobody is signed in yet."""
    request.session.cycle_key()
    request.session[_HALF] = {"user": user.pk, "at": now.timestamp(), "next": wanted}


def half(request: HttpRequest, *, now: datetime) -> tuple[User, str] | None:
    """Who showed the password in this session within HALFWAY, and where they wanted to go."""
    found: Any = request.session.get(_HALF)
    if not isinstance(found, dict) or now.timestamp() - found["at"] > HALFWAY.total_seconds():
        return None
    user = User.objects.filter(pk=found["user"], is_active=True).first()
    return None if user is None else (user, str(found["next"]))


def sessions_of(user: User, *, now: datetime) -> list[SignIn]:
    """The person's sessions that still count, newest first."""
    live = Session.objects.filter(expire_date__gt=now).values("session_key")
    return list(SignIn.objects.filter(user=user, session_key__in=live))


def end_others(user: User, keep: str | None, *, actor: Actor, now: datetime) -> int:
    """End every session of a person but `keep` (a session key; None ends all). Returns how many."""
    with transaction.atomic():
        rows = SignIn.objects.filter(user=user).exclude(session_key=keep or "")
        ended, _ = Session.objects.filter(session_key__in=rows.values("session_key")).delete()
        rows.delete()
        if ended:
            audit.record(
                actor=actor,
                verb="session.end_others",
                subject_kind="user",
                subject_id=user.username,
                at=now,
                after={"ended": ended},
            )
    return ended


def _printable(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable())
