"""When a failed attempt is tried again: only codes that a second try can heal, a few times, backed off."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

from ota.choices import JobState
from ota.gates.failures import RETRYABLE_ONCE, failure_class
from ota.plan import Plan

_RETRIED = frozenset({"delivery", "policy"})


def retry_at(state: str, code: str, *, attempts: int, key: str, plan: Plan, now: datetime) -> datetime | None:
    """When a device whose attempt ended in `state` with `code` is offered the manifest again; None = never.

    attempts: attempts of the device in this rollout, this one included. key: anything that names the attempt;
    it fixes the jitter of +-50 %, so that the answer does not depend on who asks. `security`, `compat` and
    `model` failures are never retried; `flash_io` and the `policy` codes once.
    """
    if state not in (JobState.FAILED, JobState.REJECTED, JobState.TIMED_OUT):
        return None
    if failure_class(state, code) not in _RETRIED:
        return None
    if attempts >= (2 if code in RETRYABLE_ONCE else plan.max_attempts):
        return None
    jitter = hashlib.sha256(key.encode()).digest()[0] / 255.0  # 0..1
    return now + timedelta(seconds=plan.retry_base_s * 4.0 ** (attempts - 1) * (0.5 + jitter))
