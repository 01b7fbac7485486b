"""The overview: is anything wrong, what runs where, what happened last."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_safe

from fleet.accounts.models import STEPS, AuditEvent
from fleet.console import charts, figures
from fleet.console.access import page, person, role
from fleet.console.states import by_tone, label_of, tone_of
from fleet.console.views.live import whole
from fleet.recent import recent
from ota import fleet_samples
from ota.choices import ROLLOUT_LIVE, RolloutState
from ota.models import MLModel, ModelVersion, Rollout
from ota.rollout_lists import listed
from ota.verbs import allowed

EVENTS = 10
LIVE_SHOWN = 6
ENDED_SHOWN = 3
EVENTS_READ = 200
_BULK = ("device", "device_class", "manifest")


@require_safe
@page("devices:read")
def overview(request: HttpRequest) -> HttpResponse:
    """Four figures, versions in the field, rollouts under way, the last events."""
    now = timezone.now()
    fleet, fleet_at = recent("overview-fleet", lambda _at: figures.fleet_now(), now=now)
    anomalies = figures.anomalies(now)
    alerts = figures.alerts(now)
    live = list(listed().filter(state__in=ROLLOUT_LIVE).order_by("-started_at")[:LIVE_SHOWN])
    ended = list(
        listed()
        .filter(finished_at__isnull=False, started_at__isnull=False)
        .order_by("-finished_at")[:ENDED_SHOWN]
    )
    waves, waves_at = figures.recent_waves([*live, *ended], now)
    as_of = min(fleet_at, waves_at)
    context = {
        "fleet": fleet,
        "as_of": as_of if as_of < now else None,
        "versions": _versions(fleet),
        "anomalies": anomalies,
        "alerts": alerts,
        "open_alerts": alerts.open,  # what the rail would count again
        "sparks": _sparks(now, alerts, anomalies),
        "spark": _spark(anomalies),
        "waiting": _waiting(request),
        "live": [{"rollout": row, "waves": _bars(row, waves.get(str(row.pk), []))} for row in live],
        "ended": [{"rollout": row, "bar": whole(row, waves.get(str(row.pk), []))} for row in ended],
        "events": _events(),
        "has_versions": ModelVersion.objects.exists(),
        "has_models": MLModel.objects.exists(),
        "has_rollouts": bool(live) or Rollout.objects.exists(),
    }
    return render(request, "console/overview.html", context)


def _waiting(request: HttpRequest) -> list[Rollout]:
    """Rollouts that this person may approve."""
    rows = Rollout.objects.filter(state=RolloutState.AWAITING_APPROVAL).order_by("created_at")[:LIVE_SHOWN]
    return [row for row in rows if "approve" in allowed(row, role(request), person=person(request))]


def _events() -> list[dict[str, Any]]:
    """The last audit events that people care about, with the name of what they are about."""
    rows, others = _merged(list(AuditEvent.objects.exclude(subject_kind__in=STEPS)[:EVENTS_READ]))
    ids: dict[str, set[str]] = {}
    for row in rows:
        ids.setdefault(row.subject_kind, set()).add(row.subject_id)
    plans = {
        str(row.pk): row.name for row in Rollout.objects.filter(pk__in=ids.get("rollout", set())).only("name")
    }
    numbers = [int(key) for key in ids.get("version", set()) if key.isdigit()]
    versions = {
        str(row.pk): row for row in ModelVersion.objects.filter(pk__in=numbers).only("model_id", "version")
    }
    shown = []
    for row in rows:
        name, url = row.subject_id if len(row.subject_id) <= 32 else f"{row.subject_id[:8]}…", ""
        if row.subject_kind == "rollout" and row.subject_id in plans:
            name, url = plans[row.subject_id], reverse("console:rollout", args=[row.subject_id])
        elif row.subject_kind == "version" and row.subject_id in versions:
            version = versions[row.subject_id]
            name, url = str(version), reverse("console:version", args=[version.model_id, version.version])
        shown.append({"row": row, "name": name, "url": url, "others": others[row.pk]})
    return shown


def _merged(rows: list[AuditEvent]) -> tuple[list[AuditEvent], dict[Any, int]]:
    """The first of each run of the same verb on many things, and how many more there were in the run."""
    kept: list[AuditEvent] = []
    others: dict[Any, int] = {}
    for row in rows:
        if kept and row.verb == kept[-1].verb and row.subject_kind in _BULK:
            others[kept[-1].pk] += 1
            continue
        if len(kept) == EVENTS:
            break
        kept.append(row)
        others[row.pk] = 0
    return kept, others


def _versions(fleet: figures.Fleet) -> list[charts.Segment]:
    parts = []
    for index, item in enumerate(fleet.running):
        css = "c6" if not item.model else f"c{index % 5 + 1}"
        url = f"{reverse('console:devices')}?run={item.id16 or 'none'}"
        parts.append((item.label, item.count, css if item.id16 else "tone-neutral", url))
    return charts.bar(parts, fleet.devices)


def _bars(rollout: Rollout, waves: list[dict[str, Any]]) -> list[dict[str, Any]]:
    url = reverse("console:rollout-jobs", args=[rollout.pk])
    shown = []
    for wave in waves:
        parts = [
            (label_of("job", name), n, f"tone-{tone_of('job', name)}", f"{url}?wave={wave['n']}&state={name}")
            for name, n in sorted(wave["counts"].items(), key=lambda item: by_tone(tone_of("job", item[0])))
        ]
        shown.append({**wave, "segments": charts.bar(parts, wave["size"])})
    return shown


def _sparks(now: datetime, alerts: figures.Alerts, anomalies: figures.Anomalies) -> dict[str, charts.Spark]:
    """The curves below the four figures."""
    day = figures.day(now)
    span: dict[str, Any] = {"start": now - figures.HISTORY, "end": now}
    sampled: dict[str, Any] = {**span, "unit": "ratio", "gap": 3 * fleet_samples.EVERY}
    return {
        "online": charts.spark("Share online", day.online, **sampled),
        "newest": charts.spark("Share on the newest version", day.on_newest, **sampled),
        "alerts": charts.spark("Alerts not resolved", alerts.hours, **span, unit="1"),
        "anomaly": charts.spark("Anomaly share", anomalies.hours, **span, unit="ratio"),
    }


def _spark(anomalies: figures.Anomalies) -> charts.Chart:
    samples = [charts.Sample(at, value) for at, value in anomalies.hours]
    start = samples[0].at
    end = start + timedelta(hours=24)
    title = "Anomaly share by hour over the last day"
    return charts.time_chart(title, {"anomaly share": samples}, start=start, end=end, unit="ratio", floor=0.0)
