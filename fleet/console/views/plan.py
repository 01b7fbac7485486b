"""The rollout form: presets, a preview of what the plan means for the fleet, and the draft it becomes."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods

from fleet.accounts.models import AuditEvent
from fleet.console.access import actor, page, refused, role
from fleet.console.once import sent_once
from fleet.console.plan_form import RolloutForm, field_of, initial_of
from fleet.console.plan_merge import beyond
from fleet.console.plan_presets import PRESET_LABELS, PRESETS, preset
from fleet.console.views.live import rollout_or_404
from fleet.devices.models import DeviceSlot
from ota import rollouts
from ota.choices import RolloutState, VersionState
from ota.errors import OtaError
from ota.models import Manifest, Rollout
from ota.permits import StaleError
from ota.plan import Plan, PlanError
from ota.targeting import Target, TargetError
from ota.transitions import IllegalTransition


@require_http_methods(["GET", "HEAD", "POST"])
@page("rollouts:write")
@sent_once
def new(request: HttpRequest) -> HttpResponse:
    """GET: the form. POST `do`: a preset refills the plan, `preview` shows what it means, else the draft
    is made.
    """
    if request.method != "POST":
        return _page(request, RolloutForm(initial=_initial(request)))
    do = request.POST.get("do", "")
    if do.startswith("preset-") and do.removeprefix("preset-") in PRESETS:
        return _page(request, RolloutForm(initial=_refilled(request, do.removeprefix("preset-"))))
    form = RolloutForm(request.POST)
    plan = form.plan() if form.is_valid() else None
    if plan is None:
        return _page(request, form, status=200 if _is_part(request) else 422)
    if do == "preview":
        return _previewed(request, form, plan)
    return _create(request, form, plan)


@require_http_methods(["GET", "HEAD", "POST"])
@page("rollouts:write")
def edit(request: HttpRequest, rollout_id: uuid.UUID) -> HttpResponse:
    """The same form for a rollout that has not started; saving checks it again. The version stays, and so
    does what the form does not show of its plan. A form that was opened before somebody else's change is
    refused, with what was typed.
    """
    row = rollout_or_404(rollout_id)
    if "edit" not in (allowed := rollouts.allowed(row, role(request))):
        return refused(request, IllegalTransition(row.state, allowed, asked="edit"))
    if request.method != "POST":
        return _page(request, RolloutForm(initial=initial_of(row)), row=row)
    do = request.POST.get("do", "")
    if do.startswith("preset-") and do.removeprefix("preset-") in PRESETS:
        return _page(request, RolloutForm(initial=_refilled(request, do.removeprefix("preset-"))), row=row)
    is_preview = do == "preview"
    given = {**request.POST.dict(), **_lists(request), "manifest": row.manifest_id}
    form = RolloutForm(given, initial=initial_of(row))
    if not is_preview and form.read_rev != row.rev:
        return _stale(request, form, row)
    plan = form.plan(Plan.parse(row.plan)) if form.is_valid() else None
    if plan is None:
        return _page(request, form, row=row, status=200 if _is_part(request) else 422)
    if is_preview:
        return _previewed(request, form, plan, row=row)
    said, now = form.cleaned_data, timezone.now()
    row.expected_rev = row.rev
    try:
        rollouts.edit(row, name=said["name"], plan=plan, target=form.target(), actor=actor(request), now=now)
        row.expected_rev = None
        rollouts.run_preflight(row, actor=actor(request), now=now)
    except StaleError:  # somebody was faster since the row was read above
        row = rollout_or_404(rollout_id)
        return _stale(request, RolloutForm(given, initial=initial_of(row)), row)
    except PlanError as error:
        form.add_error(field_of(error.field), f"{error.code}: {error.text}")
        return _page(request, form, row=row, status=422)
    return _to(str(row.pk))


def _stale(request: HttpRequest, form: RolloutForm, row: Rollout) -> HttpResponse:
    """The form as it was typed, with who was faster and in which fields it differs from what is stored."""
    form.full_clean()
    last = AuditEvent.objects.filter(subject_kind="rollout", subject_id=str(row.pk)).order_by("-pk").first()
    who = f" by {last.actor}, {last.at:%H:%M} UTC ({last.verb})" if last is not None else ""
    fields = form.differs_in()
    typed = (
        f"it differs from the stored plan in: {', '.join(fields)}" if fields else "it is what is stored too"
    )
    form.add_error(
        None,
        f"stale: the rollout was changed since this form was opened{who}. Nothing was saved. What you typed "
        f"is below; {typed}.",
    )
    return _page(request, form, row=row, status=409, is_stale=True)


def _lists(request: HttpRequest) -> dict[str, list[str]]:
    return {name: request.POST.getlist(name) for name in ("classes", "groups", "metrics")}


def _is_part(request: HttpRequest) -> bool:
    """True when only the preview is asked for, by script."""
    return bool(request.headers.get("HX-Request")) and request.POST.get("do") == "preview"


def _create(request: HttpRequest, form: RolloutForm, plan: Plan) -> HttpResponse:
    """Store the draft and run its preflight."""
    said = form.cleaned_data
    try:
        row = rollouts.create(
            said["name"],
            said["manifest"],
            slot=said["manifest"].slot,
            target=form.target(),
            plan=plan,
            actor=actor(request),
            now=timezone.now(),
        )
    except OtaError as error:
        form.add_error(field_of(getattr(error, "field", "")), f"{error.code}: {error.text}")
        return _page(request, form, status=422)
    rollouts.run_preflight(row, actor=actor(request), now=timezone.now())
    if row.state == RolloutState.AWAITING_APPROVAL:
        messages.success(request, "Preflight passed. A second person has to approve it now.")
    elif row.state == RolloutState.READY:
        messages.success(request, "Preflight passed. This is what will run: read it, then start.")
    return _to(str(row.pk))


def _to(rollout_id: str) -> HttpResponse:
    answer = HttpResponseRedirect(reverse("console:rollout", args=[rollout_id]))
    answer.status_code = 303
    return answer


def _previewed(
    request: HttpRequest, form: RolloutForm, plan: Plan, *, row: Rollout | None = None
) -> HttpResponse:
    """The form with its preview; a query that is wrong is beside its field, and nothing is counted."""
    try:
        Target.parse(form.target()).check(now=timezone.now())
    except TargetError as error:
        if error.position is not None:
            form.add_error(field_of(error.field), f"{error.code}: {error.text}")
            return _page(request, form, row=row, status=200 if _is_part(request) else 422)
    return _page(request, form, preview=_preview(form, plan), row=row)


def _preview(form: RolloutForm, plan: Plan) -> dict[str, Any]:
    """What the plan means for the fleet as it is now, from a rollout that is not stored."""
    said = form.cleaned_data
    draft = Rollout(
        name=said["name"],
        manifest=said["manifest"],
        slot=said["manifest"].slot,
        target=form.target(),
        plan=plan.to_json(),
        salt=b"preview",
    )
    try:
        return rollouts.preview(draft, now=timezone.now())
    except PlanError as error:
        return {"reasons": [{"code": error.code, "field": error.field, "text": error.text, "fix": error.fix}]}


def _initial(request: HttpRequest) -> dict[str, Any]:
    """The version named by `model` and `version`, or the newest; a first model when no device runs one
    yet.
    """
    chosen = Manifest.objects.filter(revoked_at=None).exclude(version__state=VersionState.YANKED)
    chosen = chosen.select_related("version").defer("message", "leaves", "blob").order_by("-created_at")
    name, version = request.GET.get("model", "")[:32], request.GET.get("version", "")[:24]
    row = chosen.filter(version__model_id=name, version__version=version).first() if name else chosen.first()
    has_runs = DeviceSlot.objects.filter(slot=0).exclude(run="").exists()
    found = preset(request.GET.get("preset", "") or ("production" if has_runs else "first"))
    found |= {"manifest": row.pk if row else None, "name": str(row.version) if row else ""}
    return found


def _refilled(request: HttpRequest, name: str) -> dict[str, Any]:
    """A preset's plan; what, who and name stay as they were typed."""
    kept = {key: request.POST.get(key, "") for key in ("rev", "name", "manifest", "devices", "q")}
    return {**preset(name), **kept, **{key: request.POST.getlist(key) for key in ("classes", "groups")}}


def _page(
    request: HttpRequest,
    form: RolloutForm,
    *,
    preview: dict[str, Any] | None = None,
    row: Rollout | None = None,
    status: int = 200,
    is_stale: bool = False,
) -> HttpResponse:
    context = {
        "is_stale": is_stale,
        "form": form,
        "presets": PRESET_LABELS,
        "preview": preview,
        "rollout": row,
        "beyond": beyond(Plan.parse(row.plan)) if row is not None else [],
        "has_choice": row is not None or form.fields["manifest"].queryset.exists(),  # type: ignore[attr-defined]
    }
    template = "console/plan_preview.html" if _is_part(request) else "console/plan.html"
    return render(request, template, context, status=status)
