"""The last page of a plan: what is stored, what it would do to the fleet as it is now, and the submission."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, QueryDict
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
from ota.models import Manifest, Rollout
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
    """GET: the stored plan and its dry run. POST what `_reading` says: submit what was read; 409 when it is
    another plan or manifest by now. Sent twice, it is submitted once.
    """
    row = rollout_or_404(rollout_id)
    if request.method == "POST" and _is_submitted(row, request.POST):
        return see(reverse("console:rollout", args=[row.pk]))
    if "edit" not in (allowed := rollouts.allowed(row, role(request))):
        return refused(request, IllegalTransition(row.state, allowed, asked="edit"))
    if request.method != "POST":
        return _page(request, row)
    if any(request.POST.get(name, "") != value for name, value in _reading(row).items()):
        return _page(request, row, stale=_difference(row, request.POST), status=409)
    if missing(row) or row.state not in _OPEN:
        return _page(request, row, status=409)
    try:
        _submit(request, row)
    except StaleError:
        fresh = rollout_or_404(row.pk)
        return _page(request, fresh, stale=_difference(fresh, request.POST), status=409)
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


def _is_submitted(row: Rollout, read: QueryDict) -> bool:
    """True when it is this very plan and manifest that was submitted last, and it is no draft again."""
    newest = approval.newest(row)
    if newest is None or row.state in _OPEN:
        return False
    return (newest.plan_digest, newest.manifest_sha256) == (read.get("plan_digest"), read.get("manifest"))


def _reading(row: Rollout) -> dict[str, str]:
    """What a review is of, as its form sends it back. signed: the version's newest manifest, from which the
    plan's own may differ.
    """
    newest = _newest(row)
    return {
        "rev": str(row.rev),
        "plan_digest": approval.plan_digest(row),
        "manifest": row.manifest_id,
        "signed": newest.pk if newest is not None else "",
    }


def _newest(row: Rollout) -> Manifest | None:
    """What the version was signed as last, for the slot of the plan's manifest."""
    rows = Manifest.objects.filter(version=row.manifest.version_id, slot=row.manifest.slot, revoked_at=None)
    return rows.only("pk", "seq").order_by("-seq").first()


def _difference(row: Rollout, read: QueryDict) -> str:
    """A sentence: what became another one since it was read."""
    version, newest = row.manifest.version, _newest(row)
    digest = read.get("manifest", "")[:64]
    if digest != row.manifest_id:
        was = Manifest.objects.select_related("version").only("seq", "version").filter(pk=digest).first()
        if was is not None:
            now = f"{version} (sequence {row.manifest.seq})"
            return f"You read {was.version} (sequence {was.seq}), the plan has {now} now."
    elif newest is not None and read.get("signed") != newest.pk:
        return f"{version} was signed anew since you opened this page, as sequence {newest.seq}."
    return "The plan was changed since you opened this page."


def _page(
    request: HttpRequest,
    row: Rollout,
    *,
    error: OtaError | None = None,
    stale: str = "",
    status: int = 200,
) -> HttpResponse:
    plan = Plan.parse(row.plan)
    found = rollouts.preview(row, now=timezone.now())
    context: dict[str, Any] = {
        **frame(REVIEW, row),
        "plan": row.plan,
        "reading": _reading(row),
        "newest": _newest(row),
        "preview": found,
        "fixes": _fixes(row, found["reasons"]),
        "needs": approval.needed(plan, found["eligible"]),
        "beyond": beyond(plan),
        "alias_now": aliases.moved_to(row),
        "can_submit": row.state in _OPEN,
        "error": error,
        "stale": stale,
    }
    return render(request, "console/plan_review.html", context, status=status)


def _fixes(row: Rollout, reasons: list[dict[str, str]]) -> list[tuple[str, str]]:
    """Pages on which what would fail can be mended: (label, address), each once."""
    pages = [page_of_field(field_of(reason["field"])) for reason in reasons]
    if any(reason["code"] == "overlap" for reason in reasons):
        pages.append(WAVES)  # where a plan says that it supersedes the others
    return list(dict.fromkeys((one.label, address(row, one)) for one in pages if one is not None))
