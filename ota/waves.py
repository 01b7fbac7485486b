"""The wave machine: open, reach, soak, judge, and what a verdict does to the rollout.

Every step is one conditional UPDATE inside the caller's transaction, which holds the rollout's row.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from fleet.accounts.audit import TICK, Actor
from ota import evidence, tail, windows, zones
from ota.choices import JOB_TERMINAL, WAVE_ACTIVE, Arm, JobState, RolloutState, Verdict, WaveState
from ota.evidence import Inputs
from ota.exposure import tally
from ota.gates.evaluate import Evaluation, evaluate
from ota.gates.reasons import words
from ota.models import Evidence, Membership, Rollout, Wave
from ota.offers import JOBS_PER_STEP, cancel_queued, ensure_jobs, install_jobs, tellable_jobs
from ota.plan import Plan
from ota.transitions import BATCH, move_jobs, move_rollout, move_wave

GATE = Actor("gate", "gates")


def current(rollout: Rollout) -> Wave | None:
    """The wave under way: the first that is neither passed, overridden nor cancelled; None after the last."""
    done = (WaveState.PASSED, WaveState.OVERRIDDEN, WaveState.CANCELLED)
    return rollout.waves.exclude(state__in=done).order_by("n").first()


def is_proven(rollout: Rollout) -> bool:
    """True once a wave of the kind that proves most here has passed: then the larger cap applies."""
    gated = rollout.waves.filter(is_gated=True).exists()
    return rollout.waves.filter(is_gated=gated, state__in=(WaveState.PASSED, WaveState.OVERRIDDEN)).exists()


def advance(rollout: Rollout, plan: Plan, *, now: datetime) -> None:
    """One step of a running rollout's wave machine. Each call does a bounded amount of work."""
    wave = current(rollout)
    if wave is None:
        complete(rollout, now=now)
        return
    if wave.state == WaveState.PENDING and not _open(wave, plan, now=now):
        return
    if wave.state not in WAVE_ACTIVE:
        return  # failed: the rollout is halted, or was and a person decides
    if wave.state == WaveState.OPEN and plan.is_tail(wave.n):
        tail.join(wave, rollout, plan, now=now)
    counted = tally(wave)
    if made := ensure_jobs(wave, rollout, have=counted.n, now=now):
        if made >= JOBS_PER_STEP:
            return  # more members may wait for their jobs
        counted = tally(wave)
    inputs = evidence.gather(wave, rollout, plan, counted=counted, now=now)
    verdict = evaluate(inputs)
    if verdict.verdict == Verdict.FAIL:
        fail(rollout, wave, inputs, verdict, now=now)
        return
    _step(rollout, wave, plan, inputs, verdict, now=now)


def _open(wave: Wave, plan: Plan, *, now: datetime) -> bool:
    """Open a pending wave, once a window is open for one of its devices. True for the one that opened it."""
    if not zones.is_open_somewhere(plan, now=now, wave=None if plan.is_tail(wave.n) else wave):
        return False
    return move_wave(wave, WaveState.OPEN, actor=TICK, now=now, opened_at=now, size=_size(wave))


def watch(rollout: Rollout, plan: Plan, *, now: datetime) -> None:
    """Judge a paused rollout's devices by the gates that halt; nothing advances."""
    wave = current(rollout)
    if wave is None or wave.state not in WAVE_ACTIVE:
        return
    inputs = evidence.gather(wave, rollout, plan, now=now)
    verdict = evaluate(inputs)
    if verdict.verdict == Verdict.FAIL:
        fail(rollout, wave, inputs, verdict, now=now)


def fail(rollout: Rollout, wave: Wave, inputs: Inputs, verdict: Evaluation, *, now: datetime) -> None:
    """Halt the rollout on evidence. The tick withdraws its offers next; running trials end by themselves."""
    row = evidence.store(wave, inputs, verdict, now=now)
    reason = "; ".join(
        f"{r['label']}: {r['text']}" + (f"; {r['flag']}" if r.get("flag") else "")
        for r in verdict.rows
        if r["verdict"] == Verdict.FAIL
    )
    _halt(rollout, wave, row, list(verdict.reasons), reason or "the evidence was not enough in time", now=now)


def complete(rollout: Rollout, *, now: datetime) -> None:
    """End a rollout whose last wave passed. Devices never reached are skipped: no success."""
    queued = cancel_queued(rollout, actor=TICK, now=now, to=JobState.SKIPPED, code="offline_at_end")
    deferred = list(install_jobs(rollout).filter(state=JobState.DEFERRED).order_by("device_id")[:BATCH])
    move_jobs(deferred, JobState.TIMED_OUT, actor=TICK, now=now, code="deferred")
    if BATCH not in (queued, len(deferred)):
        move_rollout(rollout, RolloutState.COMPLETED, actor=TICK, now=now)


def close(rollout: Rollout, *, now: datetime) -> None:
    """Cancel every wave that has no verdict yet, because the rollout is aborted or taken back."""
    judged = (WaveState.PASSED, WaveState.OVERRIDDEN, WaveState.CANCELLED, WaveState.FAILED)
    for wave in rollout.waves.exclude(state__in=judged):
        move_wave(wave, WaveState.CANCELLED, actor=TICK, now=now)


def _step(
    rollout: Rollout, wave: Wave, plan: Plan, inputs: Inputs, verdict: Evaluation, *, now: datetime
) -> None:
    before = evidence.newest(wave)
    if wave.state == WaveState.OPEN:
        _after_open(wave, plan, inputs, now=now)
    if wave.state == WaveState.INCONCLUSIVE:
        if _is_over(wave, plan, now):
            _give_up(rollout, wave, plan, inputs, verdict, now=now)
        elif before is None or evidence.digest(inputs) != before.inputs_sha256:
            move_wave(wave, WaveState.SOAKING, actor=TICK, now=now)
    if wave.state == WaveState.SOAKING and _is_ripe(wave, plan, inputs, now):
        move_wave(wave, WaveState.EVALUATING, actor=TICK, now=now)
    if wave.state == WaveState.EVALUATING:
        _judge(rollout, wave, inputs, evaluate(inputs), now=now)
    elif wave.is_gated and evidence.spent_pairs(inputs) > evidence.spent_pairs(
        before.inputs if before else {}
    ):
        evidence.store(wave, inputs, verdict, now=now)


def _after_open(wave: Wave, plan: Plan, inputs: Inputs, *, now: datetime) -> None:
    if plan.is_tail(wave.n):
        if tail.is_over(wave, plan, now=now):
            move_wave(wave, WaveState.SOAKING, actor=TICK, now=now, soaking_at=now)
            inputs["is_soaked"] = evidence.is_soaked(wave, plan, now=now)
        return
    reach = inputs["reach"]
    is_met = reach["reached"] >= reach["needed"]
    # once nobody can confirm any more, waiting for reach would wait for ever
    if is_met or (reach["confirmed"] < reach["needed"] and evidence.is_settled(wave)):
        if move_wave(wave, WaveState.SOAKING, actor=TICK, now=now, soaking_at=now):
            inputs["is_soaked"] = evidence.is_soaked(wave, plan, now=now)
    elif wave.opened_at and windows.open_s(plan.windows, wave.opened_at, now) >= plan.reach_deadline_s:
        move_wave(wave, WaveState.EVALUATING, actor=TICK, now=now, reason="reach_deadline")


def _is_ripe(wave: Wave, plan: Plan, inputs: Inputs, now: datetime) -> bool:
    """True when a verdict is due: soak over and enough pairs matured, or no more can, or time is up."""
    if _is_over(wave, plan, now):
        return True
    if not inputs["is_soaked"]:
        return False
    if wave.n >= len(plan.waves) and not _is_quiet(wave):
        return False  # the end of the rollout waits for jobs under way
    return all(
        len(metric["pairs"]) >= plan.min_pairs
        or len(metric["pairs"]) + len(metric["dropped"]) >= metric["possible"]
        for metric in inputs["metrics"]
    )


def _is_quiet(wave: Wave) -> bool:
    """True when no device of the rollout is under way or about to be tried again; offline ones may wait."""
    jobs = install_jobs(wave.rollout)
    waiting = (*JOB_TERMINAL, JobState.QUEUED, JobState.DEFERRED)
    return not (
        jobs.exclude(state__in=waiting).exists()
        or jobs.filter(retry_at__isnull=False).exists()
        or tellable_jobs(wave.rollout).exists()
    )


def _judge(rollout: Rollout, wave: Wave, inputs: Inputs, verdict: Evaluation, *, now: datetime) -> None:
    row = evidence.store(wave, inputs, verdict, now=now)
    reasons = list(verdict.reasons)
    to = WaveState.PASSED if verdict.verdict == Verdict.PASS else WaveState.INCONCLUSIVE
    why = f"evidence {row.pk}"
    move_wave(wave, to, actor=GATE, now=now, reason=why, verdict=verdict.verdict, reasons=reasons)


def _give_up(
    rollout: Rollout, wave: Wave, plan: Plan, inputs: Inputs, verdict: Evaluation, *, now: datetime
) -> None:
    """Time is up without an answer: halt, or wait for a person, as the plan says."""
    if plan.on_inconclusive != "halt":
        return
    row = evidence.store(wave, inputs, verdict, now=now)
    reason = f"wave {wave.n} stayed inconclusive: {words(verdict.reasons) or 'no reason left'}"
    _halt(rollout, wave, row, list(verdict.reasons), reason, now=now)


def _halt(
    rollout: Rollout, wave: Wave, row: Evidence, reasons: list[str], reason: str, *, now: datetime
) -> None:
    if not move_rollout(
        rollout, RolloutState.HALTED, actor=GATE, now=now, reason=reason[:2000], halted_on=row
    ):
        return
    verdict = row.verdict
    move_wave(
        wave,
        WaveState.FAILED,
        actor=GATE,
        now=now,
        reason=f"evidence {row.pk}",
        verdict=verdict,
        reasons=reasons,
    )


def _is_over(wave: Wave, plan: Plan, now: datetime) -> bool:
    since = wave.soaking_at or (wave.opened_at and wave.opened_at + timedelta(seconds=plan.reach_deadline_s))
    return since is not None and now >= since + timedelta(seconds=plan.max_soak_s)


def _size(wave: Wave) -> int:
    members = Membership.objects.filter(rollout_id=wave.rollout_id, wave=wave.n)
    return members.exclude(arm=Arm.SKIPPED).count()
