"""Who a rollout is for: the devices its target names, who is eligible, and why the others are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fleet.devices.models import Device, DeviceClass, DeviceSlot
from ota.assignment import Candidate
from ota.choices import ROLLOUT_LIVE, VerdictKind
from ota.models import ClassVerdict, Membership, Rollout
from ota.plan import PlanError

BATCH = 5_000
MAX_NAMED = 100_000


@dataclass(frozen=True)
class Target:
    """Classes and devices by name; an empty list does not restrict. Both given: a device satisfies both."""

    classes: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()

    @classmethod
    def parse(cls, data: Any) -> Target:
        """Read `{"classes": [...], "devices": [...]}`. Raises PlanError `validation` naming the field."""
        if not isinstance(data, Mapping) or set(data) - {"classes", "devices"}:
            raise PlanError("validation", "target", 'a target is {"classes": [...], "devices": [...]}')
        values = {}
        for name in ("classes", "devices"):
            items = data.get(name, ())
            if not isinstance(items, list | tuple) or len(items) > MAX_NAMED:
                raise PlanError(
                    "validation", f"target.{name}", f"{name} is a list of at most {MAX_NAMED} names"
                )
            if not all(isinstance(item, str) and 0 < len(item) <= 32 for item in items):
                raise PlanError("validation", f"target.{name}", f"{name} holds something that is no name")
            values[name] = tuple(dict.fromkeys(items))
        return cls(**values)

    def to_json(self) -> dict[str, list[str]]:
        """As `parse` reads it."""
        return {"classes": list(self.classes), "devices": list(self.devices)}

    def check(self) -> None:
        """Raise PlanError `unknown_device` or `unknown_class` for a name that does not exist."""
        classes = set(self.classes) - set(
            DeviceClass.objects.filter(pk__in=self.classes).values_list("pk", flat=True)
        )
        if classes:
            raise PlanError("unknown_class", "target.classes", f"no device class is called {min(classes)!r}")
        found = set(Device.objects.filter(pk__in=self.devices).values_list("pk", flat=True))
        if missing := set(self.devices) - found:
            raise PlanError("unknown_device", "target.devices", f"no device is called {min(missing)!r}")


@dataclass(frozen=True)
class Member:
    """A targeted device as it is now. run: id16 in the rollout's slot or "". skip: why not eligible."""

    device_id: str
    class_name: str
    run: str
    skip: str

    @property
    def candidate(self) -> Candidate:
        """How the draw sees it."""
        return Candidate(self.device_id, f"{self.class_name}/{'history' if self.run else 'new'}")


@dataclass
class Census:
    """Counts over a target: eligible devices per stratum, skipped ones per reason, both per class."""

    eligible: int = 0
    baselines: int = 0
    strata: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    classes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, member: Member) -> None:
        """Count one device."""
        entry = self.classes.setdefault(member.class_name, {"targeted": 0, "eligible": 0})
        entry["targeted"] += 1
        if member.skip:
            self.skipped[member.skip] += 1
            return
        entry["eligible"] += 1
        self.eligible += 1
        self.baselines += bool(member.run)
        self.strata[member.candidate.stratum] += 1


def members(rollout: Rollout) -> Iterator[Member]:
    """Every enrolled device that the target means, in the order of its id, read in batches."""
    target = Target.parse(rollout.target)
    classes = _class_reasons(rollout)
    devices = Device.objects.filter(retired_at=None)
    if target.classes:
        devices = devices.filter(device_class__in=target.classes)
    if target.devices:
        devices = devices.filter(pk__in=target.devices)
    last = ""
    while batch := list(devices.filter(pk__gt=last).order_by("pk")[:BATCH]):
        last = batch[-1].pk
        ids = [device.pk for device in batch]
        runs = _runs(ids, rollout.slot)
        busy = _busy(ids, rollout)
        for device in batch:
            run = runs.get(device.pk, "")
            skip = classes.get(device.device_class_id, "incompatible")
            if not skip and device.quarantined_at is not None:
                skip = "quarantined"
            if not skip and run == rollout.manifest.id16:
                skip = "already_installed"
            if not skip and device.pk in busy:
                skip = "other_rollout"
            yield Member(device.pk, device.device_class_id, run, skip)


def census(rollout: Rollout) -> Census:
    """Count the target as it is now, with each class's verdict."""
    counts = Census()
    for member in members(rollout):
        counts.add(member)
    for verdict in class_verdicts(rollout):
        if entry := counts.classes.get(verdict.device_class_id):
            acknowledged = bool(verdict.acknowledged_by)
            entry |= {
                "verdict": verdict.kind,
                "code": verdict.code,
                "text": verdict.text,
                "acknowledged": acknowledged,
            }
    return counts


def class_verdicts(rollout: Rollout) -> list[ClassVerdict]:
    """Preflight's answers for the rollout's version, one per device class that was judged."""
    return list(
        ClassVerdict.objects.filter(version_id=rollout.manifest.version_id).select_related("device_class")
    )


def _class_reasons(rollout: Rollout) -> dict[str, str]:
    """Class name -> "" when its devices are eligible, else why they are skipped."""
    reasons = {}
    verdicts = {verdict.device_class_id: verdict for verdict in class_verdicts(rollout)}
    for name, class_id in DeviceClass.objects.values_list("pk", "class_id"):
        verdict = verdicts.get(name)
        if class_id not in rollout.manifest.class_ids:
            reasons[name] = "target_class"
        elif verdict is None or verdict.class_id != class_id:
            reasons[name] = "not_preflighted"
        elif verdict.kind == VerdictKind.REFUSE:
            reasons[name] = verdict.code or "incompatible"
        elif verdict.kind == VerdictKind.UNPROVEN and not verdict.acknowledged_by:
            reasons[name] = "unproven"
        else:
            reasons[name] = ""
    return reasons


def _runs(ids: list[str], slot: int) -> dict[str, str]:
    rows = DeviceSlot.objects.filter(device_id__in=ids, slot=slot).values_list(
        "device_id", "run", "run_flags"
    )
    return {device_id: run for device_id, run, flags in rows if not flags & 2}


def _busy(ids: list[str], rollout: Rollout) -> set[str]:
    """Devices that another live rollout of this slot holds."""
    held = Membership.objects.filter(device_id__in=ids, wave__gt=0, rollout__slot=rollout.slot)
    held = held.filter(rollout__state__in=ROLLOUT_LIVE).exclude(rollout_id=rollout.pk)
    return set(held.values_list("device_id", flat=True))
