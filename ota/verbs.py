"""Which verbs a rollout's state and a person's role allow: one table for REST, console and verbs."""

from __future__ import annotations

from fleet.accounts.models import Role
from ota import approval, operations
from ota.backoff import retryable
from ota.choices import RolloutState as R
from ota.choices import WaveState
from ota.models import Rollout

VERBS: dict[str, tuple[str, ...]] = {
    R.DRAFT: ("edit", "submit", "preflight", "cancel"),
    R.PREFLIGHT: ("cancel",),
    R.PREFLIGHT_FAILED: ("edit", "cancel"),
    R.AWAITING_APPROVAL: ("approve", "reject", "edit", "cancel"),
    R.SCHEDULED: ("edit", "cancel"),
    R.READY: ("start", "edit", "cancel"),
    R.RUNNING: ("pause", "abort", "rollback"),
    R.PAUSED: ("resume", "abort", "rollback"),
    R.HALTED: ("resume", "override", "abort", "rollback"),
    R.ABORTING: (),
    R.ABORTED: (),
    R.ROLLING_BACK: (),
    R.ROLLED_BACK: (),
    R.ROLLBACK_INCOMPLETE: (),
    R.COMPLETED: ("create-revert",),
    R.SUPERSEDED: (),
    R.CANCELLED: (),
    R.REJECTED: (),
}
"""`preflight` is `submit` under its older name."""
_SECOND = frozenset({"approve", "reject", "override"})


def verbs(rollout: Rollout) -> list[str]:
    """What this rollout's state allows, whoever asks.

    `start` is asked for once. `override` needs a wave without a PASS, `rollback` a plan that leaves a way
    back, `retry-failed` a device that another attempt may help; a halt that names no evidence (a revoked key)
    allows neither `resume` nor `override`.
    """
    names = list(VERBS[rollout.state])
    if rollout.state == R.READY and operations.wanted(rollout.pk, rollout.rev) is not None:
        names.remove("start")
    if rollout.plan.get("rollback_to") == "none" and "rollback" in names:
        names.remove("rollback")
    if rollout.state == R.HALTED and rollout.halted_on_id is None:
        names = [name for name in names if name not in ("resume", "override")]
    if rollout.state == R.RUNNING and rollout.waves.filter(state=WaveState.INCONCLUSIVE).exists():
        names.append("override")
    if rollout.state in (R.RUNNING, R.PAUSED) and retryable(rollout).exists():
        names.append("retry-failed")
    return names


def allowed(rollout: Rollout, role: str = Role.ADMIN, *, person: str = "") -> list[str]:
    """What a person of this role may ask for now. Stopping is cheap, going on against evidence is not.

    viewer: nothing. operator: all but approve, reject, override and resume after a halt. approver: only
    those. admin: all. person: who asks; the authors of the plan are no second person. "" leaves that out.
    """
    names = verbs(rollout)
    second = [name for name in names if name in _SECOND or (name == "resume" and rollout.state == R.HALTED)]
    others = [name for name in names if name not in second]
    if person and person in approval.authors(rollout):
        second = []
    both = [name for name in names if name in second or name in others]
    return (
        {Role.ADMIN: both, Role.OPERATOR: others, Role.APPROVER: second}.get(Role(role), []) if role else []
    )
