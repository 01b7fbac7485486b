"""Dead letters: messages that were refused, by code, with what can be read of each, and their replay."""

from __future__ import annotations

from typing import Any, Final

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode
from django.views.decorators.http import require_POST, require_safe

from fleet.accounts.models import AuditEvent
from fleet.console.access import actor, page, see
from fleet.console.paging import page_of
from fleet.telemetry import dead, replaying, storage
from fleet.telemetry.dead_heads import head_of
from fleet.telemetry.errors import TelemetryError
from fleet.telemetry.models import DeadLetter
from fleet.telemetry.partitions import TABLES

WRITE: Final = "devices:write"
REPLAYS: Final = 5
ADVICE: Final = {
    "unknown_device": "Enrol the device, then replay: nothing of it is lost.",
    "key_unknown": "The device signs with a key that was revoked or never made here: rotate its credential.",
    "mac_bad": "The MAC does not fit: another installation's device, or somebody who forges.",
    "mac_missing": "A device without keys, a client that is none of ours, or JSON outside debug mode.",
    "malformed_json": "Debug mode takes JSON with whole numbers and each name once (SPEC.md, section 7).",
    "too_many_versions": "Its model names change all the time. Mend that; a day later these can be replayed.",
    "time_range": "The device's clock is off: what it measured cannot be placed in time.",
    "rate_limited": "This device sends more than it may; the rest of that minute was only counted.",
    "db_reject": "The database refused it. After an update of this service, replay.",
    "internal": "A fault of this service. After an update, replay.",
}
"""What to do about a code; the others are the sender's own faults."""


@require_safe
@page("telemetry:read")
def dead_letters(request: HttpRequest) -> HttpResponse:
    """Letters newest first; GET parameters code and device filter. Counts by code, and the last replays."""
    return _page(request)


@require_POST
@page(WRITE)
def replay(request: HttpRequest) -> HttpResponse:
    """Queue a replay of one code, of one device when it is named; what it took shows on the page."""
    code, device = request.POST.get("code", "")[:32], request.POST.get("device", "").strip()[:32]
    try:
        replaying.ask(code, device_id=device, actor=actor(request), now=timezone.now())
    except TelemetryError as error:
        return _page(request, error=error, status=503 if error.code == "unavailable" else 422)
    messages.success(request, "Queued. Letters that are understood now are stored and leave this list.")
    asked = {"code": code, "device": device}
    chosen = urlencode({name: value for name, value in asked.items() if value})
    return see(f"{reverse('console:dead-letters')}?{chosen}")


def _page(request: HttpRequest, *, error: TelemetryError | None = None, status: int = 200) -> HttpResponse:
    code, device = request.GET.get("code", "")[:32], request.GET.get("device", "").strip()[:32]
    rows = DeadLetter.objects.all()
    if code in dead.CODES:
        rows = rows.filter(code=code)
    if device:
        rows = rows.filter(device_id=device)
    found = page_of(request, rows, key="id", is_descending=True)
    done = AuditEvent.objects.filter(subject_kind="telemetry", verb="telemetry.replay")
    context: dict[str, Any] = {
        "page": found,
        "items": [{"letter": row, "head": head_of(bytes(row.payload))} for row in found.rows],
        "counts": storage.counted_dead(timezone.now()),
        "code": code,
        "device": device,
        "is_filtered": bool(code or device),
        "advice": ADVICE.get(code, ""),
        "replays": list(done[:REPLAYS]),
        "keep_days": TABLES["tele_dead"].keep_days,
        "error": error,
    }
    return render(request, "console/settings/dead_letters.html", context, status=status)
