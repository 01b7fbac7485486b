"""Who a rollout is for: the devices its target names, who is eligible, and why the others are not."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import reduce
from typing import Any
from uuid import UUID

from django.db.models import (
    BooleanField,
    Exists,
    ExpressionWrapper,
    F,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    Value,
)

from fleet.devices.errors import GroupError, QueryError
from fleet.devices.models import Device, DeviceClass, DeviceGroup, DeviceSlot
from fleet.devices.query import parse
from fleet.devices.query_terms import show_comparison
from fleet.devices.selection import STOPPED, failing, group_where, where
from ota.assignment import Candidate
from ota.choices import ROLLOUT_LIVE, Arm, RolloutState, VerdictKind
from ota.models import ClassVerdict, Membership, Rollout
from ota.plan import PlanError

BATCH = 5_000
MAX_NAMED = 100_000
SAMPLE = 8
USABLE = 1
"""Bank flag: what the other bank holds may be run."""
TAKING_BACK = frozenset({RolloutState.ROLLING_BACK, RolloutState.ROLLBACK_INCOMPLETE})
"""States in which a rollout keeps its devices even from one that supersedes: they still run what is bad."""
LASTING = "already_installed"
"""Why a device was left out that a tail takes in no more: it had the model before the rollout began."""
_MAY_CHANGE = Q(arm=Arm.SKIPPED) & ~Q(skip_reason=LASTING)
_LISTS = ("classes", "devices", "groups")


class TargetError(PlanError):
    """A target that means nothing definite. Codes: `validation`, `unknown_class`, `unknown_device`,
    `unknown_group`, `group_query_invalid`, and those of QueryError with position and nearest names.
    """

    def __init__(
        self, code: str, field: str, text: str, *, position: int | None = None, nearest: Sequence[str] = ()
    ) -> None:
        super().__init__(code, field, text)
        self.position = position
        self.nearest = list(nearest)


@dataclass(frozen=True)
class Target:
    """Classes, devices and groups by name, and a query; what is empty does not restrict.

    A device is meant when it satisfies every part that is given: one of the classes, one of the devices, one
    of the groups, the query.
    """

    classes: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    q: str = ""

    @classmethod
    def parse(cls, data: Any) -> Target:
        """Read `{"classes": [...], "devices": [...], "groups": [...], "q": "..."}`, each part optional.

        Raises TargetError naming the field: `validation`, `query_syntax`, `query_unknown_field`.
        """
        if not isinstance(data, Mapping) or set(data) - {*_LISTS, "q"}:
            text = 'a target is {"classes": [...], "devices": [...], "groups": [...], "q": "..."}'
            raise TargetError("validation", "target", text)
        values = {}
        for name in _LISTS:
            items = data.get(name, ())
            if not isinstance(items, list | tuple) or len(items) > MAX_NAMED:
                raise TargetError(
                    "validation", f"target.{name}", f"{name} is a list of at most {MAX_NAMED} names"
                )
            if not all(isinstance(item, str) and 0 < len(item) <= 32 for item in items):
                raise TargetError("validation", f"target.{name}", f"{name} holds something that is no name")
            values[name] = tuple(dict.fromkeys(items))
        q = data.get("q", "")
        if not isinstance(q, str):
            raise TargetError("validation", "target.q", "q is a query as text")
        if q.strip():
            with _refusing_as_target("target.q"):
                parse(q)
        return cls(**values, q=q.strip())

    def to_json(self) -> dict[str, Any]:
        """As `parse` reads it."""
        return {**{name: list(getattr(self, name)) for name in _LISTS}, "q": self.q}

    def check(self, *, now: datetime) -> None:
        """Raise TargetError for a name that does not exist, and for a group whose query is none any more."""
        classes = set(self.classes) - set(
            DeviceClass.objects.filter(pk__in=self.classes).values_list("pk", flat=True)
        )
        if classes:
            text = f"no device class is called {min(classes)!r}"
            raise TargetError("unknown_class", "target.classes", text)
        found = set(Device.objects.filter(pk__in=self.devices).values_list("pk", flat=True))
        if missing := set(self.devices) - found:
            raise TargetError("unknown_device", "target.devices", f"no device is called {min(missing)!r}")
        self.select(now=now)

    def select(self, *, now: datetime) -> QuerySet[Device]:
        """Devices in service that are meant now. Raises TargetError as `check`."""
        devices = Device.objects.filter(retired_at=None)
        if self.classes:
            devices = devices.filter(device_class__in=self.classes)
        if self.devices:
            devices = devices.filter(pk__in=self.devices)
        if self.groups:
            devices = devices.filter(self._in_groups(now))
        if self.q:
            with _refusing_as_target("target.q"):
                devices = devices.filter(where(parse(self.q), now=now))
        return devices

    def _in_groups(self, now: datetime) -> Q:
        rows = {row.pk: row for row in DeviceGroup.objects.filter(pk__in=self.groups)}
        if missing := set(self.groups) - rows.keys():
            raise TargetError("unknown_group", "target.groups", f"no group is called {min(missing)!r}")
        with _refusing_as_target("target.groups"):
            parts = [group_where(row, now=now) for row in rows.values()]
        return reduce(operator.or_, parts)


def outside(target: Target, device: Device, *, now: datetime) -> str:
    """Why a target does not mean a device now, in words; "" when it does.

    Of a query the comparisons that fail are named. Raises TargetError as `Target.check`.
    """
    if device.retired_at is not None:
        return "it is retired"
    if target.classes and device.device_class_id not in target.classes:
        return f"its class {device.device_class_id} is none of {', '.join(target.classes)}"
    if target.devices and device.pk not in target.devices:
        return "it is not on the list of devices"
    if target.groups and not Device.objects.filter(target._in_groups(now), pk=device.pk).exists():
        return f"it is in none of the groups {', '.join(target.groups)}"
    if target.q:
        with _refusing_as_target("target.q"):
            failed = failing(parse(target.q), device.pk, now=now)
        return " and ".join(f"{show_comparison(one)} does not hold" for one in failed)
    return ""


@contextmanager
def _refusing_as_target(name: str) -> Iterator[None]:
    try:
        yield
    except (QueryError, GroupError) as error:
        raise TargetError(
            error.code, name, error.text, position=error.position, nearest=error.nearest
        ) from error


@dataclass(frozen=True, slots=True)
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
    """Counts over a target: eligible devices per stratum, skipped ones per reason, both per class.

    waves: device id -> the wave that names it; such devices are counted in `named` by wave and in no stratum,
    their reasons for being skipped are in `named_skipped`. ids: every eligible device, in order. runs:
    id16 of what they run, each once.
    """

    waves: Mapping[str, int] = field(default_factory=dict)
    named: Counter[int] = field(default_factory=Counter)
    named_skipped: dict[str, str] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    eligible: int = 0
    baselines: int = 0
    strata: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    classes: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: set[str] = field(default_factory=set)
    _met: set[str] = field(default_factory=set)

    @property
    def outside(self) -> set[str]:
        """Devices that a wave names and the target does not mean."""
        return self.waves.keys() - self._met

    def add(self, member: Member) -> None:
        """Count one device."""
        entry = self.classes.setdefault(member.class_name, {"targeted": 0, "eligible": 0, "skipped": {}})
        entry["targeted"] += 1
        wave = self.waves.get(member.device_id)
        if wave is not None:
            self._met.add(member.device_id)
        if member.skip:
            self.skipped[member.skip] += 1
            entry["skipped"][member.skip] = entry["skipped"].get(member.skip, 0) + 1
            if wave is not None:
                self.named_skipped[member.device_id] = member.skip
            return
        entry["eligible"] += 1
        self.eligible += 1
        self.ids.append(member.device_id)
        self.baselines += bool(member.run)
        self.runs.add(member.run)
        if wave is not None:
            self.named[wave] += 1
        else:
            self.strata[member.candidate.stratum] += 1


def members(rollout: Rollout, *, now: datetime, is_late: bool = False) -> Iterator[Member]:
    """Every enrolled device that the target means now, in the order of its id, read in batches.

    One query a batch, for the columns that decide only: whole rows of 100,000 devices take twelve times as
    long. is_late: only those that a tail may take in: they joined the target after the rollout's start, or
    were left out of it for what may have changed since. Raises TargetError when the target is no longer one:
    a group was deleted, or its query is none any more.
    """
    devices = Target.parse(rollout.target).select(now=now)
    if is_late:
        has_place = Membership.objects.filter(rollout=rollout, device_id=OuterRef("pk"))
        devices = devices.filter(~Exists(has_place.exclude(_MAY_CHANGE)))
    yield from _judged(rollout, devices)


def standing(rollout: Rollout, device_id: str) -> str:
    """Why a device is not eligible as it is now, whether or not the target means it; "" when it is."""
    found = next(_judged(rollout, Device.objects.filter(pk=device_id)), None)
    return found.skip if found is not None else "unknown_device"


def _judged(rollout: Rollout, devices: QuerySet[Device]) -> Iterator[Member]:
    devices = devices.annotate(
        now_runs=_run(rollout.slot), is_held=_is_held(rollout), is_lacking=_is_lacking(rollout)
    ).order_by("pk")
    columns = ("pk", "device_class_id", "quarantined_at", "now_runs", "is_held", "is_lacking")
    classes = _class_reasons(rollout)
    last = ""
    while batch := list(devices.filter(pk__gt=last).values_list(*columns)[:BATCH]):
        last = batch[-1][0]
        for device_id, class_name, quarantined_at, run, is_held, is_lacking in batch:
            skip = classes.get(class_name, "incompatible")
            if not skip and quarantined_at is not None:
                skip = "quarantined"
            if not skip and run == rollout.manifest.id16:
                skip = LASTING
            if not skip and is_held:
                skip = "other_rollout"
            if not skip and is_lacking:
                skip = "not_in_bank"
            yield Member(device_id, class_name, run or "", skip)


def census(rollout: Rollout, waves: Mapping[str, int], *, now: datetime) -> Census:
    """Count the target as it is now, with each class's verdict. waves: devices that a wave names."""
    counts = Census(waves)
    for member in members(rollout, now=now):
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


def _run(slot: int) -> Subquery:
    """What a device's slot runs, id16; NULL when it is stopped or unknown."""
    rows = DeviceSlot.objects.filter(device_id=OuterRef("pk"), slot=slot)
    return Subquery(rows.annotate(stopped=F("run_flags").bitand(STOPPED)).filter(stopped=0).values("run")[:1])


def holding(rollout: Rollout) -> list[UUID]:
    """Other rollouts of this one's slot whose devices it leaves alone.

    Those are the live ones; when this one supersedes, only those that are taking a model back.
    """
    states = TAKING_BACK if rollout.plan.get("supersede") else ROLLOUT_LIVE
    others = Rollout.objects.filter(slot=rollout.slot, state__in=states).exclude(pk=rollout.pk)
    return list(others.values_list("pk", flat=True))


def _is_held(rollout: Rollout) -> Exists | Value:
    """Whether another rollout of this slot holds a device."""
    rivals = holding(rollout)
    if not rivals:
        return Value(False)
    return Exists(Membership.objects.filter(device_id=OuterRef("pk"), rollout_id__in=rivals, wave__gt=0))


def _is_lacking(rollout: Rollout) -> Any:
    """Whether a device lacks, in its other bank, the model that a revert brings back."""
    if rollout.kind != "revert":
        return Value(False)
    rows = DeviceSlot.objects.filter(device_id=OuterRef("pk"), slot=rollout.slot, other=rollout.manifest.id16)
    held = rows.annotate(usable=F("other_flags").bitand(USABLE)).filter(usable=USABLE)
    return ExpressionWrapper(~Exists(held), BooleanField())
