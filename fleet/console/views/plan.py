"""The pages of a plan: each saves to the draft, can be reloaded, left and come back to."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from fleet.accounts.models import AuditEvent
from fleet.console import plan_drafts, plan_pages
from fleet.console.access import actor, page, person, refused, role, see
from fleet.console.plan_form import RolloutForm, field_of
from fleet.console.plan_merge import beyond
from fleet.console.plan_pages import FORM_PAGES, PAGES, WHAT, PlanPage
from fleet.console.plan_presets import PRESET_LABELS, PRESETS
from fleet.console.views.live import rollout_or_404
from fleet.devices.models import DeviceSlot
from fleet.ids import uuid7
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
def new(request: HttpRequest) -> HttpResponse:
    """GET: the first page, before there is a row. POST: the draft is made, then on to the next page.

    The same form sent twice makes one; gone back to and sent with something else, it is a stale page of the
    draft that it has made. So that a browser goes back to that form it may keep it, other than the pages of a
    draft, which are fetched anew.
    """
    if request.method != "POST":
        return _page(request, WHAT, RolloutForm(initial=_initial(request)), None)
    key = plan_drafts.form_key(person(request), request.POST.get("once", "")[:64] or str(uuid7()))
    if (made := plan_drafts.made_by(key)) is not None:
        return _made_before(request, rollout_or_404(made.pk))
    form = plan_pages.first(request.POST)
    plan = form.plan() if form.is_valid() else None
    if plan is None:
        return _page(request, WHAT, form, None, status=422)
    try:
        row = plan_drafts.make(form, plan, key=key, actor=actor(request), now=timezone.now())
    except OtaError as error:
        form.add_error(field_of(getattr(error, "field", "")), f"{error.code}: {error.text}")
        return _page(request, WHAT, form, None, status=422)
    messages.success(request, "The draft is saved. You can leave it and come back from its page.")
    return see(address(row, plan_pages.WHO))


def _made_before(request: HttpRequest, row: Rollout) -> HttpResponse:
    form = plan_pages.read(WHAT, row, request.POST)
    if plan_drafts.is_stored(WHAT, form, row):
        return see(address(row, plan_pages.WHO))
    return _stale(request, WHAT, form, row)


@require_safe
@page("rollouts:write")
def resume(request: HttpRequest, rollout_id: uuid.UUID) -> HttpResponse:
    """To the first page that nobody has saved yet, else to the review."""
    row = rollout_or_404(rollout_id)
    return see(address(row, next(iter(plan_pages.missing(row)), plan_pages.REVIEW)))


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@page("rollouts:write")
def step(request: HttpRequest, rollout_id: uuid.UUID, name: str) -> HttpResponse:
    """A page of a rollout that has not started. POST `do=preview` shows what it means, else it is saved and
    leads on. What the form does not show of the plan stays. One that was opened before somebody else's change
    is refused, with what was typed and what is stored.
    """
    row = rollout_or_404(rollout_id)
    if (here := FORM_PAGES.get(name)) is None:
        raise Http404(f"a plan has no page {name}")
    if "edit" not in (allowed := rollouts.allowed(row, role(request))):
        return refused(request, IllegalTransition(row.state, allowed, asked="edit"))
    if request.method != "POST":
        return _page(request, here, plan_pages.shown(here, row), row)
    form = plan_pages.read(here, row, request.POST)
    if request.POST.get("do") == "preview":
        return _previewed(request, here, form, row)
    if form.read_rev != row.rev and not plan_drafts.is_stored(here, form, row):
        return _stale(request, here, form, row)
    return _save(request, here, form, row)


def _save(request: HttpRequest, here: PlanPage, form: RolloutForm, row: Rollout) -> HttpResponse:
    plan = plan_pages.plan_of(form, row) if form.is_valid() else None
    if plan is None:
        return _page(request, here, form, row, status=422)
    was_draft, was_complete = row.state == RolloutState.DRAFT, not plan_pages.missing(row)
    try:
        changed = plan_drafts.save(here, form, plan, row, actor=actor(request), now=timezone.now())
    except StaleError:  # somebody was faster since the row was read above
        fresh = rollout_or_404(row.pk)
        form = plan_pages.read(here, fresh, request.POST)
        return _stale(request, here, form, fresh)
    except PlanError as error:
        form.add_error(field_of(error.field), f"{error.code}: {error.text}")
        return _page(request, here, form, row, status=422)
    if changed and not was_draft:
        messages.warning(
            request, f"{here.label} is saved. It is a draft again: submit it anew.", extra_tags="attention"
        )
    else:
        messages.success(request, f"{here.label} is saved." if changed else f"{here.label} stays as it was.")
    return see(address(row, plan_pages.after(here, was_complete=was_complete)))


def address(row: Rollout, here: PlanPage) -> str:
    """Of a page of a rollout's plan."""
    return reverse("console:rollout-plan", args=[row.pk, here.name])


def _stale(request: HttpRequest, here: PlanPage, form: RolloutForm, row: Rollout) -> HttpResponse:
    """409: the page as it was typed, with who was faster, and both values of every field in which it differs
    from what is stored.
    """
    form.full_clean()
    rows = plan_pages.both(here, form)
    last = AuditEvent.objects.filter(subject_kind="rollout", subject_id=str(row.pk)).order_by("-pk").first()
    who = f" by {last.actor}, {last.at:%H:%M} UTC ({last.verb})" if last is not None else ""
    fields = ", ".join(label for label, _, _ in rows) or "nothing"
    form.add_error(
        None,
        f"stale: the rollout was changed since this page was opened{who}. Nothing was saved. What you typed "
        f"is below; it differs from what is stored in: {fields}.",
    )
    return _page(request, here, form, row, status=409, differing=rows)


def _is_part(request: HttpRequest) -> bool:
    """True when only the preview is asked for, by script."""
    return bool(request.headers.get("HX-Request")) and request.POST.get("do") == "preview"


def _previewed(request: HttpRequest, here: PlanPage, form: RolloutForm, row: Rollout) -> HttpResponse:
    """The page with its preview; a query that is wrong is beside its field, and nothing is counted."""
    status = 200 if _is_part(request) else 422
    plan = plan_pages.plan_of(form, row) if form.is_valid() else None
    if plan is None:
        return _page(request, here, form, row, status=status)
    try:
        Target.parse(form.target()).check(now=timezone.now())
    except TargetError as error:
        if error.position is not None:
            form.add_error(field_of(error.field), f"{error.code}: {error.text}")
            return _page(request, here, form, row, status=status)
    return _page(request, here, form, row, preview=_preview(form, plan, row))


def _preview(form: RolloutForm, plan: Plan, row: Rollout) -> dict[str, Any]:
    """What the page as it is typed means for the fleet as it is now; nothing is stored."""
    manifest = form.cleaned_data["manifest"]
    draft = Rollout(
        pk=row.pk,
        kind=row.kind,
        name=form.cleaned_data["name"],
        manifest=manifest,
        slot=manifest.slot,
        target=form.target(),
        plan=plan.to_json(),
        salt=row.salt,
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
    asked = request.GET.get("preset", "")
    begin = asked if asked in PRESETS else "production" if has_runs else "first"
    return {"preset": begin, "manifest": row.pk if row else None, "name": str(row.version) if row else ""}


def frame(here: PlanPage, row: Rollout | None) -> dict[str, Any]:
    """What every page of a plan shows around its form."""
    missing = plan_pages.missing(row) if row is not None else list(FORM_PAGES.values())
    saved = {one.name for one in FORM_PAGES.values() if one not in missing}
    return {
        "here": here,
        "rollout": row,
        "pages": [
            {"page": one, "url": address(row, one) if row else "", "is_saved": one.name in saved}
            for one in PAGES
        ],
        "action": address(row, here) if row else reverse("console:rollout-new"),
        "before": PAGES[PAGES.index(here) - 1] if here is not WHAT else None,
        "missing": missing,
    }


def _page(
    request: HttpRequest,
    here: PlanPage,
    form: RolloutForm,
    row: Rollout | None,
    *,
    preview: dict[str, Any] | None = None,
    status: int = 200,
    differing: list[tuple[str, str, str]] | None = None,
) -> HttpResponse:
    choice = form.fields["manifest"]
    context = {
        **frame(here, row),
        "form": form,
        "preview": preview,
        "differing": differing,
        "preset_words": {"": "waves and gates stay", **{name: words for name, _, words in PRESET_LABELS}},
        "elsewhere": list(plan_pages.elsewhere(here, form)) if form.is_bound else [],
        "once": request.POST.get("once") or str(uuid7()),
        "beyond": beyond(Plan.parse(row.plan)) if row is not None else [],
        "has_choice": row is not None or choice.queryset.exists(),  # type: ignore[attr-defined]
    }
    template = "console/plan_preview.html" if _is_part(request) else f"console/plan_{here.name}.html"
    return render(request, template, context, status=status)
