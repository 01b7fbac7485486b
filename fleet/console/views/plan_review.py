"""The last page of a plan: what is stored, what it would do to the fleet as it is now, and the submission."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from fleet.console.access import actor, page, refused, role, see
from fleet.console.plan_form import field_of
from fleet.console.plan_merge import beyond
from fleet.console.plan_pages import REVIEW, WAVES, missing, page_of_field
from fleet.console.views.live import rollout_or_404
from fleet.console.views.plan import address, frame
from ota import aliases, approval, rollouts
from ota.choices import RolloutState
from ota.errors import OtaError
from ota.models import Rollout
from ota.permits import StaleError
from ota.plan import Plan
from ota.transitions import IllegalTransition

_OPEN = (RolloutState.DRAFT, RolloutState.PREFLIGHT_FAILED)
_SAID = {
    RolloutState.AWAITING_APPROVAL: "Preflight passed. A second person has to approve it now.",
    RolloutState.READY: "Preflight passed. This is what will run: read it, then start.",
    RolloutState.SCHEDULED: "Preflight passed. It starts by itself when its time has come.",
}


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@page("rollouts:write")
def review(request: HttpRequest, rollout_id: uuid.UUID) -> HttpResponse:
    """GET: the stored plan and its dry run. POST rev and plan_digest: submit what was read; 409 when it is
    another plan by now. Sent twice, it is submitted once.
    """
    row = rollout_or_404(rollout_id)
    digest = approval.plan_digest(row)
    if request.method == "POST" and _is_submitted(row, request.POST.get("plan_digest", "")):
        return see(reverse("console:rollout", args=[row.pk]))
    if "edit" not in (allowed := rollouts.allowed(row, role(request))):
        return refused(request, IllegalTransition(row.state, allowed, asked="edit"))
    if request.method != "POST":
        return _page(request, row)
    if request.POST.get("rev", "") != str(row.rev) or request.POST.get("plan_digest", "") != digest:
        return _page(request, row, is_stale=True, status=409)
    if missing(row) or row.state not in _OPEN:
        return _page(request, row, status=409)
    try:
        _submit(request, row)
    except StaleError:
        return _page(request, rollout_or_404(row.pk), is_stale=True, status=409)
    except OtaError as error:
        return _page(request, rollout_or_404(row.pk), error=error, status=422)
    _tell(request, row)
    return see(reverse("console:rollout", args=[row.pk]))


def _submit(request: HttpRequest, row: Rollout) -> None:
    now = timezone.now()
    row.expected_rev = row.rev
    if row.state != RolloutState.DRAFT:  # the fleet may be another one since preflight failed
        rollouts.edit(row, actor=actor(request), now=now)
        row.expected_rev = row.rev
    rollouts.submit(row, actor=actor(request), now=now)


def _tell(request: HttpRequest, row: Rollout) -> None:
    """What came of it, and whether it reaches as many devices as the review said."""
    said = _SAID.get(RolloutState(row.state))
    if said is None:
        text = "Preflight failed: the reasons are below. Nothing reached a device."
        messages.warning(request, text, extra_tags="attention")
        return
    reached, read = row.summary.get("eligible", 0), request.POST.get("eligible", "")[:9]
    if read.isascii() and read.isdigit() and int(read) != reached:
        said += f" It reaches {reached:,} devices; the review counted {int(read):,}."
        messages.warning(request, said, extra_tags="attention")
        return
    messages.success(request, said)


def _is_submitted(row: Rollout, digest: str) -> bool:
    """True when it is this very plan that was submitted last, and it has not become a draft again."""
    newest = approval.newest(row)
    return row.state not in _OPEN and newest is not None and newest.plan_digest == digest


def _page(
    request: HttpRequest,
    row: Rollout,
    *,
    error: OtaError | None = None,
    is_stale: bool = False,
    status: int = 200,
) -> HttpResponse:
    plan = Plan.parse(row.plan)
    found = rollouts.preview(row, now=timezone.now())
    context: dict[str, Any] = {
        **frame(REVIEW, row),
        "plan": row.plan,
        "plan_digest": approval.plan_digest(row),
        "preview": found,
        "fixes": _fixes(row, found["reasons"]),
        "needs": approval.needed(plan, found["eligible"]),
        "beyond": beyond(plan),
        "alias_now": aliases.moved_to(row),
        "can_submit": row.state in _OPEN,
        "error": error,
        "is_stale": is_stale,
    }
    return render(request, "console/plan_review.html", context, status=status)


def _fixes(row: Rollout, reasons: list[dict[str, str]]) -> list[tuple[str, str]]:
    """Pages on which what would fail can be mended: (label, address), each once."""
    pages = [page_of_field(field_of(reason["field"])) for reason in reasons]
    if any(reason["code"] == "overlap" for reason in reasons):
        pages.append(WAVES)  # where a plan says that it supersedes the others
    return list(dict.fromkeys((one.label, address(row, one)) for one in pages if one is not None))
