"""People and invitations: the list, the page of one person, and the link that is shown once."""

from __future__ import annotations

import uuid
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from fleet.accounts import invitations, people, second_factor
from fleet.accounts.errors import AccountError
from fleet.accounts.models import Invitation, Role, User
from fleet.console.access import actor, ask_again, kept, page, person
from fleet.console.once import sent_once
from fleet.console.paging import page_of
from fleet.console.views.sign_in import see_other
from fleet.devices import limits
from fleet.devices.errors import GroupError
from fleet.devices.models import DeviceGroup


@require_safe
@page("users:admin")
def user_list(request: HttpRequest) -> HttpResponse:
    """Everybody, with role, last sign-in and second factor; invitations that wait."""
    return _list(request, asked=kept(request))


@never_cache
@require_POST
@page("users:admin")
@sent_once
def invite(request: HttpRequest) -> HttpResponse:
    """Invite somebody: the answer shows the link, this once. 422 with what was typed when it is refused."""
    if (asked := ask_again(request, back=reverse("console:users"))) is not None:
        return asked
    typed = {name: request.POST.get(name, "")[:254] for name in ("role", "email", "groups")}
    try:
        made, path = invitations.invite(
            typed["role"],
            email=typed["email"],
            group_limit=_groups(typed["groups"]),
            actor=actor(request),
            now=timezone.now(),
        )
    except (AccountError, GroupError) as error:
        return _list(request, asked=typed, error=error, status=422)
    link = f"{settings.PUBLIC_URL.rstrip('/')}{path}"
    return _list(request, made=made, link=link, is_mailed=invitations.mail(made, path), status=201)


@require_POST
@page("users:admin")
def revoke(request: HttpRequest, invitation_id: uuid.UUID) -> HttpResponse:
    """End an invitation, then back to the list."""
    if (asked := ask_again(request, back=reverse("console:users"))) is not None:
        return asked
    row = Invitation.objects.filter(pk=invitation_id).first()
    if row is None:
        raise Http404("no such invitation")
    invitations.revoke(row, actor=actor(request), now=timezone.now())
    messages.success(request, "The invitation is over: its link opens nothing any more.")
    return see_other(reverse("console:users"))


@require_http_methods(["GET", "HEAD", "POST"])
@page("users:admin", asks_again=True)
def person_page(request: HttpRequest, name: str) -> HttpResponse:
    """GET: one person. POST role, is_active, groups and rev: change them, then back to the list; 409 when
    they were changed meanwhile, are oneself, or are the last administrator.
    """
    row = User.objects.filter(username=name).first()
    if row is None:
        raise Http404(f"no person {name}")
    if request.method != "POST":
        return _person(request, row, kept(request))
    typed = {field: request.POST.get(field, "")[:2_000] for field in ("role", "is_active", "groups", "rev")}
    try:
        limit = _groups(typed["groups"])
        asked = people.Change(
            role=typed["role"],
            is_active=typed["is_active"] == "1",
            group_limit=limit,
            no_limit=limit is None,
        )
        rev = int(typed["rev"]) if typed["rev"].isascii() and typed["rev"].isdigit() else 0
        people.change(row, asked, rev=rev, actor=actor(request), now=timezone.now())
    except (AccountError, GroupError) as error:
        status = 422 if error.field else 409
        row.refresh_from_db()
        return _person(request, row, typed, error=error, status=status)
    messages.success(request, f"{row.username} is changed.")
    return see_other(reverse("console:users"))


@require_POST
@page("users:admin")
def remove_second_factor(request: HttpRequest, name: str) -> HttpResponse:
    """POST reason: take the second factor of somebody who has lost it away; it asks for the password again.

    409 `illegal_transition` for one's own, which goes from the account's page with a code, and for somebody
    without one; 422 `validation` without a reason.
    """
    if (asked := ask_again(request, back=reverse("console:user", args=[name]))) is not None:
        return asked
    row = User.objects.filter(username=name).first()
    if row is None:
        raise Http404(f"no person {name}")
    reason = request.POST.get("reason", "").strip()[:500]
    if row.username == person(request):
        raise AccountError("illegal_transition", "your own second factor goes from your account, with a code")
    if not reason:
        raise AccountError("validation", "say why: it goes into the audit trail")
    if not second_factor.remove(row, actor=actor(request), now=timezone.now(), reason=reason):
        raise AccountError("illegal_transition", f"{row.username} has no second factor")
    said = f"The second factor of {row.username} is removed. Their password alone signs in."
    messages.success(request, said)
    return see_other(reverse("console:user", args=[row.username]))


def _list(request: HttpRequest, *, status: int = 200, **more: Any) -> HttpResponse:
    waiting = list(invitations.waiting(timezone.now()))
    context = {
        "page": page_of(request, User.objects.all(), key="username"),
        "waiting": waiting,
        "roles": Role.choices,
        "asked": {},
        "me": person(request),
        **more,
    }
    return render(request, "console/users.html", context, status=status)


def _person(
    request: HttpRequest,
    row: User,
    typed: dict[str, str],
    *,
    error: AccountError | GroupError | None = None,
    status: int = 200,
) -> HttpResponse:
    shown = {
        "role": row.role,
        "is_active": "1" if row.is_active else "",
        "groups": "" if row.group_limit is None else " ".join(row.group_limit) or NOBODY,
        **typed,
        "rev": row.rev,
    }
    context = {
        "person": row,
        "asked": shown,
        "roles": Role.choices,
        "error": error,
        "is_me": row.username == person(request),
        "groups": list(DeviceGroup.objects.order_by("name").values_list("name", flat=True)[:200]),
        "n_tokens": row.tokens.filter(revoked_at=None).count(),
    }
    return render(request, "console/user.html", context, status=status)


NOBODY = "-"
"""In the field of groups: none, so that no device is seen. Left empty, all are."""


def _groups(text: str) -> list[str] | None:
    """Names of groups, parted by blanks or commas. Raises GroupError `unknown_group`."""
    names = text.replace(",", " ").split()
    if names == [NOBODY]:
        return []
    limits.check(names)
    return names or None
