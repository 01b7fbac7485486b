"""A rollout as pages and the API show it: one dictionary of stored facts, nothing interpolated."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db.models import Count
from django.utils import timezone

from fleet import hints
from fleet.accounts.models import AuditEvent, Role
from fleet.devices.models import Device, DeviceClass
from fleet.recent import recent
from ota import approval, evidence, exposure, operations, rollback, rollback_target, tail, zones
from ota.choices import (
    TONES,
    WAVE_ACTIVE,
    Arm,
    JobState,
    RolloutState,
    Tone,
    Verdict,
    WaveState,
)
from ota.exposure import Tally
from ota.failed_devices import FAILED, failed_devices
from ota.gates.collapse import collapsed
from ota.gates.evaluate import Row, hard_rows
from ota.job_counts import counts_of
from ota.models import Evidence, Membership, Rollout, Wave
from ota.offers import is_staged, missing_jobs
from ota.plan import NOWHERE, Plan
from ota.rollout_lists import MANIFEST_BYTES
from ota.sentence import sentence
from ota.verbs import allowed
from ota.waves import current

WAITING, TAKEN_BACK = "waiting", "taken_back"
"""Shown beside the job states: its wave has not opened yet; it confirmed and was rolled back since."""
_UNREAD = (
    *MANIFEST_BYTES,
    *("halted_on__inputs", "halted_on__rows"),
    *(f"{other}__{name}" for other in ("superseded_by", "reverts") for name in ("plan", "target", "summary")),
)
_ORDER = [WAITING, *(str(state) for state in JobState), TAKEN_BACK]
_EXTRA = {WAITING: ("Waiting", Tone.NEUTRAL), TAKEN_BACK: ("Taken back", Tone.ATTENTION)}
_HELD = (
    RolloutState.HALTED,
    RolloutState.ROLLING_BACK,
    RolloutState.ROLLED_BACK,
    RolloutState.ROLLBACK_INCOMPLETE,
)


def state(
    rollout: Rollout, *, now: datetime | None = None, role: str = Role.ADMIN, person: str = ""
) -> dict[str, Any]:
    """Everything a live page or `GET /rollouts/{id}` shows. Times are ISO 8601 strings in UTC or None. What
    is counted is of `as_of`: now, and when that takes long up to `fleet.recent.KEPT_S` ago.

    {"id", "name", "kind", "state", "label", "tone", "rev", "reason", "sentence", "slot",
     "manifest": {"id", "mid", "model", "version", "seq"}, "alias": what the version was asked for by | "",
     "created_by", "created_at", "started_at", "finished_at", "rollback_started_at", "as_of",
     "plan": Plan.to_json(), "summary": `preview` as preflight stored it, plus frozen counts,
     "size": frozen devices, "counts": {job state, "waiting" or "taken_back": n}, sum = size,
     "control": {"size": n, "is_released": bool (the last wave has opened)},
     "waves": [{"n", "state", "label", "tone", "is_gated", "is_tail", "closes_at" (of a tail), "size",
                "counts": {state: n} (sum = size),
                "segments": [{"state", "label", "tone", "n"}] in the order of a device's way,
                "confirmed", "failed", "in_flight", "waiting",
                "reach": None | {"reached", "needed", "of", "confirmed"} while open,
                "opened_at", "soaking_at", "soak_ends_at",
                "finished_at", "verdict", "reasons": [code, ...],
                "overridden": None | {"by", "at", "why", "evidence"}}],
     "gates": [{"wave", "evidence_id" | None, "at" | None, "verdict", "rows": [gate row, ...]}] for each wave
              with evidence or under way; a row: see `ota.gates.evaluate.evaluate`, with "tone" added,
     "failures": [{"state", "code", "class", "n", "devices": [up to 20 ids]}], most devices first,
     "skipped": {reason: n} of devices that are not part of it,
     "rollback": None | {"size", "counts", "done", "fetched": of size, by download,
                  "rest": [{"device_id", "state", "code", "is_online"}]},
     "undo": None | `ota.rollback.dry_run` (only while halted),
     "halted_on": evidence id | None, "halted_at": its time | None,
     "starting": None | {"operation": id, "done": devices that have their place, "total"} once it was started,
     "approval": `ota.approval.facts`, "start_at": None | when it starts by itself,
     "opens_at": None | when a window is open next, only while one is waited for,
     "superseded_by": None | {"id", "name"}, "supersedes": [{"id", "name"}, ...],
     "reverts": None | {"id", "name"}, "reverted_by": [{"id", "name"}, ...],
     "is_staged": bool, "is_simulated": bool, "allowed": [verb, ...] for `role` and `person`}
    """
    now = now or timezone.now()
    related = ("manifest__version", "halted_on", "superseded_by", "reverts")
    rollout = Rollout.objects.select_related(*related).defer(*_UNREAD).get(pk=rollout.pk)
    plan = Plan.parse(rollout.plan)
    waves = list(rollout.waves.order_by("n"))
    counted, as_of = _counted(rollout, plan, waves, now)
    version = rollout.manifest.version
    facts: dict[str, Any] = {
        "id": str(rollout.pk),
        "name": rollout.name,
        "kind": rollout.kind,
        "state": str(rollout.state),
        "label": str(RolloutState(rollout.state).label),
        "tone": str(TONES["rollout"][rollout.state]),
        "rev": rollout.rev,
        "reason": rollout.reason,
        "slot": rollout.slot,
        "manifest": {
            "id": rollout.manifest_id,
            "mid": rollout.manifest.mid,
            "model": version.model_id,
            "version": version.version,
            "seq": rollout.manifest.seq,
        },
        "alias": rollout.alias,
        "created_by": rollout.created_by,
        "created_at": _iso(rollout.created_at),
        "started_at": _iso(rollout.started_at),
        "finished_at": _iso(rollout.finished_at),
        "rollback_started_at": _iso(rollout.rollback_started_at),
        "as_of": _iso(as_of),
        "plan": rollout.plan,
        "summary": rollout.summary,
        "size": sum(wave.size for wave in waves),
        "counts": _sum(wave["counts"] for wave in counted["waves"]),
        "control": {
            "size": rollout.summary.get("control", 0),
            "is_released": bool(waves) and waves[len(plan.waves) - 1].opened_at is not None,
        },
        **counted,
        "halted_on": str(rollout.halted_on_id) if rollout.halted_on_id else None,
        "halted_at": _iso(rollout.halted_on.at) if rollout.halted_on else None,
        "starting": _starting(rollout),
        "approval": approval.facts(rollout),
        "start_at": _iso(plan.start_at),
        "opens_at": _iso(_opens_at(rollout, plan, now)),
        "superseded_by": _named(rollout.superseded_by),
        "supersedes": _all_named(rollout.supersedes) if plan.supersede else [],
        "reverts": _named(rollout.reverts),
        "reverted_by": _all_named(rollout.reverted_by) if rollout.state == RolloutState.COMPLETED else [],
        "is_staged": rollout.kind == "revert" or is_staged(rollout),
        "is_simulated": _has_virtual(rollout),
        "allowed": allowed(rollout, role, person=person),
    }
    wave = current(rollout) if rollout.state in (RolloutState.RUNNING, RolloutState.PAUSED) else None
    facts["sentence"] = sentence(facts, plan, current=wave.n if wave else None, now=now)
    return facts


def _counted(
    rollout: Rollout, plan: Plan, waves: list[Wave], now: datetime
) -> tuple[dict[str, Any], datetime]:
    """Whatever is counted, and of when it is. A verb or a wave that moves has all of it counted anew."""

    def count(_at: datetime) -> dict[str, Any]:
        return _count(rollout, plan, waves)

    name = f"live:{rollout.pk}:{rollout.rev}:{'.'.join(str(wave.rev) for wave in waves)}"
    return recent(name, count, now=now, topic=hints.rollout(rollout.pk))


def _count(rollout: Rollout, plan: Plan, waves: list[Wave]) -> dict[str, Any]:
    # a wave that is judged now is counted once, for the judgement and for its bar
    tallies = {wave.n: exposure.tally(wave) for wave in waves if wave.state in WAVE_ACTIVE}
    per_wave = _wave_counts(rollout, waves, tallies)
    return {
        "waves": [_wave(wave, rollout, plan, per_wave[wave.n], tallies.get(wave.n)) for wave in waves],
        "gates": _gates(rollout, plan, waves, tallies),
        "failures": failed_devices(rollout),
        "skipped": _skipped(rollout),
        "rollback": _rollback(rollout),
        "undo": rollback.dry_run(rollout) if _may_go_back(rollout, plan) else None,
    }


def _starting(rollout: Rollout) -> dict[str, Any] | None:
    """How far a start is that was asked for, until the rollout runs."""
    operation = operations.wanted(rollout.pk, rollout.rev) if rollout.state == RolloutState.READY else None
    if operation is None:
        return None
    return {"operation": str(operation.pk), "done": operation.done, "total": operation.total}


def _opens_at(rollout: Rollout, plan: Plan, now: datetime) -> datetime | None:
    """When the window opens that a scheduled or running rollout waits for; None when it waits for none."""
    is_asked = rollout.state == RolloutState.RUNNING or (
        rollout.state == RolloutState.SCHEDULED and plan.start_at is not None and plan.start_at <= now
    )
    if not plan.windows or not is_asked:
        return None
    opens = zones.opens_at(plan, now=now)
    return opens if opens > now else None


def _wave_counts(
    rollout: Rollout, waves: list[Wave], tallies: Mapping[int, Tally]
) -> dict[int, dict[str, int]]:
    """Per wave: devices by the state of their newest attempt; the sum is the frozen size of the wave."""
    found = counts_of([wave.pk for wave in waves if wave.n not in tallies])
    counts = {wave.n: found.get(wave.pk, {}) for wave in waves}
    for n, tally in tallies.items():
        for kind in tally.kinds:
            counts[n][str(kind.state)] = counts[n].get(str(kind.state), 0) + kind.n
    for n, count in _taken_back(rollout).items():
        confirmed = counts[n].pop(str(JobState.CONFIRMED), 0)
        counts[n][TAKEN_BACK] = min(count, confirmed)
        if confirmed > count:
            counts[n][str(JobState.CONFIRMED)] = confirmed - count
    for wave in waves:
        left = wave.size - sum(counts[wave.n].values())
        if left:
            # a device whose row is gone entirely took its job with it
            name = WAITING if _has_waiting(wave) else str(JobState.REMOVED)
            counts[wave.n][name] = counts[wave.n].get(name, 0) + left
    return counts


def _taken_back(rollout: Rollout) -> dict[int, int]:
    """Wave to devices whose revert is confirmed. Before a rollback began there is none, which no index tells
    without every job that has confirmed being read for its kind.
    """
    if rollout.rollback_started_at is None:
        return {}
    taken = rollback.revert_jobs(rollout).filter(state=JobState.CONFIRMED).order_by()
    return dict(taken.values_list("wave__n").annotate(count=Count("*")))


def _has_waiting(wave: Wave) -> bool:
    return wave.state == WaveState.PENDING or missing_jobs(wave).exists()


def _has_virtual(rollout: Rollout) -> bool:
    """Whether a virtual device takes part. Asked from the devices of such classes: in a fleet of boards there
    are none, and the members need not be read to know it.
    """
    classes = list(DeviceClass.objects.filter(chip="host").values_list("pk", flat=True))
    return bool(classes) and Device.objects.filter(
        device_class__in=classes, memberships__rollout=rollout
    ).exists()  # fmt: skip


def _wave(
    wave: Wave, rollout: Rollout, plan: Plan, counts: dict[str, int], counted: Tally | None
) -> dict[str, Any]:
    segments = [_segment(name, counts[name]) for name in _ORDER if counts.get(name)]
    active = [part["n"] for part in segments if part["tone"] == "active"]
    return {
        "n": wave.n,
        "state": str(wave.state),
        "label": str(WaveState(wave.state).label),
        "tone": str(TONES["wave"][wave.state]),
        "is_gated": wave.is_gated,
        "is_tail": plan.is_tail(wave.n),
        "closes_at": _iso(tail.closes_at(wave, plan)) if plan.is_tail(wave.n) else None,
        "size": wave.size,
        "counts": counts,
        "segments": segments,
        "confirmed": counts.get(JobState.CONFIRMED, 0),
        "failed": sum(counts.get(name, 0) for name in FAILED),
        "in_flight": sum(active),
        "waiting": counts.get(WAITING, 0) + counts.get(JobState.QUEUED, 0),
        "reach": evidence.reach(wave, rollout, plan, counted) if wave.state == WaveState.OPEN else None,
        "opened_at": _iso(wave.opened_at),
        "soaking_at": _iso(wave.soaking_at),
        "soak_ends_at": _iso(evidence.soak_ends(wave, plan)) if wave.soaking_at else None,
        "finished_at": _iso(wave.finished_at),
        "verdict": str(wave.verdict),
        "reasons": wave.reasons,
        "overridden": _overridden(wave) if wave.state == WaveState.OVERRIDDEN else None,
    }


def _overridden(wave: Wave) -> dict[str, Any] | None:
    """Who let a wave count as passed, why, and against which evidence, from the audit trail."""
    rows = AuditEvent.objects.filter(subject_kind="wave", subject_id=f"{wave.rollout_id}/{wave.n}")
    row = rows.filter(verb=f"wave.{WaveState.OVERRIDDEN}").first()
    if row is None:
        return None
    told: dict[str, Any] = row.after or {}
    return {
        "by": row.actor,
        "at": _iso(row.at),
        "why": told.get("why", row.reason),
        "evidence": told.get("evidence"),
    }


def _segment(name: str, n: int) -> dict[str, Any]:
    label, tone = _EXTRA.get(name) or (JobState(name).label, TONES["job"][name])
    return {"state": name, "label": str(label), "tone": str(tone), "n": n}


def _gates(
    rollout: Rollout, plan: Plan, waves: list[Wave], tallies: Mapping[int, Tally]
) -> list[dict[str, Any]]:
    newest = Evidence.objects.filter(rollout=rollout).order_by("wave_id", "-at", "-id").distinct("wave_id")
    # inputs name every pair there is: only a wave that is judged now needs those of its evidence
    by_wave = {row.wave_id: row for row in newest.defer("inputs")}
    shown = []
    for wave in waves:
        row = by_wave.get(wave.pk)
        rows: list[Row] = list(row.rows) if row else []
        if wave.state in WAVE_ACTIVE:
            # install failures are counted fresh; the quality rows rest on the pairs of the newest evidence
            fell = collapsed(row.inputs["metrics"]) if row else ()
            fresh = hard_rows(
                evidence.hard_counts(wave, plan, tallies[wave.n]), is_first=wave.n == 1, fell=fell
            )
            rest = [item for item in rows if item["rule"].startswith(("quality:", "telemetry", "proof"))]
            rows = [*fresh, *(rest or evidence.empty_rows(wave, rollout, plan))]
        if not rows:
            continue
        tones = TONES["gate"]
        shown.append(
            {
                "wave": wave.n,
                "evidence_id": str(row.pk) if row else None,
                "at": _iso(row.at) if row else None,
                "verdict": str(row.verdict) if row else str(Verdict.INCONCLUSIVE),
                "rows": [item | {"tone": str(tones[item["verdict"]])} for item in rows],
            }
        )
    return shown


def _skipped(rollout: Rollout) -> dict[str, int]:
    rows = Membership.objects.filter(rollout=rollout, arm=Arm.SKIPPED).order_by("skip_reason")
    return dict(rows.values_list("skip_reason").annotate(n=Count("*")))


def _rollback(rollout: Rollout) -> dict[str, Any] | None:
    if rollout.state not in _HELD or rollout.rollback_started_at is None:
        return None
    jobs = rollback.newest_reverts(rollout)
    counts = {str(name): n for name, n in jobs.order_by().values_list("state").annotate(n=Count("*"))}
    return {
        "size": sum(counts.values()),
        "counts": counts,
        "done": counts.get(JobState.CONFIRMED, 0),
        "fetched": rollback_target.fetched(rollout, jobs).count(),
        "rest": rollback.rest(rollout),
    }


def _may_go_back(rollout: Rollout, plan: Plan) -> bool:
    return rollout.state == RolloutState.HALTED and plan.rollback_to != NOWHERE


def _all_named(others: Any) -> list[dict[str, str] | None]:
    return [_named(other) for other in others.order_by("created_at")[:20]]


def _named(rollout: Rollout | None) -> dict[str, str] | None:
    return {"id": str(rollout.pk), "name": rollout.name} if rollout is not None else None


def _sum(parts: Any) -> dict[str, int]:
    total: dict[str, int] = defaultdict(int)
    for part in parts:
        for name, n in part.items():
            total[name] += n
    return dict(total)


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None
