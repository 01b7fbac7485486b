"""API tokens: one's own; administrators see and end everybody's."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Final, cast

from django import forms
from django.contrib import messages
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from fleet.accounts import tokens
from fleet.accounts.models import ApiToken, User
from fleet.accounts.scopes import READ
from fleet.accounts.tokens import TokenError
from fleet.console.access import actor, ask_again, kept, page, scopes, see
from fleet.console.once import sent_once
from fleet.console.paging import page_of

ADMIN: Final = "users:admin"
DAYS: Final = (("7", "7 days"), ("30", "30 days"), ("90", "90 days"), ("366", "1 year"))


class TokenForm(forms.Form):
    """A token that is to be made. mine: scopes of the person who asks."""

    name = forms.CharField(
        label="Name",
        max_length=64,
        help_text="What it is for, e.g. <code>nightly build</code>.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    days = forms.ChoiceField(label="Lives for", choices=DAYS, initial="90")
    scopes = forms.MultipleChoiceField(label="Scopes")

    def __init__(
        self, data: object = None, *, mine: frozenset[str], typed: Mapping[str, str] | None = None
    ) -> None:
        first = {"scopes": sorted(mine & READ), **{k: v for k, v in (typed or {}).items() if k != "scopes"}}
        super().__init__(data, initial=first)  # type: ignore[arg-type]
        self.fields["scopes"].choices = [(name, name) for name in sorted(mine)]  # type: ignore[attr-defined]

    @property
    def ticked(self) -> list[str]:
        """Scopes that are ticked in the form."""
        return list(self["scopes"].value() or [])


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@page(*READ)
@sent_once
def token_list(request: HttpRequest) -> HttpResponse:
    """GET: own tokens, with `all=1` everybody's for administrators, and the form. POST: make one.

    Anybody who may sign in may make a token for themselves: it can do no more than they can here, and less
    as soon as they can less. The POST answers with the page and not with a redirect, unlike other forms: the
    value must reach this one answer and nothing that keeps it, no cookie and no session. It asks for password
    or code again.
    """
    if request.method != "POST":
        return _page(request, TokenForm(mine=scopes(request), typed=kept(request)))
    if (asked := ask_again(request)) is not None:
        return asked
    form = TokenForm(request.POST, mine=scopes(request))
    if not form.is_valid():
        return _page(request, form, status=422)
    said = form.cleaned_data
    try:
        made, text = tokens.issue(
            cast(User, request.user),
            said["name"],
            said["scopes"],
            actor=actor(request),
            now=timezone.now(),
            ttl=timedelta(days=int(said["days"])),
        )
    except TokenError as error:
        form.add_error(None, f"{error.code}: {error.text}")
        return _page(request, form, status=422)
    return _page(request, TokenForm(mine=scopes(request)), made=made, text=text, status=201)


@require_POST
@page(*READ)
def revoke(request: HttpRequest, public_id: str) -> HttpResponse:
    """End one's own token, or as an administrator anybody's; 404 for what one may not see."""
    row = _visible(request).filter(public_id=public_id).first()
    if row is None:
        raise Http404(f"no token {public_id}")
    tokens.revoke(row, actor=actor(request), now=timezone.now())
    messages.success(request, f"Revoked. {row.name} gets no answer any more.")
    is_mine = row.owner_id == request.user.pk
    return see(reverse("console:tokens") + ("" if is_mine else "?all=1"))


def _visible(request: HttpRequest) -> QuerySet[ApiToken]:
    rows = ApiToken.objects.select_related("owner")
    return rows if ADMIN in scopes(request) else rows.filter(owner=request.user.pk)


def _page(
    request: HttpRequest,
    form: TokenForm,
    *,
    made: ApiToken | None = None,
    text: str = "",
    status: int = 200,
) -> HttpResponse:
    is_all = request.GET.get("all") == "1" and ADMIN in scopes(request)
    rows = _visible(request) if is_all else _visible(request).filter(owner=request.user.pk)
    context = {
        "page": page_of(request, rows, is_descending=True),
        "form": form,
        "is_all": is_all,
        "may_see_all": ADMIN in scopes(request),
        "made": made,
        "text": text,
        "now": timezone.now(),
    }
    return render(request, "console/settings/tokens.html", context, status=status)
