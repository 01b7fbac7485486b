"""What is kept how long, how large it is, and what leaves next."""

from __future__ import annotations

from typing import Final

from django.conf import settings
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from fleet.accounts.models import AuditEvent, AuditSeal
from fleet.accounts.scopes import READ
from fleet.alerts.models import Alert, AlertEvent, Delivery
from fleet.console.access import page
from fleet.devices.models import DeviceEvent
from fleet.telemetry import storage
from ota.models import Artifact, Evidence, Job, Membership
from ota.operations import Operation

WORDS: Final = {
    "tele_window": ("Windows", "as devices sent them, one a minute"),
    "tele_inference": ("Inferences", "single ones that devices picked"),
    "tele_sketch": ("Sketches", "distributions of a window, for drift"),
    "tele_drift": ("Drift", "how far each device has moved"),
    "tele_minute": ("Minutes", "sums that charts of the last days read"),
    "tele_dead": ("Dead letters", "messages that were refused"),
    "tele_hour": ("Hours", "sums of minutes"),
    "tele_hist": ("Histograms", "latency and scores by hour"),
    "tele_accuracy": ("Accuracy", "labels joined to what devices said"),
    "tele_device_day": ("Device days", "one row a device and day"),
}
"""Name and meaning of each partitioned table."""
OTHERS: Final[tuple[tuple[str, str, tuple[type[Model], ...]], ...]] = (
    ("Audit trail", "", (AuditEvent, AuditSeal)),
    ("Rollouts", "jobs, cohorts and evidence, kept for good", (Job, Membership, Evidence)),
    ("Models", "artifacts of every version, kept for good", (Artifact,)),
    ("Device events", "kept for good", (DeviceEvent,)),
    ("Alerts", "kept for good", (Alert, AlertEvent)),
    ("Messages", "to webhooks and by e-mail: 30 days after their end", (Delivery,)),
    ("Operations", "30 days after their end", (Operation,)),
)


@require_safe
@page(*READ)
def retention(request: HttpRequest) -> HttpResponse:
    """Telemetry tables with their partitions, then the others. Two queries of the catalogue."""
    kept = storage.kept()
    tables = {model._meta.db_table for _, _, models in OTHERS for model in models}
    sizes = storage.sizes(tables)
    others = [
        (name, text or _of_audit(), sum(sizes.get(one._meta.db_table, 0) for one in models))
        for name, text, models in OTHERS
    ]
    drops = [one.next_drop for one in kept if one.next_drop is not None]
    context = {
        "rows": [(one, *WORDS[one.table]) for one in kept],
        "others": others,
        "total": sum(one.bytes for one in kept) + sum(size for _, _, size in others),
        "next": min(drops, default=None),
    }
    return render(request, "console/settings/retention.html", context)


def _of_audit() -> str:
    """How long the audit trail is kept."""
    if not settings.AUDIT_DAYS:
        return "kept for good: the chain over it covers every row"
    return f"{settings.AUDIT_DAYS} days: whole seals leave, and the chain goes on from the last of them"
