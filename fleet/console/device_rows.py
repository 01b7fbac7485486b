"""The device list as a file: the columns of the page, and what only a file has room for."""

from __future__ import annotations

from typing import Any, Final

from django.db.models import QuerySet

from fleet.console.row_export import Cells, Listing
from fleet.devices.models import Device
from fleet.telemetry import queries
from ota import inventory

COLUMNS: Final = (
    "id", "class", "presence", "quarantine", "model", "version", "digest", "update_state", "update_code",
    "accuracy_proxy", "latency_mean_us", "firmware", "tags", "last_seen_at", "enrolled_at",
)  # fmt: skip


def listing(rows: QuerySet[Device]) -> Listing:
    """Devices by id. accuracy_proxy: share in [0, 1] of the last window; digest: of what slot 0 runs."""
    return Listing("devices", COLUMNS, rows.prefetch_related("slots"), _cells)


def _cells(batch: list[Device]) -> list[Cells]:
    names = inventory.names([slot for row in batch for slot in row.slots.all()])
    last = queries.last_values([row.pk for row in batch])
    return [_line(row, names, last.get(row.pk) or {}) for row in batch]


def _line(row: Device, names: dict[str, inventory.Name], last: dict[str, Any]) -> Cells:
    slot = next((slot for slot in row.slots.all() if slot.slot == 0), None)
    name = names.get(slot.run) if slot else None
    return (
        row.pk,
        row.device_class_id,
        row.presence,
        row.quarantine_reason if row.quarantined_at else None,
        name.model if name else None,
        name.version if name else None,
        slot.run if slot else None,
        slot.state if slot else None,
        slot.code if slot else None,
        last.get("accuracy"),
        last.get("latency_mean_us"),
        row.firmware_version,
        " ".join(row.tags),
        row.last_seen_at,
        row.enrolled_at,
    )
