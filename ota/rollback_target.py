"""Where a rollback leads: what each device ran at the start, or the manifest that the plan names; or nowhere.

A device that holds its target in the other bank goes back without a download. One that does not must fetch
it, and a device takes a lower sequence number from its own bank only: so what it fetches is signed anew. So
is a target that a revoked key has signed: a device judges what its bank holds by the trust document of now.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog
from django.db.models import Count, F, FilteredRelation, OuterRef, Q, QuerySet, Subquery

from fleet.accounts.audit import Actor
from fleet.devices.models import Device, DeviceClass, DeviceSlot, Presence
from ota import keys, releases, security, staging
from ota.choices import StagingState
from ota.chunking import CHUNK_BYTES
from ota.errors import OtaError
from ota.models import Job, Manifest, Membership, Rollout, Staging
from ota.plan import NOWHERE, PREVIOUS, PlanError

log = structlog.get_logger(__name__)

_USABLE: Final = 1  # bank flag: the other bank may be run again


class RollbackError(PlanError):
    """A rollback has nothing to lead to (`rollback_unavailable`)."""

    def __init__(self, text: str, fix: str = "") -> None:
        super().__init__("rollback_unavailable", "rollback_to", text, fix)


def check(rollout: Rollout, runs: Iterable[str], class_names: Iterable[str]) -> None:
    """Preflight of the way back (I12): signed by a key that is still trusted, unrevoked, not below the floor
    that the candidate sets, and fit for the classes that take part.

    runs: id16 of what eligible devices run now. class_names: their classes. Raises RollbackError. What the
    installation did not sign is not judged: such a device stops, as one that ran nothing.
    """
    goal = rollout.plan.get("rollback_to", PREVIOUS)
    if goal == NOWHERE:
        return
    if goal == PREVIOUS:
        for run in sorted(set(runs) - {""}):
            row = Manifest.objects.filter(pk__startswith=run).select_related("version").first()
            if row is not None:
                _judge(row, rollout, f"{row.version}, which devices run now,")
        return
    row = named(rollout)
    _judge(row, rollout, f"{row.version}")
    classes = dict(DeviceClass.objects.filter(pk__in=set(class_names)).values_list("pk", "class_id"))
    missing = sorted(name for name, class_id in classes.items() if class_id not in row.class_ids)
    if missing:
        raise RollbackError(f"{row.version} is not signed for class {missing[0]}")


def named(rollout: Rollout) -> Manifest:
    """The manifest that `rollback_to` names by its digest. Raises RollbackError for an unknown one."""
    digest = str(rollout.plan["rollback_to"])
    row = Manifest.objects.filter(pk=digest, slot=rollout.slot).select_related("version").first()
    if row is None:
        raise RollbackError(f"no manifest {digest[:16]}… is signed for slot {rollout.slot}")
    return row


def available(rollout: Rollout) -> None:
    """Raise RollbackError when the plan says that there is no way back."""
    if rollout.plan.get("rollback_to", PREVIOUS) == NOWHERE:
        why = rollout.plan.get("rollback_reason", "")
        raise RollbackError(f"the plan has no way back: {why}", "abort it, or roll out another version")


def goals(rollout: Rollout, device_ids: Sequence[str]) -> dict[str, str]:
    """Device -> id of the manifest it goes back to; "" stops its slot, which was empty or held what the
    installation never signed.
    """
    if rollout.plan.get("rollback_to", PREVIOUS) not in (PREVIOUS, NOWHERE):
        return dict.fromkeys(device_ids, named(rollout).pk)
    frozen = Membership.objects.filter(rollout=rollout, device_id__in=device_ids)
    runs = dict(frozen.values_list("device_id", "baseline_run"))
    full = _signed(runs.values())
    return {name: full.get(runs.get(name, ""), "") for name in device_ids}


def without(rollout: Rollout, targets: dict[str, str]) -> set[str]:
    """Devices that, as last reported, do not hold their target (device -> manifest id) in either bank, or
    hold it under signatures that are trusted no more: they would refuse it.

    One whose slot was never reported is not among them: it is asked first.
    """
    gone = _untrusted(set(targets.values()))
    slots = DeviceSlot.objects.filter(device_id__in=targets, slot=rollout.slot)
    rows = slots.values_list("device_id", "run", "other", "other_flags")
    return {name for name, run, other, flags in rows if _is_lacking(targets[name], run, other, flags, gone)}


@dataclass(frozen=True)
class Way:
    """Devices that go back alike. target: manifest id, "" stops the slot. is_lacking: as `without`."""

    target: str
    is_lacking: bool
    is_online: bool
    devices: int


def ways(rollout: Rollout, jobs: QuerySet[Job]) -> list[Way]:
    """How the devices of some of a rollout's jobs would go back: what `goals` and `without` say, each device
    once, counted by the database. By name, 96,000 devices come to this process and go back as parameters.
    """
    told = (
        Device.objects.filter(pk__in=jobs.values("device"))
        .annotate(
            member=FilteredRelation("memberships", condition=Q(memberships__rollout=rollout)),
            held=FilteredRelation("slots", condition=Q(slots__slot=rollout.slot)),
        )
        .order_by()
        .values_list("presence", "member__baseline_run", "held__run", "held__other", "held__other_flags")
        .annotate(n=Count("*"))
    )
    rows = list(told)
    is_previous = rollout.plan.get("rollback_to", PREVIOUS) in (PREVIOUS, NOWHERE)
    full = _signed(run for _, run, *_ in rows) if is_previous else {}
    fixed = "" if is_previous else named(rollout).pk
    targets = [full.get(run or "", "") if is_previous else fixed for _, run, *_ in rows]
    gone = _untrusted(set(targets))
    return [
        Way(target, _is_lacking(target, run, other, flags, gone), presence == Presence.ONLINE, n)
        for target, (presence, _, run, other, flags, n) in zip(targets, rows, strict=True)
    ]


def _signed(runs: Iterable[str | None]) -> dict[str, str]:
    """id16 of a run -> id of its manifest; one that the installation never signed is absent."""
    full: dict[str, str] = {}
    for run in {run for run in runs if run}:
        pk = Manifest.objects.filter(pk__startswith=run).values_list("pk", flat=True).first()
        if pk is not None:
            full[run] = pk
    return full


def _untrusted(manifest_ids: Collection[str]) -> set[str]:
    rows = Manifest.objects.filter(pk__in=manifest_ids).select_related("version")
    return {row.pk for row in rows.defer("leaves", "blob") if security.untrusted(row)}


def _is_lacking(target: str, run: str | None, other: str | None, flags: int | None, gone: set[str]) -> bool:
    """run: None for a slot that was never reported. gone: manifests that are trusted no more."""
    wanted = target[:32]
    if not wanted or run is None or run == wanted:
        return False
    return target in gone or not (other == wanted and (flags or 0) & _USABLE)


def renewed(manifest_id: str, *, actor: Actor, now: datetime) -> str:
    """Id of a manifest of the same version that any device takes by download: its sequence number is the
    highest of its model, and its signatures are trusted. Signed and sent to be staged when there is none yet;
    "" when it cannot be signed.
    """
    row = Manifest.objects.select_related("version__model").get(pk=manifest_id)
    newest = row.version.manifests.filter(slot=row.slot, revoked_at=None).order_by("-seq").first()
    is_newest = newest is not None and newest.seq == row.version.model.last_seq
    if newest is not None and is_newest and not security.untrusted(newest):
        staging.request(newest)
        return newest.pk
    try:
        return releases.release(row.version, slot=row.slot, resign=True, actor=actor, now=now).pk
    except OtaError as problem:
        log.warning("rollback_not_signed", manifest=row.mid, code=problem.code, reason=problem.text)
        return ""


def fetched(rollout: Rollout, jobs: QuerySet[Job]) -> QuerySet[Job]:
    """Those of a rollout's reverts that load a manifest signed anew, as their device lacks its own target."""
    jobs = jobs.exclude(target="")
    if rollout.plan.get("rollback_to", PREVIOUS) not in (PREVIOUS, NOWHERE):
        return jobs.exclude(target=rollout.plan["rollback_to"])
    frozen = Membership.objects.filter(rollout=rollout, device_id=OuterRef("device_id"))
    ran = Subquery(frozen.values("baseline_run")[:1])
    return jobs.annotate(ran=ran).exclude(target__startswith=F("ran"))


def staged(manifest_ids: Iterable[str]) -> set[str]:
    """Those of the manifests whose every chunk the broker holds."""
    rows = Staging.objects.filter(manifest_id__in=set(manifest_ids), state=StagingState.STAGED)
    return set(rows.values_list("manifest_id", flat=True))


def download_bytes(manifest_id: str) -> int:
    """Bytes of the chunks that a device fetches."""
    chunks = Manifest.objects.filter(pk=manifest_id).values_list("chunks", flat=True).first()
    return (chunks or 0) * CHUNK_BYTES


def _judge(row: Manifest, rollout: Rollout, what: str) -> None:
    if row.revoked_at is not None:
        raise RollbackError(f"{what} has been revoked", "name another `rollback_to`")
    floor = rollout.manifest.floor if rollout.manifest.version.model_id == row.version.model_id else 0
    trust, _ = keys.current_trust()
    least = max(floor, trust.least_seq(row.version.model_id))
    if row.seq < least:
        raise RollbackError(
            f"{what} has sequence number {row.seq}; after this rollout devices take {least} or more",
            "release the candidate with a lower floor, or name another `rollback_to`",
        )
