"""The alert list as a file."""

from __future__ import annotations

from typing import Final

from django.db.models import QuerySet

from fleet.alerts.models import Alert
from fleet.alerts.pausing import subject
from fleet.console import alert_words
from fleet.console.row_export import Cells, Listing

COLUMNS: Final = (
    "id", "rule", "kind", "severity", "state", "device", "about", "sentence", "count", "first_seen_at",
    "last_seen_at", "acknowledged_by", "resolved_at", "reason",
)  # fmt: skip


def listing(rows: QuerySet[Alert]) -> Listing:
    """Alerts as the page has them: open ones first, then newest first. rows: with their `place`."""
    return Listing("alerts", COLUMNS, rows, lambda batch: [_line(row) for row in batch], "place", True)


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
