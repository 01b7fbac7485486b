"""What is rehearsed: a rollout of this installation, read once and never written to."""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fleet.devices.models import DeviceClass, DeviceSlot
from fleet.rehearsal.errors import RehearsalError
from ota.models import Manifest, ModelVersion, Rollout
from ota.plan import Plan
from ota.targeting import Target


@dataclass(frozen=True)
class Version:
    """A model version as it was uploaded: its bytes, its hints, its evaluation set."""

    version: str
    data: bytes
    evaluation: bytes | None
    hints: dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """A rollout's copy. classes: name -> (the class as a dict, targeted devices). baseline: what most of the
    targeted devices run in its slot, None when they run nothing that this installation signed.
    """

    rollout_id: str
    name: str
    state: str
    model: str
    slot: int
    plan: Plan
    candidate: Version
    baseline: Version | None
    classes: dict[str, tuple[dict[str, Any], int]]

    @property
    def targets(self) -> int:
        """Devices that the rollout means now."""
        return sum(count for _, count in self.classes.values())


def read(wanted: str, *, now: datetime) -> Subject:
    """The rollout of this id or name, with what it needs.

    Reads only. Raises RehearsalError `not_found`, `ambiguous`, `no_targets`, `validation` (an update of a
    model is what can be rehearsed), and TargetError or PlanError of a stored target or plan that no longer
    holds.
    """
    rollout = _find(wanted)
    if rollout.kind != "update":
        raise RehearsalError("validation", f"{rollout.name} is a {rollout.kind}: only updates are rehearsed")
    devices = Target.parse(rollout.target).select(now=now)
    counts = Counter(devices.values_list("device_class_id", flat=True))
    if not counts:
        raise RehearsalError("no_targets", f"{rollout.name} means no device of this installation now")
    classes = {row.name: (_class(row), counts[row.name]) for row in DeviceClass.objects.filter(pk__in=counts)}
    return Subject(
        rollout_id=str(rollout.pk),
        name=rollout.name,
        state=str(rollout.state),
        model=rollout.manifest.version.model_id,
        slot=rollout.slot,
        plan=Plan.parse(rollout.plan),
        candidate=_version(rollout.manifest.version),
        baseline=_baseline(rollout, devices),
        classes=dict(sorted(classes.items())),
    )


def _find(wanted: str) -> Rollout:
    rows = Rollout.objects.select_related("manifest__version__artifact", "manifest__version__evaluation")
    try:
        found = list(rows.filter(pk=uuid.UUID(wanted)))
    except ValueError:
        found = list(rows.filter(name=wanted)[:2])
    if not found:
        raise RehearsalError("not_found", f"no rollout has the id or name {wanted!r}")
    if len(found) > 1:
        raise RehearsalError("ambiguous", f"several rollouts are called {wanted!r}: give the id")
    return found[0]


def _baseline(rollout: Rollout, devices: Any) -> Version | None:
    """The signed version of the same line that most targeted devices run, without the candidate itself."""
    rows = DeviceSlot.objects.filter(device__in=devices, slot=rollout.slot).exclude(run="")
    for run, _ in Counter(rows.values_list("run", flat=True)).most_common():
        manifest = (
            Manifest.objects.filter(pk__startswith=run, version__model=rollout.manifest.version.model_id)
            .exclude(version=rollout.manifest.version)
            .select_related("version__artifact", "version__evaluation")
            .first()
        )
        if manifest is not None:
            return _version(manifest.version)
    return None


def _version(row: ModelVersion) -> Version:
    evaluation = bytes(row.evaluation.data) if row.evaluation is not None else None
    return Version(row.version, bytes(row.artifact.data), evaluation, dict(row.hints))


def _class(row: DeviceClass) -> dict[str, Any]:
    return {
        "name": row.name,
        "chip": row.chip,
        "arena_bytes": row.arena_bytes,
        "slot_bytes": list(row.slot_bytes),
        "operators": [*row.operators, *row.custom_operators],
        "firmware_version": row.firmware_version,
    }
