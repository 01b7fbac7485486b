"""Rollouts: the list, the live page, its fragment, and the devices behind every number."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_safe

from fleet.alerts import pausing
from fleet.console import alert_words, charts, figures, rollout_rows, row_export, saved_views
from fleet.console.access import limit_of, page, person, role
from fleet.console.models import ListPage
from fleet.console.paging import page_of
from fleet.console.plan_pages import missing
from fleet.console.states import by_tone, label_of, tone_of
from ota import reach, rollouts
from ota.choices import ROLLOUT_LIVE, JobState, RolloutState, WaveState
from ota.job_lists import jobs_of
from ota.models import Rollout
from ota.rollout_lists import MANIFEST_BYTES, listed
from ota.trail import trail_of

EVENTS = 20
_MOVING = ROLLOUT_LIVE | {
    RolloutState.PREFLIGHT,
    RolloutState.AWAITING_APPROVAL,
    RolloutState.SCHEDULED,
    RolloutState.READY,
}
LONGEST_REFRESH_S = 600


def rollout_or_404(rollout_id: uuid.UUID) -> Rollout:
    """The rollout with its manifest and version."""
    rows = Rollout.objects.select_related("manifest__version").defer(*MANIFEST_BYTES)
    found = rows.filter(pk=rollout_id).first()
    if found is None:
        raise Http404(f"no rollout {rollout_id}")
    return found


def rollout_within(request: HttpRequest, rollout_id: uuid.UUID) -> Rollout:
    """As `rollout_or_404`. One that reaches beyond the person's groups stands in the list, and no more."""
    found = rollout_or_404(rollout_id)
    if not reach.is_within(limit_of(request), found.target):
        raise PermissionDenied("scope_missing: this rollout reaches beyond the groups you are limited to")
    return found


@require_safe
@page("rollouts:read", knows_limits=True)
def rollout_list(request: HttpRequest) -> HttpResponseBase:
    """Rollouts, newest first; GET parameter state filters, `format=csv` or `json` gives all as a file."""
    state = request.GET.get("state", "")[:24]
    rows = listed()
    if state in RolloutState.values:
        rows = rows.filter(state=state)
    if form := row_export.wanted(request):
        if limit_of(request) is not None:
            raise PermissionDenied("scope_missing: the file has rollouts beyond your groups")
        return row_export.answer(request, rollout_rows.listing(rows), form)
    found = page_of(request, rows, is_descending=True)
    now = timezone.now()
    waves, as_of = figures.recent_waves(found.rows, now)
    items = [{"rollout": row, "bar": whole(row, waves.get(str(row.pk), []))} for row in found.rows]
    context = {
        "page": found,
        "items": items,
        "as_of": as_of if as_of < now else None,
        "state": state,
        "states": RolloutState.choices,
        "tools": saved_views.tools(request, ListPage.ROLLOUTS),
    }
    return render(request, "console/rollouts.html", context)


def whole(row: Rollout, waves: list[dict[str, Any]]) -> dict[str, Any]:
    """All waves as one bar; after a rollback what had confirmed is shown as taken back."""
    total: dict[str, int] = {}
    for wave in waves:
        for name, n in wave["counts"].items():
            total[name] = total.get(name, 0) + n
    is_back = row.state == RolloutState.ROLLED_BACK
    parts = [
        ("taken back", n, "tone-attention", "")
        if is_back and name == JobState.CONFIRMED
        else (label_of("job", name).lower(), n, f"tone-{tone_of('job', name)}", "")
        for name, n in _ordered(total)
    ]
    size = sum(wave["size"] for wave in waves)
    return {"segments": charts.bar(parts, size), "size": size, "confirmed": total.get(JobState.CONFIRMED, 0)}


def _ordered(counts: dict[str, int]) -> list[tuple[str, int]]:
    """Good first, then bad, then on the way."""
    return sorted(counts.items(), key=lambda item: by_tone(tone_of("job", item[0])))


@require_safe
@page("rollouts:read", knows_limits=True)
def rollout(request: HttpRequest, rollout_id: uuid.UUID) -> HttpResponse:
    """The live page; without script `?refresh=10` reloads it."""
    context = context_of(request, rollout_within(request, rollout_id))
    wanted = request.GET.get("refresh", "")[:9]
    if wanted.isdecimal() and 2 <= int(wanted) <= LONGEST_REFRESH_S and context["is_live"]:
        context["refresh_s"] = int(wanted)
    return render(request, "console/rollout.html", context)


@require_safe
@page("rollouts:read", knows_limits=True)
def fragment(request: HttpRequest, rollout_id: uuid.UUID) -> HttpResponse:
    """What moves on the live page; 204 while nothing did. `part=controls`: the buttons, when they changed."""
    context = context_of(request, rollout_within(request, rollout_id))
    if request.GET.get("part") == "controls":
        return render(request, "console/rollout_controls.html", context)
    if request.GET.get("seen") == context["digest"]:
        return HttpResponse(status=204)
    return render(request, "console/rollout_live.html", context)


def context_of(request: HttpRequest, row: Rollout) -> dict[str, Any]:
    """Everything the live page and its fragments print, from one read of the stored state."""
    state = rollouts.state(row, now=timezone.now(), role=role(request), person=person(request))
    url = reverse("console:rollout-jobs", args=[row.pk])
    events = list(trail_of(row)[:EVENTS])
    shown = {key: value for key, value in state.items() if key != "as_of"}
    shown["events"] = [str(event.pk) for event in events]
    alert = pausing.paused_by(row)
    shown["alert"] = alert and alert.rev
    return {
        "rollout": row,
        "s": state,
        "waves": [_wave(wave, url, state) for wave in state["waves"]],
        "gates": [shown_gate(gate) for gate in reversed(state["gates"])],
        "planned": state["summary"].get("waves", []),
        "summary": state["summary"],
        "undone": _undone(state["rollback"]),
        "events": events,
        "paused_by": alert,
        "paused_why": alert_words.sentence(alert) if alert is not None else "",
        "is_live": state["state"] in _MOVING,
        "verbs": _verbs(state["allowed"], is_planned=not missing(row)),
        "digest": hashlib.sha256(json.dumps(shown, default=str, sort_keys=True).encode()).hexdigest()[:16],
    }


def _wave(wave: dict[str, Any], url: str, state: dict[str, Any]) -> dict[str, Any]:
    parts = sorted(wave["segments"], key=lambda part: by_tone(part["tone"]))
    is_closed = wave["state"] == WaveState.CANCELLED
    segments = charts.bar(
        [
            (
                _word(part, is_closed),
                part["n"],
                f"tone-{part['tone']}",
                f"{url}?wave={wave['n']}&state={part['state']}",
            )
            for part in parts
        ],
        wave["size"],
    )
    is_last = wave["n"] == len(state["plan"]["waves"])
    control = state["control"]["size"] if is_last else 0
    return {**wave, "segments": segments, "control": control, "is_last": is_last}


def _word(part: dict[str, Any], is_closed: bool) -> str:
    """What a part of a wave is called; nobody waits in a wave that was cancelled."""
    return "never offered" if is_closed and part["state"] == "waiting" else str(part["label"]).lower()


def shown_gate(gate: dict[str, Any]) -> dict[str, Any]:
    """A gate's rows with a trace chart for each comparison, and the kind of figure each one is."""
    rows = []
    for row in gate["rows"]:
        trace = row.get("trace") or []
        chart = None
        if trace:
            title = f"{row['label']}: evidence for harm is {row['now']:.3g}, it halts at {row['limit']:.3g}"
            chart = charts.trace_chart(title, trace, limit=row["limit"], promote_limit=row["promote_limit"])
        rows.append({**row, "chart": chart, "kind": row["rule"].partition(":")[0]})
    return {**gate, "rows": rows}


def _undone(rollback: dict[str, Any] | None) -> dict[str, Any] | None:
    if rollback is None:
        return None
    parts = [
        (label_of("job", name), n, f"tone-{tone_of('job', name)}", "")
        for name, n in _ordered(rollback["counts"])
    ]
    return {**rollback, "segments": charts.bar(parts, rollback["size"])}


BUTTONS = {
    "edit": ("Change the plan", "pen", ""),
    "submit": ("Submit", "refresh", "primary"),
    "approve": ("Approve", "check", "primary"),
    "reject": ("Reject", "cross", "danger"),
    "start": ("Start", "play", "primary"),
    "pause": ("Pause", "pause", ""),
    "resume": ("Resume", "play", ""),
    "retry-failed": ("Retry failed", "refresh", ""),
    "override": ("Override the wave", "warn", "danger"),
    "abort": ("Abort", "stop", "danger"),
    "rollback": ("Roll back", "back", "danger"),
    "create-revert": ("Draft a revert", "back", ""),
    "cancel": ("Cancel", "cross", ""),
}


def _verbs(allowed: list[str], *, is_planned: bool) -> list[dict[str, str]]:
    """Buttons of what is allowed now, in a fixed order. is_planned: no page of its plan waits to be saved."""
    shown = {**BUTTONS} if is_planned else {**BUTTONS, "edit": ("Go on planning", "pen", "primary")}
    if not is_planned:
        del shown["submit"]
    return [
        {"name": name, "label": label, "icon": icon, "css": css}
        for name, (label, icon, css) in shown.items()
        if name in allowed
    ]


@require_safe
@page("rollouts:read", knows_limits=True)
def jobs(request: HttpRequest, rollout_id: uuid.UUID) -> HttpResponse:
    """Devices of a rollout; GET parameters wave, state and code filter."""
    row = rollout_within(request, rollout_id)
    asked = {name: request.GET.get(name, "")[:32] for name in ("wave", "state", "code")}
    waves = dict(row.waves.order_by("n").values_list("n", "pk"))
    rows = jobs_of(row)
    if asked["wave"].isdecimal():
        rows = rows.filter(wave=waves.get(int(asked["wave"]), 0))
    if asked["state"] in JobState.values:
        rows = rows.filter(state=asked["state"])
    if asked["code"]:
        rows = rows.filter(code=asked["code"])
    context = {
        "rollout": row,
        "page": page_of(request, rows, key="id"),
        "asked": asked,
        "waves": list(waves),
        "states": JobState.choices,
    }
    return render(request, "console/jobs.html", context)
