"""The rollout list as a file."""

from __future__ import annotations

from typing import Any, Final

from django.db.models import QuerySet

from fleet.console import figures
from fleet.console.row_export import Cells, Listing
from ota.choices import JobState
from ota.models import Rollout

COLUMNS: Final = (
    "id", "name", "state", "model", "version", "devices", "confirmed", "reason", "created_by", "created_at",
    "started_at", "finished_at",
)  # fmt: skip


def listing(rows: QuerySet[Rollout]) -> Listing:
    """Rollouts, newest first. devices: of all waves; confirmed: whose newest attempt ended so."""
    return Listing("rollouts", COLUMNS, rows, _cells, is_descending=True)


def _cells(batch: list[Rollout]) -> list[Cells]:
    waves = figures.wave_counts(batch)
    return [_line(row, waves.get(str(row.pk), [])) for row in batch]


def _line(row: Rollout, waves: list[dict[str, Any]]) -> Cells:
    version = row.manifest.version
    return (
        str(row.pk),
        row.name,
        row.state,
        version.model_id,
        version.version,
        sum(wave["size"] for wave in waves),
        sum(wave["counts"].get(JobState.CONFIRMED, 0) for wave in waves),
        row.reason,
        row.created_by,
        row.created_at,
        row.started_at,
        row.finished_at,
    )
