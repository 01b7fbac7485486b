"""Verbs of a rollout: a page that says what would happen, and the POST that does it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods

from fleet.alerts import pausing
from fleet.console.access import actor, ask_again, kept, page, refused, role, see
from fleet.console.forms import ReasonForm
from fleet.console.plan_pages import missing
from fleet.console.views.live import BUTTONS, rollout_within, shown_gate
from ota import approval, rollouts
from ota.choices import RolloutState
from ota.errors import OtaError
from ota.evidence import newest
from ota.models import Operation, Rollout
from ota.rollback import exposed_jobs
from ota.targeting import BATCH
from ota.transitions import IllegalTransition
from ota.waves import current

DIGESTS = ("manifest_sha256", "plan_digest", "target_digest")
ROLLBACK_ASKS_OVER = 1_000
"""A rollback of more devices than this asks for password or code again; pause and abort never do."""
Act = Callable[[HttpRequest, Rollout, str], Any]


def _given(request: HttpRequest) -> str | None:
    return request.POST.get("evidence") or None


def _read(request: HttpRequest) -> dict[str, str]:
    """The digests of what stood on the page that was approved."""
    return {name: request.POST.get(name, "")[:64] for name in DIGESTS}


def _start(request: HttpRequest, row: Rollout) -> Rollout:
    """Start it; a fleet that one transaction holds is done here, so that the next page shows it running.

    Raises OtaError for what it failed with.
    """
    now = timezone.now()
    operation = rollouts.start(row, actor=actor(request), now=now)
    if isinstance(operation, Operation) and operation.total <= BATCH:
        rollouts.carry_on(row.pk, now=now)
        operation.refresh_from_db(fields=["problem"])
        if told := operation.problem:
            raise OtaError(told["code"], told["text"], told["fix"])
    row.refresh_from_db()
    return row


_ACTS: dict[str, Act] = {
    "submit": lambda r, x, why: rollouts.submit(x, actor=actor(r), now=timezone.now()),
    "preflight": lambda r, x, why: rollouts.submit(x, actor=actor(r), now=timezone.now()),
    "approve": lambda r, x, why: rollouts.approve(
        x, reason=why, actor=actor(r), now=timezone.now(), **_read(r)
    ),
    "reject": lambda r, x, why: rollouts.reject(x, reason=why, actor=actor(r), now=timezone.now()),
    "start": lambda r, x, why: _start(r, x),
    "pause": lambda r, x, why: rollouts.pause(x, reason=why, actor=actor(r), now=timezone.now()),
    "resume": lambda r, x, why: pausing.resume(
        x, reason=why, ack_evidence=_given(r), actor=actor(r), now=timezone.now()
    ),
    "override": lambda r, x, why: rollouts.override(
        x, reason=why, ack_evidence=_given(r), actor=actor(r), now=timezone.now()
    ),
    "abort": lambda r, x, why: rollouts.abort(x, reason=why, actor=actor(r), now=timezone.now()),
    "rollback": lambda r, x, why: rollouts.rollback(x, reason=why, actor=actor(r), now=timezone.now()),
    "retry-failed": lambda r, x, why: rollouts.retry_failed(
        x, reason=why, actor=actor(r), now=timezone.now()
    ),
    "create-revert": lambda r, x, why: rollouts.create_revert(
        x, reason=why, actor=actor(r), now=timezone.now()
    ),
    "cancel": lambda r, x, why: rollouts.cancel(x, reason=why, actor=actor(r), now=timezone.now()),
}
_DONE = {
    "submit": "Preflight is done.",
    "preflight": "Preflight is done.",
    "approve": "Approved. It may run now.",
    "reject": "Rejected, for good.",
    "start": "Started. The first wave is offered now.",
    "pause": "Paused: no more offers.",
    "resume": "Going on.",
    "override": "The wave counts as passed. It stays marked as overridden.",
    "abort": "Stopping. Devices that confirmed keep the candidate.",
    "rollback": "Taking it back.",
    "retry-failed": "They are tried again, each with a new attempt.",
    "create-revert": "Drafted. Look at its plan, then run its preflight.",
    "cancel": "Cancelled.",
}


@require_http_methods(["GET", "HEAD", "POST"])
@page("rollouts:write", "rollouts:approve", knows_limits=True, stops=("pause", "abort"))
def confirm(request: HttpRequest, rollout_id: uuid.UUID, verb: str) -> HttpResponse:
    """GET: what the verb would do. POST: do it, then back to the live page; 409 when the state forbids it."""
    if verb not in _ACTS:
        raise Http404(f"no verb {verb}")
    row = rollout_within(request, rollout_id)
    back = reverse("console:rollout", args=[row.pk])
    allowed = rollouts.allowed(row, role(request))
    if verb not in allowed:
        return refused(request, IllegalTransition(row.state, allowed, asked=verb), back=back)
    if verb in ("submit", "preflight") and missing(row):
        return see(reverse("console:rollout-plan-resume", args=[row.pk]))
    is_against = verb == "override" or (verb == "resume" and row.state == RolloutState.HALTED)
    needs = is_against or verb == "reject"
    if verb == "rollback" and _is_large(row) and (asked := ask_again(request)) is not None:
        return asked
    is_post = request.method == "POST"
    form = ReasonForm(request.POST if is_post else None, initial=kept(request), is_required=needs)
    if not is_post or not form.is_valid():
        return _page(request, row, verb, form, needs, status=422 if is_post else 200)
    if (moved := _moved(request, row, verb)) is not None:
        return _page(request, row, verb, form, needs, moved=moved, status=409)
    try:
        done = _ACTS[verb](request, row, form.cleaned_data["reason"])
    except OtaError as error:
        return refused(request, error, back=back)
    is_begun = verb == "start" and isinstance(done, Rollout) and done.state == RolloutState.READY
    messages.success(request, "Starting." if is_begun else _DONE[verb])
    if isinstance(done, Rollout) and done.pk != row.pk:
        back = reverse("console:rollout", args=[done.pk])
    return see(back)


def _dry_run(row: Rollout, verb: str, request: HttpRequest) -> dict[str, Any] | None:
    """What a verb would touch, in device counts."""
    if verb == "rollback":
        found = rollouts.rollback(row, dry_run=True, actor=actor(request), now=timezone.now())
    elif verb == "abort":
        found = rollouts.abort(row, dry_run=True, actor=actor(request), now=timezone.now())
    elif verb == "retry-failed":
        found = rollouts.retry_failed(row, dry_run=True, actor=actor(request), now=timezone.now())
    else:
        return None
    return found if isinstance(found, dict) else None


def _is_large(row: Rollout) -> bool:
    return exposed_jobs(row).values("device_id").distinct().count() > ROLLBACK_ASKS_OVER


def _moved(request: HttpRequest, row: Rollout, verb: str) -> dict[str, Any] | None:
    """The counts of now when they are not those the person was shown, else None."""
    shown = request.POST.get("shown", "")
    if not shown:
        return None
    found = _dry_run(row, verb, request)
    return found if found is not None and _print(found) != shown else None


def _print(dry: dict[str, Any]) -> str:
    """Counts as one string; what is in flight moves all the time and changes nothing about the decision."""
    return ",".join(
        f"{name}={dry[name]}" for name in sorted(dry) if name not in ("in_flight", "in_trial", "withdrawn")
    )


def _page(
    request: HttpRequest,
    row: Rollout,
    verb: str,
    form: ReasonForm,
    needs: bool,
    *,
    moved: dict[str, Any] | None = None,
    status: int = 200,
) -> HttpResponse:
    dry = moved or _dry_run(row, verb, request)
    label, icon, css = BUTTONS["submit" if verb == "preflight" else verb]
    is_about = verb in ("approve", "reject")
    evidence = row.halted_on if row.state == RolloutState.HALTED else None
    if verb == "override" and evidence is None:
        wave = current(row)
        evidence = newest(wave) if wave is not None else None
    context = {
        "rollout": row,
        "verb": verb,
        "label": label,
        "icon": icon,
        "css": css,
        "form": form,
        "needs_reason": needs,
        "dry": dry,
        "shown": _print(dry) if dry else "",
        "has_moved": moved is not None,
        "evidence": evidence,
        "gate": shown_gate({"wave": evidence.wave.n, "rows": evidence.rows}) if evidence else None,
        "is_against": needs,
        "approval": approval.facts(row) if is_about else None,
        "plan": row.plan if is_about else None,
    }
    return render(request, "console/confirm.html", context, status=status)
