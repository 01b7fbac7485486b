"""A second person's word: when a rollout needs one, what it is about, and what makes it void.

An approval is about a submission: the manifest, the plan with salt and target, and the eligible devices, each
by its digest. Whoever approves names all three, so nobody approves what they have not seen. Any edit voids
it, and so does a start that finds another fleet. None of those who wrote the plan may approve it, nor go on
against evidence, through whichever of their tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings

from fleet.accounts import audit
from fleet.accounts.audit import Actor, person_of
from ota import evidence
from ota.choices import Decision, RolloutState
from ota.errors import RolloutError
from ota.models import Approval, Evidence, Rollout, Submission, Wave
from ota.plan import Plan

_DIFFERENCES_SHOWN = 6


def needed(plan: Plan, eligible: int) -> list[str]:
    """Why a second person must approve, in words; [] when nobody must.

    The installation asks for it above `settings.APPROVAL_OVER` devices; a plan can only ask for more.
    """
    reasons = []
    if eligible > settings.APPROVAL_OVER:
        reasons.append(f"{eligible} devices, more than {settings.APPROVAL_OVER}")
    if plan.requires_approval:
        reasons.append("the plan asks for it")
    if plan.rollback_to == "none":
        reasons.append(f"there is no way back: {plan.rollback_reason}")
    return reasons


def authors(rollout: Rollout) -> set[str]:
    """Persons who made or changed the plan: none of them is a second person."""
    return {person_of(rollout.created_by), *rollout.authors}


def content(rollout: Rollout) -> dict[str, Any]:
    """What the plan digest covers: the plan with its gates, the salt, and who is meant (target and slot)."""
    return {
        "plan": rollout.plan,
        "salt": bytes(rollout.salt).hex(),
        "slot": rollout.slot,
        "target": rollout.target,
    }


def plan_digest(rollout: Rollout) -> str:
    """SHA-256 (hex) of the canonical JSON of `content`."""
    text = json.dumps(content(rollout), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def submit(rollout: Rollout, *, target_digest: str, count: int, actor: Actor, now: datetime) -> Submission:
    """Keep what preflight let through. Call it in the transaction of the move that follows."""
    return Submission.objects.create(
        rollout=rollout,
        at=now,
        by=actor.person,
        authors=sorted(authors(rollout)),
        reasons=needed(Plan.parse(rollout.plan), count),
        manifest_sha256=rollout.manifest_id,
        plan_digest=plan_digest(rollout),
        target_digest=target_digest,
        target_count=count,
        content=content(rollout),
    )


def newest(rollout: Rollout) -> Submission | None:
    """What was submitted last."""
    return rollout.submissions.first()


def live(rollout: Rollout) -> Approval | None:
    """The approval that holds now: not void, and about this manifest, plan and previewed set."""
    found = rollout.approvals.filter(decision=Decision.APPROVE, voided_at=None).first()
    return found if found is not None and _holds(found, newest(rollout), rollout) else None


def _holds(row: Approval, about: Submission | None, rollout: Rollout) -> bool:
    """True when an approval is about the newest submission, and that is still what would run."""
    if row.decision != Decision.APPROVE or row.voided_at is not None:
        return False
    if about is None or row.submission_id != about.pk:
        return False
    return (about.manifest_sha256, about.plan_digest) == (rollout.manifest_id, plan_digest(rollout))


def check_second(rollout: Rollout, actor: Actor) -> None:
    """Raise RolloutError `approver_is_author` unless the actor wrote nothing of the plan."""
    if actor.person in authors(rollout):
        raise RolloutError(
            "approver_is_author",
            f"{actor.person} wrote this plan: a second person has to decide",
            "ask somebody with the role approver or admin who did not make or change it",
        )


def check_current(
    rollout: Rollout, *, manifest_sha256: str, plan_digest: str, target_digest: str
) -> Submission:
    """The submission that these digests name. Raises RolloutError `approval_stale`, with the difference in
    words, when it is not the newest one of this rollout.
    """
    now = newest(rollout)
    if now is None:
        raise RolloutError("approval_stale", "nothing was submitted yet")
    given = (manifest_sha256, plan_digest, target_digest)
    if given == (now.manifest_sha256, now.plan_digest, now.target_digest):
        return now
    raise RolloutError("approval_stale", _difference(rollout, now, *given), "read the plan as it is now")


def check_acknowledged(
    rollout: Rollout, given: UUID | str | None, reason: str, wave: Wave | None = None
) -> Evidence:
    """The evidence that stands in the way: what halted the rollout, or the newest of `wave`.

    Raises RolloutError `evidence_not_current` when `given` is not its id, `validation` without a reason.
    """
    row = rollout.halted_on
    if wave is not None:
        row = evidence.newest(wave) if rollout.state != RolloutState.HALTED else row
        row = row if row is not None and row.wave_id == wave.pk else None
    if row is None or str(given) != str(row.pk):
        current = row.pk if row else None
        raise RolloutError("evidence_not_current", f"acknowledge the evidence it rests on: {current}")
    if not reason.strip():
        raise RolloutError("validation", "going on against evidence needs a reason")
    return row


def decide(
    rollout: Rollout,
    decision: Decision,
    *,
    actor: Actor,
    now: datetime,
    reason: str,
    rests_on: Evidence | None = None,
) -> Approval:
    """Write a decision about the newest submission down, and its audit row. Call it in the transaction of the
    move it allows.
    """
    about = newest(rollout)
    row = Approval.objects.create(
        rollout=rollout,
        submission=about,
        decision=decision,
        by=actor.person,
        actor=actor.name,
        at=now,
        reason=reason,
        evidence=rests_on,
    )
    digests = {
        name: getattr(about, name, None)
        for name in ("manifest_sha256", "plan_digest", "target_digest", "target_count")
    }
    audit.record(
        actor=actor,
        verb=f"approval.{decision}",
        subject_kind="rollout",
        subject_id=str(rollout.pk),
        at=now,
        after={"approval": str(row.pk), **digests, "evidence": str(rests_on.pk) if rests_on else None},
        reason=reason,
    )
    return row


def void(rollout: Rollout, *, now: datetime) -> int:
    """End the approvals of a rollout whose plan or fleet is another one now. Returns how many held."""
    return rollout.approvals.filter(decision=Decision.APPROVE, voided_at=None).update(voided_at=now)


def facts(rollout: Rollout) -> dict[str, Any]:
    """As pages and the API show it:

    {"reasons": why it is needed, "submission": None | {"id", "at", "by", "authors", "manifest_sha256",
     "plan_digest", "target_digest", "target_count"}, "approved_by": person | None,
     "decisions": [{"id", "decision", "label", "by", "at", "reason", "plan_digest", "evidence_id",
     "voided_at"}], newest first}
    """
    row = newest(rollout)
    decisions = list(rollout.approvals.select_related("submission")[:20])
    by = next((item.by for item in decisions if _holds(item, row, rollout)), None)
    return {
        "reasons": row.reasons if row else [],
        "submission": _submission(row) if row else None,
        "approved_by": by,
        "decisions": [_decision(item) for item in decisions],
    }


def differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """What differs between two JSON values, as `waves[1].percent 10 -> 25`."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            place = f"{name}.{key}" if name else key
            yield from differences(old.get(key), new.get(key), place)
    elif isinstance(old, list) and isinstance(new, list):
        for index in range(max(len(old), len(new))):
            was, now = (part[index] if index < len(part) else None for part in (old, new))
            yield from differences(was, now, f"{name}[{index}]")
    elif old != new:
        yield f"{name} {_short(old)} -> {_short(new)}"


def _difference(rollout: Rollout, now: Submission, manifest: str, plan: str, target: str) -> str:
    texts = []
    if manifest != now.manifest_sha256:
        texts.append(f"manifest changed: {manifest[:16]} -> {now.manifest_sha256[:16]}")
    if plan != now.plan_digest:
        seen = rollout.submissions.filter(plan_digest=plan).first()
        if seen is None:
            texts.append(f"no plan of this rollout has the digest {plan[:16]}, it is {now.plan_digest[:16]}")
        else:
            found = [text.removeprefix("plan.") for text in differences(seen.content, now.content) if text]
            more = f" and {len(found) - _DIFFERENCES_SHOWN} more" if len(found) > _DIFFERENCES_SHOWN else ""
            texts.append(f"plan changed: {', '.join(found[:_DIFFERENCES_SHOWN])}{more}")
    if target != now.target_digest:
        seen = rollout.submissions.filter(target_digest=target).first()
        before = f"{seen.target_count} devices" if seen else target[:16]
        texts.append(f"target changed: {before} -> {now.target_count} devices")
    return "; ".join(texts)


def _short(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, dict | list) else "nothing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _submission(row: Submission) -> dict[str, Any]:
    names = ("by", "authors", "manifest_sha256", "plan_digest", "target_digest", "target_count")
    return {"id": str(row.pk), "at": row.at.isoformat(), **{name: getattr(row, name) for name in names}}


def _decision(row: Approval) -> dict[str, Any]:
    return {
        "id": str(row.pk),
        "decision": str(row.decision),
        "label": str(Decision(row.decision).label),
        "by": row.by,
        "at": row.at.isoformat(),
        "reason": row.reason,
        "plan_digest": row.submission.plan_digest if row.submission else None,
        "evidence_id": str(row.evidence_id) if row.evidence_id else None,
        "voided_at": row.voided_at.isoformat() if row.voided_at else None,
    }
