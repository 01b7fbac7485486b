"""The audit trail: who did what to which object, what changed by it, and whether the trail is as written."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from fleet.accounts import audit_checks, audit_export
from fleet.accounts.audit_query import AuditQuery
from fleet.accounts.models import AuditAnchor, AuditEvent
from fleet.console.access import actor, page
from fleet.console.paging import page_of
from ota.queues import enqueue

ACTOR_KINDS: Final = ("user", "token", "command", "gate", "tick", "rule", "alert", "device", "system")
SHOWN: Final = 4
"""Changed values that a row shows without being opened."""
LONGEST: Final = 160
_TEXT: Final = {"actor": 128, "actor_kind": 16, "verb": 64, "subject_kind": 32, "subject_id": 128}
_PAGES: Final = ("rollout", "device", "alert", "group", "model")


@require_safe
@page("audit:read")
def trail(request: HttpRequest) -> HttpResponse:
    """Rows, newest first; GET parameters filter. One that cannot be meant shows no row and answers 422."""
    query, problem = _query(request)
    rows = AuditEvent.objects.none() if problem else query.rows()
    found = page_of(request, rows, is_descending=True, is_counted=False)
    asked = {name: request.GET.get(name, "") for name in (*_TEXT, "from", "to")}
    filters = urlencode([(name, value) for name, value in asked.items() if value])
    context = {
        "page": found,
        "items": [_shown(row) for row in found.rows],
        "asked": asked,
        "kinds": ACTOR_KINDS,
        "problem": problem,
        "is_filtered": bool(filters),
        "filters": filters,
        "check": audit_checks.latest(),
        "anchor": AuditAnchor.objects.first(),
    }
    return render(request, "console/audit.html", context, status=422 if problem else 200)


@require_POST
@page("audit:read")
def check(request: HttpRequest) -> HttpResponse:
    """Have a worker compare the whole chain now."""
    audit_checks.start(actor=actor(request), now=timezone.now())
    enqueue("accounts.check_audit")
    messages.success(request, "The check has begun. Reload this page to see how far it is.")
    return HttpResponseRedirect(reverse("console:audit"))


@require_safe
@page("audit:read")
def export(request: HttpRequest) -> Any:
    """Everything that the filter finds, oldest first, as a file. GET parameter format: ndjson or csv."""
    query, problem = _query(request)
    form = request.GET.get("format", "ndjson")
    if problem or form not in audit_export.FORMATS:
        text = problem[1] if problem else f"a format is one of {', '.join(audit_export.FORMATS)}"
        return HttpResponse(f"validation: {text}\n", status=422, content_type="text/plain")
    return audit_export.answer(request, query.rows(), form)


def _query(request: HttpRequest) -> tuple[AuditQuery, tuple[str, str] | None]:
    """What is asked for, and the parameter that cannot be meant."""
    text: dict[str, Any] = {
        name: request.GET.get(name, "").strip().replace("\0", "")[:most] for name, most in _TEXT.items()
    }
    try:
        start, end = (_moment(request.GET.get(name, "")) for name in ("from", "to"))
    except ValueError:
        return AuditQuery(**text), ("from", "a time is written like 2026-05-02T12:00, in UTC")
    query = AuditQuery(**text, start=start, end=end)
    return query, query.problem()


def _moment(text: str) -> datetime | None:
    """A time of the form; without an offset it is UTC. Raises ValueError."""
    if not text.strip():
        return None
    found = datetime.fromisoformat(text.strip())
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


def _shown(row: AuditEvent) -> dict[str, Any]:
    changes = _changes(row.before or {}, row.after or {})
    return {"row": row, "url": _url(row), "changes": changes[:SHOWN], "more": changes[SHOWN:]}


def _changes(before: dict[str, Any], after: dict[str, Any]) -> list[dict[str, str]]:
    """What differs, value by value; a value that was not there before, or is not any more, is empty."""
    texts = [(name, _said(before.get(name)), _said(after.get(name))) for name in {**before, **after}]
    return [{"name": name, "before": old, "after": new} for name, old, new in texts if old != new]


def _said(value: Any) -> str:
    if value is None or value == "":
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _url(row: AuditEvent) -> str:
    """The page of what a row is about; "" for kinds that have none."""
    kind, name = row.subject_kind, row.subject_id
    if kind == "wave":
        kind, name = "rollout", name.partition("/")[0]
    try:
        return reverse(f"console:{kind}", args=[name]) if kind in _PAGES else ""
    except NoReverseMatch:  # an id that is none, of an object of long ago
        return ""
