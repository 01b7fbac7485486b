"""How the machine calls each verb of a rollout: a new verb of `ota.verbs` is one line here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from fleet.accounts.audit import Actor
from fleet.accounts.models import AuditEvent
from ota import approval, evidence, rollouts
from ota.choices import JOB_WITHDRAWABLE, WAVE_TERMINAL
from ota.models import Job, Rollout
from ota.verbs import VERBS
from tests.ota.machines import plans

PERSON = Actor("user", "olga")
SECOND = Actor("user", "dana")
"""Approves, and goes on against evidence, unless she wrote some of the plan."""
THIRD = Actor("user", "tove")
"""Never writes a plan: stands in for `SECOND` then."""
TOKEN = Actor("token", "olga/tfk_0123")
"""The author through a token."""
AUTHOR, STALE, EDITOR = 3, 4, 5
APPROVED_BY_SECOND = 4
"""The edit by `SECOND` after which the plan asks for an approval."""
EDITED_BY_SECOND = (1, APPROVED_BY_SECOND)
Call = Callable[[Rollout, datetime, int], Any]
"""(rollout, now, choice): choice is a small number that picks between ways of asking."""


def _evidence(rollout: Rollout) -> Any:
    """The evidence a person would acknowledge: what halted the rollout, else the open wave's newest."""
    rollout.refresh_from_db()
    if rollout.halted_on_id:
        return rollout.halted_on_id
    wave = rollout.waves.exclude(state__in=WAVE_TERMINAL).order_by("n").first()
    row = evidence.newest(wave) if wave is not None else None
    return row.pk if row else None


def _second(rollout: Rollout) -> Actor:
    """Somebody who wrote nothing of the plan, as the audit trail has it."""
    about = AuditEvent.objects.filter(subject_kind="rollout", subject_id=str(rollout.pk), actor=SECOND.name)
    return THIRD if about.filter(verb__in=("rollout.draft", "rollout.edit"), reason="").exists() else SECOND


def _with(verb: Callable[..., Any], **more: Any) -> Call:
    return lambda rollout, now, _choice: verb(rollout, actor=PERSON, now=now, **more)


def _approve(rollout: Rollout, now: datetime, choice: int) -> Any:
    """Approve what was submitted last, as it was read; the digests of nothing when there is none.

    choice: 3 = the author says it through a token, 4 = what was read is another plan, 5 = `SECOND` says it
    whatever she wrote.
    """
    read = approval.facts(rollout)["submission"] or {}
    names = ("manifest_sha256", "plan_digest", "target_digest")
    digests = {name: read.get(name, "") for name in names}
    if choice == STALE:
        digests["plan_digest"] = "ab" * 32
    actor = {AUTHOR: TOKEN, EDITOR: SECOND}.get(choice) or _second(rollout)
    return rollouts.approve(rollout, actor=actor, now=now, **digests)


CALLS: dict[str, Call] = {
    "submit": _with(rollouts.submit),
    "preflight": _with(rollouts.run_preflight),
    "approve": _approve,
    "reject": lambda r, now, _: rollouts.reject(r, actor=_second(r), now=now, reason="because"),
    "start": _with(rollouts.start),
    "edit": lambda r, now, n: rollouts.edit(
        r, actor=SECOND if n in EDITED_BY_SECOND else PERSON, now=now, plan=plans.PLANS[n % len(plans.PLANS)]
    ),
    "cancel": _with(rollouts.cancel, reason="because"),
    "pause": lambda r, now, n: rollouts.pause(
        r, actor=PERSON, now=now, reason="because", finish_in_flight=n % 3 == 2
    ),
    "resume": lambda r, now, _: rollouts.resume(
        r, actor=_second(r), now=now, reason="because", ack_evidence=_evidence(r)
    ),
    "override": lambda r, now, _: rollouts.override(
        r, actor=_second(r), now=now, reason="because", ack_evidence=_evidence(r)
    ),
    "abort": _with(rollouts.abort, reason="because"),
    "rollback": _with(rollouts.rollback, reason="because"),
    "retry-failed": _with(rollouts.retry_failed, reason="because"),
    "create-revert": _with(rollouts.create_revert, reason="because"),
}
KNOWN = frozenset(name for names in VERBS.values() for name in names) | {"override", "retry-failed"}
"""Every verb there is; `test_machines` compares it with CALLS."""


def check_after(verb: str, rollout: Rollout, choice: int) -> None:
    """What must hold when a verb has returned: stopping takes back every offer whose trial is not begun."""
    assert not (verb == "approve" and choice in (AUTHOR, STALE)), "approved by its author, or unread"
    if verb in ("pause", "abort", "rollback") and not (verb == "pause" and choice % 3 == 2):
        left = Job.objects.filter(rollout=rollout, kind="install", state__in=JOB_WITHDRAWABLE)
        assert not left.exists(), f"{verb} left offers out: {list(left)}"
