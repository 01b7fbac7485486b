"""API tokens: one's own; administrators see and end everybody's, and say from where they may be used."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, cast

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from fleet.accounts import networks, tokens
from fleet.accounts.models import ApiToken, User
from fleet.accounts.scopes import READ
from fleet.accounts.tokens import TokenError
from fleet.console.access import actor, ask_again, kept, page, scopes, see
from fleet.console.once import sent_once
from fleet.console.paging import page_of

ADMIN: Final = "users:admin"
GRACES: Final = (
    ("0", "not any more"),
    ("1", "for an hour more"),
    ("24", "for a day more"),
    ("168", "for 7 days more"),
)
DAYS: Final = (("7", "7 days"), ("30", "30 days"), ("90", "90 days"), ("366", "1 year"))


class NetworksField(forms.CharField):
    """Networks, parted by blanks, commas or lines; a list, or None for nothing typed."""

    def __init__(self) -> None:
        super().__init__(
            label="May be used from",
            required=False,
            max_length=1_200,
            help_text="Networks as <code>10.1.0.0/16</code> or <code>2001:db8::/32</code>, or single "
            "addresses. Empty: from anywhere.",
            widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
        )

    def clean(self, value: object) -> Any:
        """What was typed, as networks."""
        typed = str(super().clean(value)).replace(",", " ").split()
        if not typed:
            return None
        try:
            return networks.parsed(typed)
        except ValueError as error:
            raise forms.ValidationError(str(error)) from None


class NetworksForm(forms.Form):
    """From where a token may be used. rev: of the token, as it was read."""

    networks = NetworksField()
    rev = forms.IntegerField(widget=forms.HiddenInput)


class RotateForm(forms.Form):
    """A new secret. grace_hours: how long the former one is taken too."""

    grace_hours = forms.ChoiceField(
        label="The former secret works",
        choices=GRACES,
        help_text="Give what uses the token the new one within that time.",
    )


class TokenForm(forms.Form):
    """A token that is to be made. mine: scopes of the person who asks."""

    name = forms.CharField(
        label="Name",
        max_length=64,
        help_text="What it is for, e.g. <code>nightly build</code>.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    days = forms.ChoiceField(label="Lives for", choices=DAYS, initial="90")
    networks = NetworksField()
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
            allowed_from=said["networks"],
        )
    except TokenError as error:
        form.add_error(None, f"{error.code}: {error.text}")
        return _page(request, form, status=422)
    return _page(request, TokenForm(mine=scopes(request)), made=made, text=text, status=201)


@require_http_methods(["GET", "HEAD", "POST"])
@page(*READ)
def token(request: HttpRequest, public_id: str) -> HttpResponse:
    """GET: one token. POST: from where it may be used; that asks for password or code again."""
    row = _token(request, public_id)
    if request.method != "POST":
        return _token_page(request, row)
    if (asked := ask_again(request)) is not None:
        return asked
    form = NetworksForm(request.POST)
    if not form.is_valid():
        return _token_page(request, row, form=form, status=422)
    row.rev = form.cleaned_data["rev"]
    try:
        tokens.change(
            row, allowed_from=form.cleaned_data["networks"], actor=actor(request), now=timezone.now()
        )
    except TokenError as error:
        form.add_error(None, f"{error.code}: {error.text}")
        return _token_page(request, _token(request, public_id), form=form, status=409)
    messages.success(request, "Saved.")
    return see(reverse("console:token", args=[row.public_id]))


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@page(*READ, asks_again=True)
@sent_once
def rotate(request: HttpRequest, public_id: str) -> HttpResponse:
    """GET: what it means. POST: a new secret for one's own token; the answer alone has it, so it is a page
    and no redirect, and sent twice the form leads to the token. Of somebody else's even an administrator gets
    none: it would act in that person's name.
    """
    row = _token(request, public_id)
    if row.owner_id != request.user.pk:
        raise PermissionDenied(f"scope_missing: only {row.owner.username} may have its secret")
    form = RotateForm(request.POST) if request.method == "POST" else RotateForm(initial=kept(request))
    status = 200
    if form.is_bound and form.is_valid():
        grace = timedelta(hours=int(form.cleaned_data["grace_hours"]))
        try:
            text = tokens.rotate(row, actor=actor(request), now=timezone.now(), grace=grace)
            answer = _token_page(request, row, text=text, status=201)
            answer["Location"] = reverse("console:token", args=[row.public_id])
            return answer
        except TokenError as error:
            form.add_error(None, f"{error.code}: {error.text}")
            status = 409
    elif form.is_bound:
        status = 422
    context = {"token": row, "form": form}
    return render(request, "console/settings/token_rotate.html", context, status=status)


@require_POST
@page(*READ)
def revoke(request: HttpRequest, public_id: str) -> HttpResponse:
    """End one's own token, or as an administrator anybody's; 404 for what one may not see."""
    row = _token(request, public_id)
    tokens.revoke(row, actor=actor(request), now=timezone.now())
    messages.success(request, f"Revoked. {row.name} gets no answer any more.")
    is_mine = row.owner_id == request.user.pk
    return see(reverse("console:tokens") + ("" if is_mine else "?all=1"))


def _token(request: HttpRequest, public_id: str) -> ApiToken:
    row = _visible(request).filter(public_id=public_id).first()
    if row is None:
        raise Http404(f"no token {public_id}")
    return row


def _token_page(
    request: HttpRequest,
    row: ApiToken,
    *,
    form: NetworksForm | None = None,
    text: str = "",
    status: int = 200,
) -> HttpResponse:
    now, typed = timezone.now(), kept(request)
    initial = {"networks": ", ".join(row.networks or []), **typed, "rev": row.rev}
    is_over = row.expires_at is not None and row.expires_at <= now
    context = {
        "token": row,
        "form": form or NetworksForm(initial=initial),
        "text": text,
        "is_mine": row.owner_id == request.user.pk,
        "state": "revoked" if row.revoked_at else "expired" if is_over else "live",
        "is_former_taken": row.former_until is not None and row.former_until > now,
        "address": request.META.get("REMOTE_ADDR", ""),
    }
    return render(request, "console/settings/token.html", context, status=status)


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
