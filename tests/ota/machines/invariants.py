"""The invariants of rollouts.md section 6 as functions over what a step did. Each raises AssertionError.

I3 and I15 are judged on documents and on what honest devices did with them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from itertools import pairwise
from uuid import UUID

from django.conf import settings

from fleet.mqtt.codec.names import Action
from ota.choices import (
    JOB_EDGES,
    JOB_TERMINAL,
    ROLLOUT_EDGES,
    WAVE_EDGES,
    Arm,
    Decision,
    JobState,
    RolloutState,
    Verdict,
    WaveState,
)
from ota.evidence import recheck
from ota.models import Rollout
from tests.ota.machines.watching import PASSED, Facts, JobRow, Move, Seen

R, W, J = RolloutState, WaveState, JobState
_RECONCILED = {(J.TIMED_OUT, J.CONFIRMED), (J.CANCELLED, J.CONFIRMED), (J.CONFIRMED, J.SELF_REVERTED)}
_TAKING_BACK = (R.ROLLING_BACK, R.ROLLBACK_INCOMPLETE)


def i1(seen: Seen) -> None:
    """One non-terminal job per (device, slot)."""
    live = Counter((job.device, job.slot) for job in seen.now.jobs.values() if job.state not in JOB_TERMINAL)
    assert all(n == 1 for n in live.values()), live


def i2(seen: Seen) -> None:
    """The desired counter strictly rises per device; one counter names one document, byte for byte."""
    for device, document, message in seen.documents:
        earlier = seen.watcher.published.setdefault(device, {})
        newest = max(earlier, default=0)
        assert document.device_id == device
        assert document.counter >= newest, f"{device}: {document.counter} published after {newest}"
        assert earlier.get(document.counter, message) == message, f"{device}: two documents of one counter"
        earlier[document.counter] = message


def i3(seen: Seen) -> None:
    """A revert needs no download: it names what the device ran at the start, and said it still holds."""
    for device, document, _ in seen.documents:
        for slot, entry in document.entries.items():
            if entry.action != Action.RUN_OTHER_BANK:
                continue
            jobs = _of(seen.now, device, slot, "revert")
            assert jobs, f"{device} is reverted without a job"
            assert entry.manifest_id.hex() == jobs[-1].target
            assert _baseline(seen.now, jobs[-1]) == entry.manifest_id.hex()[:32], device


def i4(seen: Seen) -> None:
    """Every change of state is an edge, and has its audit row in the same transaction."""
    told: dict[tuple[str, str], list[Move]] = defaultdict(list)
    edges: Mapping[str, Mapping[str, frozenset[str]]]
    edges = {"rollout": ROLLOUT_EDGES, "wave": WAVE_EDGES, "job": JOB_EDGES}
    for move in seen.moves:
        assert move.after in edges[move.kind][move.before], f"{move.kind}: {move.before} to {move.after}"
        told[move.kind, move.subject].append(move)
    for kind, subject, before, now in _states(seen):
        moves = told[kind, subject]
        if not moves:
            assert before in (None, now), f"{kind} {subject} went from {before} to {now} without an audit row"
            continue
        assert moves[0].before == before or before is None, (
            f"{kind} {subject}: {moves[0].before}, was {before}"
        )
        assert all(one.after == two.before for one, two in pairwise(moves)), f"{kind} {subject}: a gap"
        assert moves[-1].after == now, f"{kind} {subject} is {now}, its trail ends {moves[-1].after}"


def i5(seen: Seen) -> None:
    """A terminal job leaves only by reconciliation with what the device runs, or with its device."""
    for move in seen.moves:
        if move.kind == "job" and move.before in JOB_TERMINAL and move.after != J.REMOVED:
            assert (move.before, move.after) in _RECONCILED, f"{move.before} to {move.after}"
            assert move.row.actor_kind == "device", move.row.actor_kind
    for row in seen.trail:
        if row.verb == "job.retry":
            _check_retry(seen, UUID((row.before or {})["job"]), UUID(row.subject_id))


def _check_retry(seen: Seen, failed: UUID, new: UUID) -> None:
    """One new attempt follows the newest one, once."""
    assert failed not in seen.watcher.retried, f"{failed} was tried again twice"
    seen.watcher.retried.add(failed)
    was, made = seen.now.jobs[failed], seen.now.jobs[new]
    mine = (job for job in seen.now.jobs.values() if (job.rollout, job.device) == (made.rollout, made.device))
    numbers = {job.attempt for job in mine if job.kind == "install"}
    assert was.attempt < made.attempt, f"attempt {made.attempt} follows {was.attempt}"
    assert not numbers & {*range(was.attempt + 1, made.attempt)}, f"{made.attempt} follows no newest one"


def i6(seen: Seen) -> None:
    """Every device of an open wave has one newest job, or is still to get one; nobody is counted twice."""
    for (rollout, n), wave in seen.now.waves.items():
        if wave.opened_at is None:
            continue
        newest = {job.device for job in seen.now.jobs.values() if job.rollout == rollout and job.wave == n}
        members = {
            row.device
            for row in seen.now.members.get(rollout, ())
            if row.wave == n and row.arm != Arm.SKIPPED
        }
        assert newest <= members, f"wave {n}: {newest - members} are not its members"
        assert wave.size == len(members)


def i7(seen: Seen) -> None:
    """Membership follows from salt and frozen set and never changes; control has no job before its wave.

    Of a start that has not come to its end there are rows, but nobody looks at them: they may be forgotten.
    """
    for pk, rows in seen.now.members.items():
        if seen.now.rollouts[pk].started_at is None:
            assert not any(rollout == pk for rollout, _ in seen.now.waves), "waves before the start"
            continue
        if pk in seen.before.rollouts and seen.before.rollouts[pk].started_at is not None:
            assert seen.before.members[pk] == rows, "a frozen membership changed"
        else:
            _check_draw(seen, pk)
        last = max(n for rollout, n in seen.now.waves if rollout == pk)
        if seen.now.waves[pk, last].opened_at is None:
            control = {row.device for row in rows if row.arm == Arm.CONTROL}
            touched = {job.device for job in seen.now.jobs.values() if job.rollout == pk} & control
            assert not touched, f"control was touched: {touched}"


def i8(seen: Seen) -> None:
    """No wave opens unless the one before passed, or was overridden with who, why and evidence."""
    for (rollout, n), wave in seen.now.waves.items():
        if wave.opened_at is not None and n > 1:
            before = seen.now.waves[rollout, n - 1]
            assert before.state in PASSED, f"wave {n} opened, wave {n - 1} is {before.state}"
    for move in seen.moves:
        if move.kind == "wave" and move.after == W.OVERRIDDEN:
            evidence, _, why = move.row.reason.partition(" overridden: ")
            assert move.row.actor_kind == "user"
            assert UUID(evidence.removeprefix("evidence "))
            assert why.strip()


def i9(seen: Seen) -> None:
    """Offers are made while the rollout runs, reverts while it is taken back, and never otherwise."""
    for move in seen.moves:
        if move.kind == "job" and move.after == J.OFFERED:
            kind = seen.now.jobs[UUID(move.subject)].kind
            allowed = _TAKING_BACK if kind == "revert" else (R.RUNNING,)
            assert move.rollout_state in allowed, f"{kind} offered while {move.rollout_state}"


def i10(seen: Seen) -> None:
    """What needs an approval runs only as a second person read it: this manifest, plan, salt and target."""
    for move in seen.moves:
        if move.kind != "rollout" or (move.before, move.after) != (R.READY, R.RUNNING):
            continue
        rollout = seen.now.rollouts[UUID(move.subject)]
        about = rollout.submissions.first()
        assert about is not None, "started, and never submitted"
        wrote = seen.watcher.wrote[rollout.pk]
        if not _needs_approval(seen, rollout, about.target_count):
            continue
        holds = rollout.approvals.filter(decision=Decision.APPROVE, voided_at=None, submission=about)
        people = {row.by for row in holds}
        assert people, f"needs an approval ({about.reasons}), started without"
        assert not people & wrote, f"approved by its author: {people}"
        assert about.manifest_sha256 == rollout.manifest_id
        covered = {
            "plan": rollout.plan, "salt": bytes(rollout.salt).hex(), "slot": rollout.slot,
            "target": rollout.target,
        }  # fmt: skip
        text = json.dumps(covered, sort_keys=True, separators=(",", ":"))
        assert about.plan_digest == hashlib.sha256(text.encode()).hexdigest(), "another plan was approved"
    for pk in {move.rollout for move in seen.moves if move.kind in ("rollout", "wave")} - {None}:
        for decision in seen.now.rollouts[pk].approvals.filter(voided_at=None):
            assert decision.by not in seen.watcher.wrote[pk], f"{decision.decision} by an author"


def i11(seen: Seen) -> None:
    """Nothing is told to run but manifests of this installation that are not revoked."""
    known = _manifests(seen)
    for device, document, _ in seen.documents:
        for entry in document.entries.values():
            if entry.action != Action.STOP:
                assert entry.manifest_id.hex() in known, f"{device} is told to run an unknown manifest"


def i12(seen: Seen) -> None:
    """A revert's target is the signed manifest that the device ran at the start, or a stop for none."""
    for job in seen.now.jobs.values():
        if job.kind == "revert":
            assert job.target[:32] == _baseline(seen.now, job), f"{job.device} reverts to {job.target[:8]}"


def i13(seen: Seen) -> None:
    """A version may go back; the counter of what is to be done never does, whatever the clock does."""
    for device, (counter, _) in seen.before.desired.items():
        assert seen.now.desired[device][0] >= counter, device
    for name, job in seen.before.jobs.items():
        assert seen.now.jobs[name].counter >= job.counter, job.device


def i15(seen: Seen) -> None:
    """What a device is told changes at most once per counter."""
    for device, (counter, entries) in seen.now.desired.items():
        before = seen.before.desired.get(device)
        assert before is None or before[0] != counter or before[1] == entries, device


def i16(seen: Seen) -> None:
    """At each offer the jobs in flight are at most the cap."""
    for move in seen.moves:
        job = seen.now.jobs.get(UUID(move.subject)) if move.kind == "job" else None
        if job is not None and move.after == J.OFFERED and job.kind == "install":
            plan = seen.watcher.plan(seen.now.rollouts[job.rollout])
            cap = plan.cap(is_proven=move.is_proven)
            assert move.in_flight <= cap, f"{move.in_flight} in flight, the cap is {cap}"


def i17(seen: Seen) -> None:
    """No PASS with too few pairs or silent devices; each verdict recomputes from its row."""
    for row in seen.evidence:
        again = recheck(row)
        assert again.is_same, again.problem
        text = json.dumps(row.inputs, sort_keys=True, separators=(",", ":"))
        assert row.inputs_sha256 == hashlib.sha256(text.encode()).hexdigest(), "not the inputs of its digest"
        if row.verdict == Verdict.PASS and row.inputs["is_gated"]:
            for metric in row.inputs["metrics"]:
                assert not metric["required"] or len(metric["pairs"]) >= metric["min_pairs"], metric["metric"]
            silence = row.inputs["telemetry"]
            assert silence["silent"] <= 0.2 * silence["exposed"], silence
    passes = {str(row.pk) for row in seen.evidence if row.verdict == Verdict.PASS}
    for move in seen.moves:
        if move.kind == "wave" and move.after == W.PASSED:
            assert move.row.reason.removeprefix("evidence ") in passes, "a wave passed without a PASS"


INVARIANTS: tuple[Callable[[Seen], None], ...] = (
    i1, i2, i3, i4, i5, i6, i7, i8, i9, i10, i11, i12, i13, i15, i16, i17,
)  # fmt: skip
"""Judged after every step. I14 is a rule of its own (`machine.Machine`): ticks again, and dies, and again."""


def _states(seen: Seen) -> list[tuple[str, str, str | None, str]]:
    """(kind, subject of its audit rows, state before or None for new ones, state now) of everything."""
    then, now = seen.before, seen.now
    found: list[tuple[str, str, str | None, str]] = []
    for pk, rollout in now.rollouts.items():
        found.append(("rollout", str(pk), _state(then.rollouts.get(pk)), rollout.state))
    for (pk, n), wave in now.waves.items():
        found.append(("wave", f"{pk}/{n}", _state(then.waves.get((pk, n))), wave.state))
    for name, job in now.jobs.items():
        found.append(("job", str(name), _state(then.jobs.get(name)), job.state))
    return found


def _needs_approval(seen: Seen, rollout: Rollout, devices: int) -> bool:
    """By the design, not by what the product says: a plan that asks for it, no way back, many devices."""
    plan = seen.watcher.plan(rollout)
    return plan.requires_approval or plan.rollback_to == "none" or devices > settings.APPROVAL_OVER


def _state(row: object) -> str | None:
    return None if row is None else str(row.state)  # type: ignore[attr-defined]


def _of(facts: Facts, device: str, slot: int, kind: str) -> list[JobRow]:
    jobs = [job for job in facts.jobs.values() if (job.device, job.slot, job.kind) == (device, slot, kind)]
    return sorted(jobs, key=lambda job: job.attempt)


def _baseline(facts: Facts, job: JobRow) -> str:
    return next(row.baseline_run for row in facts.members[job.rollout] if row.device == job.device)


def _manifests(seen: Seen) -> dict[str, bool]:
    from ota.models import Manifest

    if not seen.documents:
        return {}
    return dict.fromkeys(Manifest.objects.filter(revoked_at=None).values_list("pk", flat=True), True)


def _check_draw(seen: Seen, pk: UUID) -> None:
    """The draw again, from salt and ids alone: hashes, ranks within a stratum, control before wave 1."""
    salt = bytes(seen.now.rollouts[pk].salt)
    strata: dict[str, list[tuple[str, str, str, int]]] = defaultdict(list)
    named = seen.watcher.plan(seen.now.rollouts[pk]).named
    for row in seen.now.members[pk]:
        if row.arm == Arm.SKIPPED:
            continue
        h = hashlib.sha256(salt + b"\0" + row.device.encode()).hexdigest()[:16]
        assert row.h == h, row.device
        if row.device not in named:
            order = "0" if row.arm == Arm.CONTROL else f"1{row.wave:03d}"
            strata[row.stratum].append((h, row.device, order, row.rank))
    for rows in strata.values():
        rows.sort()
        assert [rank for *_, rank in rows] == list(range(len(rows))), "ranks do not follow the hashes"
        orders = [order for _, _, order, _ in rows]
        assert orders == sorted(orders), "control and waves are not the first ranks in turn"
