"""The alert list, as pages and as a file: open ones first, then acknowledged ones, newest first in each."""

from __future__ import annotations

import uuid
from typing import Final

from django.db.models import Case, CharField, F, QuerySet, Value, When
from django.db.models.functions import Cast, Concat
from django.http import HttpRequest

from fleet.alerts.choices import AlertState
from fleet.alerts.models import Alert
from fleet.alerts.pausing import subject
from fleet.console import alert_words, paging
from fleet.console.paging import Page, counted, url_with
from fleet.console.row_export import Cells, Listing

RANKS: Final = {AlertState.OPEN: "2", AlertState.ACKNOWLEDGED: "1", AlertState.RESOLVED: "0"}

COLUMNS: Final = (
    "id", "rule", "kind", "severity", "state", "device", "about", "sentence", "count", "first_seen_at",
    "last_seen_at", "acknowledged_by", "resolved_at", "reason",
)  # fmt: skip


_PLACE: Final = Concat(
    Case(*(When(state=state, then=Value(rank)) for state, rank in RANKS.items()), output_field=CharField()),
    Cast(F("id"), CharField()),
    output_field=CharField(),
)
"""Where an alert stands in the list: ids grow with time, so one unique text orders by state, then by age."""


def page_of_alerts(request: HttpRequest, rows: QuerySet[Alert]) -> Page[Alert]:
    """One page of alerts after the place in the parameter `after`; one that is none gives the first page.

    Each state is read in the order of its own index, at most a query each: in the order of `place` every
    alert that was ever resolved would be sorted behind the few that are open.
    """
    most = paging.PAGE_ROWS
    after, last = _place(request.GET.get("after", "")[:64])
    found: list[Alert] = []
    for state, rank in RANKS.items():
        if len(found) > most or (after and rank > after):
            continue
        part = rows.filter(state=state, pk__lt=last) if rank == after else rows.filter(state=state)
        found += part.order_by("-pk")[: most + 1 - len(found)]
    next_url = ""
    if len(found) > most:
        end = found[most - 1]
        next_url = url_with(request, after=f"{RANKS[AlertState(end.state)]}{end.pk}")
    return Page(found[:most], counted(rows), next_url, url_with(request, after="") if after else "")


def _place(text: str) -> tuple[str, uuid.UUID]:
    """Rank and id of a place; rank "" for what is none."""
    try:
        last = uuid.UUID(text[1:])
    except ValueError:
        last = uuid.UUID(int=0)
    else:
        if text[0] in RANKS.values():
            return text[0], last
    return "", last


def listing(rows: QuerySet[Alert]) -> Listing:
    """Alerts in the order of the pages."""
    ordered = rows.annotate(place=_PLACE)
    return Listing("alerts", COLUMNS, ordered, lambda batch: [_line(row) for row in batch], "place", True)


def _line(row: Alert) -> Cells:
    return (
        str(row.pk),
        row.rule_name,
        row.kind,
        row.severity,
        row.state,
        row.device_id,
        subject(row),
        alert_words.sentence(row),
        row.count,
        row.first_seen_at,
        row.last_seen_at,
        row.acknowledged_by,
        row.resolved_at,
        row.reason,
    )
