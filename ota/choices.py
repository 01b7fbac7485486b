"""States of versions, rollouts, waves and device jobs: value, label, tone, terminal flag and edges, once.

The console, the REST API, the gates and the diagrams read these tables; a transition that is not an edge here
cannot be made (`ota.transitions`).
"""

from django.db import models


class Tone(models.TextChoices):
    """How a state looks: an icon and a colour pair."""

    NEUTRAL = "neutral", "Neutral"
    ACTIVE = "active", "Active"
    GOOD = "good", "Good"
    ATTENTION = "attention", "Attention"
    BAD = "bad", "Bad"


class VersionState(models.TextChoices):
    """A model version from upload to the broker."""

    UPLOADED = "uploaded", "Uploaded"
    INSPECTING = "inspecting", "Inspecting"
    REFUSED = "refused", "Refused"
    UNPROVEN = "unproven", "Unproven"
    FITS = "fits", "Fits"
    SIGNED = "signed", "Signed"
    STAGING = "staging", "Staging"
    STAGED = "staged", "Staged"
    YANKED = "yanked", "Yanked"


class VerdictKind(models.TextChoices):
    """Preflight's answer for one device class."""

    PASS = "pass", "Pass"
    REFUSE = "refuse", "Refused"
    UNPROVEN = "unproven", "Unproven"


class StagingState(models.TextChoices):
    """Where a manifest's chunks are."""

    PENDING = "pending", "Pending"
    STAGING = "staging", "Staging"
    STAGED = "staged", "Staged"
    FAILED = "failed", "Failed"
    COLLECTED = "collected", "Collected"


class RolloutState(models.TextChoices):
    """A rollout as a whole."""

    DRAFT = "draft", "Draft"
    PREFLIGHT = "preflight", "Preflight"
    PREFLIGHT_FAILED = "preflight_failed", "Preflight failed"
    AWAITING_APPROVAL = "awaiting_approval", "Awaiting approval"
    SCHEDULED = "scheduled", "Scheduled"
    READY = "ready", "Ready"
    RUNNING = "running", "Running"
    PAUSED = "paused", "Paused"
    HALTED = "halted", "Halted"
    ABORTING = "aborting", "Aborting"
    ABORTED = "aborted", "Aborted"
    ROLLING_BACK = "rolling_back", "Rolling back"
    ROLLED_BACK = "rolled_back", "Rolled back"
    ROLLBACK_INCOMPLETE = "rollback_incomplete", "Rollback incomplete"
    COMPLETED = "completed", "Completed"
    SUPERSEDED = "superseded", "Superseded"
    CANCELLED = "cancelled", "Cancelled"
    REJECTED = "rejected", "Rejected"


class WaveState(models.TextChoices):
    """One step of a rollout."""

    PENDING = "pending", "Pending"
    OPEN = "open", "Open"
    SOAKING = "soaking", "Soaking"
    EVALUATING = "evaluating", "Evaluating"
    PASSED = "passed", "Passed"
    FAILED = "failed", "Failed"
    INCONCLUSIVE = "inconclusive", "Inconclusive"
    OVERRIDDEN = "overridden", "Overridden"
    CANCELLED = "cancelled", "Cancelled"


class JobState(models.TextChoices):
    """One device x slot x attempt."""

    QUEUED = "queued", "Queued"
    OFFERED = "offered", "Offered"
    ACCEPTED = "accepted", "Accepted"
    DOWNLOADING = "downloading", "Downloading"
    VERIFYING = "verifying", "Verifying"
    STAGED = "staged", "Staged"
    TRIAL = "trial", "On trial"
    DEFERRED = "deferred", "Deferred"
    CANCELLING = "cancelling", "Cancelling"
    CONFIRMED = "confirmed", "Confirmed"
    REJECTED = "rejected", "Rejected"
    FAILED = "failed", "Failed"
    SELF_REVERTED = "self_reverted", "Reverted itself"
    TIMED_OUT = "timed_out", "Timed out"
    CANCELLED = "cancelled", "Cancelled"
    SUPERSEDED = "superseded", "Superseded"
    SKIPPED = "skipped", "Skipped"
    REMOVED = "removed", "Removed"


class Verdict(models.TextChoices):
    """A gate's or a wave's answer. Missing evidence is never a pass."""

    PASS = "pass", "Pass"
    FAIL = "fail", "Fail"
    INCONCLUSIVE = "inconclusive", "Inconclusive"


class Decision(models.TextChoices):
    """What a second person said: to a submission, or to going on against evidence."""

    APPROVE = "approve", "Approved"
    REJECT = "reject", "Rejected"
    RESUME = "resume", "Resumed"
    OVERRIDE = "override", "Overridden"


class Arm(models.TextChoices):
    """Frozen membership of a device in a rollout."""

    CONTROL = "control", "Control"
    WAVE = "wave", "Wave"
    SKIPPED = "skipped", "Skipped"


class OperationState(models.TextChoices):
    """Work that a verb left to the workers."""

    QUEUED = "queued", "Queued"
    RUNNING = "running", "Running"
    SUCCEEDED = "succeeded", "Succeeded"
    FAILED = "failed", "Failed"
    CANCELLED = "cancelled", "Cancelled"


OPERATION_LIVE = frozenset({OperationState.QUEUED, OperationState.RUNNING})

R, W, J = RolloutState, WaveState, JobState

ROLLOUT_EDGES: dict[str, frozenset[str]] = {
    R.DRAFT: frozenset({R.PREFLIGHT, R.CANCELLED}),
    R.PREFLIGHT: frozenset({R.AWAITING_APPROVAL, R.SCHEDULED, R.READY, R.PREFLIGHT_FAILED, R.CANCELLED}),
    R.PREFLIGHT_FAILED: frozenset({R.DRAFT, R.CANCELLED}),
    R.AWAITING_APPROVAL: frozenset({R.SCHEDULED, R.READY, R.REJECTED, R.DRAFT, R.CANCELLED}),
    R.SCHEDULED: frozenset({R.READY, R.DRAFT, R.CANCELLED}),
    R.READY: frozenset({R.RUNNING, R.DRAFT, R.CANCELLED}),
    R.RUNNING: frozenset({R.PAUSED, R.HALTED, R.ABORTING, R.ROLLING_BACK, R.COMPLETED}),
    R.PAUSED: frozenset({R.RUNNING, R.HALTED, R.ABORTING, R.ROLLING_BACK}),
    R.HALTED: frozenset({R.RUNNING, R.ABORTING, R.ROLLING_BACK}),
    R.ABORTING: frozenset({R.ABORTED, R.SUPERSEDED}),
    R.ROLLING_BACK: frozenset({R.ROLLED_BACK, R.ROLLBACK_INCOMPLETE}),
    R.ROLLBACK_INCOMPLETE: frozenset({R.ROLLED_BACK}),
    R.ABORTED: frozenset(),
    R.ROLLED_BACK: frozenset(),
    R.COMPLETED: frozenset(),
    R.SUPERSEDED: frozenset(),
    R.CANCELLED: frozenset(),
    R.REJECTED: frozenset(),
}

_WAVE_LIVE = frozenset({W.CANCELLED, W.FAILED})
WAVE_EDGES: dict[str, frozenset[str]] = {
    W.PENDING: frozenset({W.OPEN, W.CANCELLED}),
    W.OPEN: frozenset({W.SOAKING, W.EVALUATING}) | _WAVE_LIVE,
    W.SOAKING: frozenset({W.EVALUATING}) | _WAVE_LIVE,
    W.EVALUATING: frozenset({W.PASSED, W.INCONCLUSIVE}) | _WAVE_LIVE,
    W.INCONCLUSIVE: frozenset({W.SOAKING, W.OVERRIDDEN}) | _WAVE_LIVE,
    # a verdict stays when its rollout is aborted or taken back: only a wave without one is cancelled
    W.FAILED: frozenset({W.OPEN, W.OVERRIDDEN}),
    W.PASSED: frozenset(),
    W.OVERRIDDEN: frozenset(),
    W.CANCELLED: frozenset(),
}

# A report may skip steps, so a job moves to any later state of the path; it never moves back on it.
_JOB_PATH = (J.OFFERED, J.ACCEPTED, J.DOWNLOADING, J.VERIFYING, J.STAGED, J.TRIAL)
_JOB_ENDS = frozenset({J.CONFIRMED, J.REJECTED, J.FAILED, J.SELF_REVERTED, J.TIMED_OUT, J.REMOVED})
JOB_EDGES: dict[str, frozenset[str]] = {
    J.QUEUED: frozenset({J.OFFERED, J.CANCELLED, J.SUPERSEDED, J.SKIPPED, J.REMOVED}),
    **{
        state: frozenset(_JOB_PATH[i + 1 :]) | _JOB_ENDS | {J.DEFERRED, J.CANCELLING}
        for i, state in enumerate(_JOB_PATH[:-1])
    },
    # cancelled: a withdrawal that lost the race against the trial, and took effect right after it
    J.TRIAL: _JOB_ENDS | {J.CANCELLED, J.SUPERSEDED},
    J.DEFERRED: frozenset(_JOB_PATH[1:]) | _JOB_ENDS | {J.CANCELLING},
    # a withdrawal that nobody acknowledged ends as cancelled, with the code that says so: never timed_out
    J.CANCELLING: frozenset({J.CANCELLED, J.SUPERSEDED, J.QUEUED, J.TRIAL}) | (_JOB_ENDS - {J.TIMED_OUT}),
    # a terminal job leaves only because the device's inventory says otherwise, or the device is removed
    J.CONFIRMED: frozenset({J.SELF_REVERTED, J.REMOVED}),
    J.TIMED_OUT: frozenset({J.CONFIRMED, J.REMOVED}),
    J.CANCELLED: frozenset({J.CONFIRMED, J.REMOVED}),
    J.REJECTED: frozenset({J.REMOVED}),
    J.FAILED: frozenset({J.REMOVED}),
    J.SELF_REVERTED: frozenset({J.REMOVED}),
    J.SUPERSEDED: frozenset({J.REMOVED}),
    J.SKIPPED: frozenset({J.REMOVED}),
    J.REMOVED: frozenset(),
}

ROLLOUT_TERMINAL = frozenset({R.ABORTED, R.ROLLED_BACK, R.COMPLETED, R.SUPERSEDED, R.CANCELLED, R.REJECTED})
ROLLOUT_LIVE = frozenset({R.RUNNING, R.PAUSED, R.HALTED, R.ABORTING, R.ROLLING_BACK, R.ROLLBACK_INCOMPLETE})
WAVE_TERMINAL = frozenset({W.PASSED, W.OVERRIDDEN, W.CANCELLED})
JOB_TERMINAL = _JOB_ENDS | {J.CANCELLED, J.SUPERSEDED, J.SKIPPED}
JOB_IN_FLIGHT = frozenset(_JOB_PATH) | {J.CANCELLING}  # what `max_in_flight` counts
JOB_WITHDRAWABLE = frozenset(_JOB_PATH[:-1]) | {J.DEFERRED}  # a newer desired document takes the offer back
WAVE_ACTIVE = frozenset({W.OPEN, W.SOAKING, W.EVALUATING, W.INCONCLUSIVE})

N, A, G, T, B = Tone.NEUTRAL, Tone.ACTIVE, Tone.GOOD, Tone.ATTENTION, Tone.BAD
TONES: dict[str, dict[str, Tone]] = {
    "rollout": {
        R.DRAFT: N, R.SCHEDULED: N, R.READY: N, R.CANCELLED: N, R.SUPERSEDED: N, R.PREFLIGHT: A, R.RUNNING: A,
        R.ABORTING: A, R.ROLLING_BACK: A, R.COMPLETED: G, R.AWAITING_APPROVAL: T, R.PAUSED: T, R.ABORTED: T,
        R.ROLLED_BACK: T, R.ROLLBACK_INCOMPLETE: T, R.PREFLIGHT_FAILED: B, R.HALTED: B, R.REJECTED: B,
    },
    "wave": {
        W.PENDING: N, W.CANCELLED: N, W.OPEN: A, W.SOAKING: A, W.EVALUATING: A, W.PASSED: G,
        W.INCONCLUSIVE: T, W.FAILED: B, W.OVERRIDDEN: B,
    },
    "job": {
        J.QUEUED: N, J.SKIPPED: N, J.CANCELLED: N, J.SUPERSEDED: N, J.REMOVED: N, J.OFFERED: A, J.ACCEPTED: A,
        J.DOWNLOADING: A, J.VERIFYING: A, J.STAGED: A, J.TRIAL: A, J.CANCELLING: A, J.CONFIRMED: G,
        J.DEFERRED: T, J.REJECTED: B, J.FAILED: B, J.SELF_REVERTED: B, J.TIMED_OUT: B,
    },
    "version": {
        VersionState.UPLOADED: N, VersionState.YANKED: N, VersionState.INSPECTING: A, VersionState.STAGING: A,
        VersionState.FITS: G, VersionState.SIGNED: G, VersionState.STAGED: G, VersionState.UNPROVEN: T,
        VersionState.REFUSED: B,
    },
    "staging": {
        StagingState.PENDING: N, StagingState.COLLECTED: N, StagingState.STAGING: A, StagingState.STAGED: G,
        StagingState.FAILED: B,
    },
    "verdict": {VerdictKind.PASS: G, VerdictKind.REFUSE: B, VerdictKind.UNPROVEN: T},
    "gate": {Verdict.PASS: G, Verdict.FAIL: B, Verdict.INCONCLUSIVE: T},
}  # fmt: skip
