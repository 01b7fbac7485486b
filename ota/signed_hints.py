"""Hints as they stand in a signed manifest: what a device was really told about its model."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fleet.mqtt.codec import cose
from ota.manifest import Manifest as Document
from ota.models import Manifest


def signed_hints(message: bytes | memoryview) -> dict[str, Any]:
    """The hints of a stored manifest message by name, {} when it has none. Signatures were checked before."""
    hints = Document.parse(cose.parse_sign("manifest", bytes(message)).payload).hints
    return asdict(hints) if hints else {}


def hints_of_run(id16: str) -> dict[str, Any] | None:
    """The hints of what a device runs (id16 as hex); None for a manifest that is not known here."""
    rows = Manifest.objects.filter(pk__startswith=id16) if len(id16) == 32 else Manifest.objects.none()
    message = rows.values_list("message", flat=True).first()
    return signed_hints(message) if message is not None else None


def latency_budget_us(plan_budget_us: int | None, message: bytes | memoryview) -> int | None:
    """Budget of one inference in µs: the plan's, else the one the manifest was signed with; None without."""
    if plan_budget_us:
        return plan_budget_us
    found = signed_hints(message).get("latency_budget_us")
    return int(found) if found else None
