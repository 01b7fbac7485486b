"""Webhooks: the receivers, one of them with what was sent to it, and the forms that make and change one."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any, Final

from django import forms
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from fleet.alerts import sending, webhooks
from fleet.alerts.choices import DeliveryState
from fleet.alerts.errors import AlertError
from fleet.alerts.models import Delivery, Webhook
from fleet.alerts.outbox import EVENTS
from fleet.console.access import actor, kept, page, see
from fleet.console.once import sent_once
from fleet.console.paging import page_of
from fleet.sealing import SealError

WRITE: Final = "webhooks:write"
GRACES: Final = (
    ("24", "for a day"),
    ("1", "for an hour"),
    ("168", "for 7 days"),
    ("0", "not at all: it has leaked"),
)


class WebhookForm(forms.Form):
    """A receiver. rev: of one that exists."""

    name = forms.CharField(label="Name", max_length=64, widget=forms.TextInput(attrs={"autocomplete": "off"}))
    url = forms.CharField(
        label="URL",
        max_length=512,
        help_text="Where messages are POSTed to, as <code>https://pager.example/hook</code>.",
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false", "inputmode": "url"}),
    )
    events = forms.MultipleChoiceField(label="Events", choices=list(EVENTS.items()))
    is_enabled = forms.BooleanField(
        label="On", required=False, help_text="Nothing is sent to a webhook that is off."
    )
    rev = forms.IntegerField(required=False, widget=forms.HiddenInput)

    @property
    def ticked(self) -> list[str]:
        """Events that are ticked in the form."""
        return list(self["events"].value() or [])


class RotateForm(forms.Form):
    """A new secret. grace_hours: how long the former one signs too."""

    grace_hours = forms.ChoiceField(
        label="The former secret signs too",
        choices=GRACES,
        initial="24",
        help_text="Until then messages carry two signatures, so receivers can change over at any time.",
    )


@require_safe
@page(WRITE)
def webhook_list(request: HttpRequest) -> HttpResponse:
    """Receivers by name."""
    found = page_of(request, Webhook.objects.all(), key="name")
    failed = Delivery.objects.filter(webhook__in=[row.pk for row in found.rows], state=DeliveryState.FAILED)
    context = {"page": found, "failing": set(failed.values_list("webhook_id", flat=True))}
    return render(request, "console/settings/webhooks.html", context)


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@page(WRITE)
@sent_once
def new(request: HttpRequest) -> HttpResponse:
    """GET: the form. POST: make it; the answer alone has its secret, so it is a page and no redirect."""
    if request.method != "POST":
        return _form_page(request, WebhookForm(initial={"events": list(EVENTS), "is_enabled": True}))
    form = WebhookForm(request.POST)
    if not form.is_valid():
        return _form_page(request, form, status=422)
    said = form.cleaned_data
    try:
        row, secret = webhooks.create(
            said["name"], url=said["url"], events=said["events"], actor=actor(request), now=timezone.now()
        )
    except (AlertError, SealError) as error:
        return _refused(request, form, error)
    return _webhook_page(request, row, secret=secret, status=201)


@require_http_methods(["GET", "HEAD", "POST"])
@page(WRITE)
def webhook(request: HttpRequest, webhook_id: uuid.UUID) -> HttpResponse:
    """GET: one receiver, its form, what was sent to it. POST: change it."""
    row = _webhook(webhook_id)
    if request.method != "POST":
        return _webhook_page(request, row)
    form = WebhookForm(request.POST)
    if not form.is_valid():
        return _webhook_page(request, row, form=form, status=422)
    said = form.cleaned_data
    row.rev = said.pop("rev") or 0
    try:
        webhooks.change(row, **said, actor=actor(request), now=timezone.now())
    except AlertError as error:
        form.add_error(error.field or None, f"{error.code}: {error.text}")
        status = 409 if error.code in ("stale", "duplicate") else 422
        is_stale = error.code == "stale"
        return _webhook_page(request, _webhook(webhook_id), form=form, is_stale=is_stale, status=status)
    messages.success(request, "Saved.")
    return _to(row)


@require_POST
@page(WRITE)
def test(request: HttpRequest, webhook_id: uuid.UUID) -> HttpResponse:
    """Send a test message; its delivery is on the receiver's page."""
    row = _webhook(webhook_id)
    webhooks.send_test(row, actor=actor(request), now=timezone.now())
    messages.success(request, "A test message goes out within seconds: load this page again to see its end.")
    return _to(row)


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@page(WRITE, asks_again=True)
@sent_once
def rotate(request: HttpRequest, webhook_id: uuid.UUID) -> HttpResponse:
    """GET: what it means. POST: a new secret; the answer alone has it, so it is a page and no redirect, and
    sent twice the form leads to the webhook.
    """
    row = _webhook(webhook_id)
    form = RotateForm(request.POST) if request.method == "POST" else RotateForm(initial=kept(request))
    if not form.is_bound or not form.is_valid():
        context = {"webhook": row, "form": form}
        status = 422 if form.is_bound else 200
        return render(request, "console/settings/webhook_rotate.html", context, status=status)
    grace = timedelta(hours=int(form.cleaned_data["grace_hours"]))
    try:
        secret = webhooks.rotate(row, actor=actor(request), now=timezone.now(), grace=grace)
    except AlertError as error:  # somebody changed it in this moment
        form.add_error(None, f"{error.code}: {error.text}")
        context = {"webhook": row, "form": form}
        return render(request, "console/settings/webhook_rotate.html", context, status=409)
    answer = _webhook_page(request, row, secret=secret, status=201)
    answer["Location"] = reverse("console:webhook", args=[row.pk])
    return answer


@require_POST
@page(WRITE)
def redeliver(request: HttpRequest, webhook_id: uuid.UUID, delivery_id: uuid.UUID) -> HttpResponse:
    """Send a finished delivery again, under the same id."""
    row = _webhook(webhook_id)
    found = Delivery.objects.filter(pk=delivery_id, webhook=row).first()
    if found is None:
        raise Http404("no such delivery")
    sending.redeliver(found, actor=actor(request), now=timezone.now())
    messages.success(request, "It is sent again, under the same id.")
    return _to(row)


@require_http_methods(["GET", "HEAD", "POST"])
@page(WRITE)
def delete(request: HttpRequest, webhook_id: uuid.UUID) -> HttpResponse:
    """GET: what would go. POST: remove it, with what was sent to it."""
    row = _webhook(webhook_id)
    if request.method != "POST":
        context = {"webhook": row, "deliveries": row.deliveries.count()}
        return render(request, "console/settings/webhook_delete.html", context)
    webhooks.delete(row, actor=actor(request), now=timezone.now())
    messages.success(request, f"{row.name} was removed.")
    return see(reverse("console:webhooks"))


def _webhook_page(
    request: HttpRequest,
    row: Webhook,
    *,
    form: WebhookForm | None = None,
    secret: str = "",
    is_stale: bool = False,
    status: int = 200,
) -> HttpResponse:
    initial = {
        "name": row.name, "url": row.url, "events": row.events, "is_enabled": row.is_enabled, "rev": row.rev,
    }  # fmt: skip
    context: dict[str, Any] = {
        "webhook": row,
        "form": form or WebhookForm(initial=initial),
        "page": page_of(request, row.deliveries.all(), is_descending=True),
        "secret": secret,
        "is_rotated": bool(secret) and row.rev > 1,
        "is_stale": is_stale,
        "now": timezone.now(),
        "tries": sending.TRIES,
    }
    return render(request, "console/settings/webhook.html", context, status=status)


def _form_page(request: HttpRequest, form: WebhookForm, *, status: int = 200) -> HttpResponse:
    return render(request, "console/settings/webhook_new.html", {"form": form}, status=status)


def _refused(request: HttpRequest, form: WebhookForm, error: AlertError | SealError) -> HttpResponse:
    form.add_error(getattr(error, "field", "") or None, f"{error.code}: {error.text}")
    return _form_page(request, form, status=409 if error.code == "duplicate" else 422)


def _webhook(webhook_id: uuid.UUID) -> Webhook:
    row = Webhook.objects.filter(pk=webhook_id).first()
    if row is None:
        raise Http404("no such webhook")
    return row


def _to(row: Webhook) -> HttpResponse:
    return see(reverse("console:webhook", args=[row.pk]))
